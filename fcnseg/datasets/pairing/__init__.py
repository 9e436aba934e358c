"""Images paired with their labels. Here: the files of a dataset folder, listed once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fcnseg.files import inputs_in, skipped_outputs
from fcnseg.io.images import IMAGE_SUFFIXES
from fcnseg.progress import Callback, Message, no_callback


@dataclass(frozen=True, eq=False)
class Listing:
    """Every file under a folder.

    files: paths relative to root, "/" between parts, in a fixed order. Text, because a
    folder of 100,000 pairs has 200,000 of them.
    """

    root: Path
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def path(self, name: str) -> Path:
        """Where a listed file is."""
        return self.root / name

    @cached_property
    def images(self) -> tuple[str, ...]:
        """The files whose suffix says they are images."""
        return tuple(name for name in self.files if is_image(name))

    def with_suffix(self, *suffixes: str) -> tuple[str, ...]:
        """The files with one of these suffixes (lower case)."""
        return tuple(name for name in self.files if suffix_of(name) in suffixes)

    def named(self, *names: str) -> tuple[str, ...]:
        """The files with one of these names (lower case), those nearest to the root first."""
        hits = [name for name in self.files if name.rpartition("/")[2].lower() in names]
        return tuple(sorted(hits, key=lambda name: name.count("/")))

    def only(self, files: Sequence[str]) -> Listing:
        """The same folder with some of its files."""
        return Listing(self.root, tuple(files))


def list_folder(root: Path, callback: Callback = no_callback) -> Listing:
    """Every file under a folder but hidden ones, what macOS adds to archives and earlier outputs.

    The callback receives a Message about the latter.
    """
    outputs: list[Path] = []
    files = tuple(_walk(root, outputs))
    skipped = skipped_outputs(outputs, root)
    if skipped:
        callback(Message(f"{skipped}."))
    return Listing(root, files)


def suffix_of(name: str) -> str:
    """A path's suffix in lower case, with the dot."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > name.rfind("/") + 1 else ""


def stem_of(name: str) -> str:
    """A path's last part without its suffix."""
    base = name[name.rfind("/") + 1 :]
    dot = base.rfind(".")
    return base[:dot] if dot > 0 else base


def is_image(name: str) -> bool:
    """Whether a file's suffix says it is an image."""
    return suffix_of(name) in IMAGE_SUFFIXES


def _walk(root: Path, outputs: list[Path]) -> Iterator[str]:
    """The names of all files; folders of earlier outputs are added to `outputs`."""
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)  # noqa: PTH118, RUF100 - a link may lead in a circle
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        theirs = inputs_in(Path(folder), names) if folder != str(root) else None
        if theirs is not None:
            outputs.append(Path(folder))
            folders.clear()
            names = [name for name in theirs if is_image(name)]
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__MACOSX")
        below = Path(folder).relative_to(root).as_posix()
        prefix = "" if below == "." else f"{below}/"
        yield from (prefix + name for name in sorted(names) if not name.startswith("."))
