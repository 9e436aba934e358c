"""Which image files a folder, a glob or a list file stands for, and what they are called.

Names keep the sub-folders, have no suffix and differ, so that outputs can be called by them.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from fcnseg.errors import MediaError
from fcnseg.files import free_name, inputs_in, natural, skipped_outputs
from fcnseg.io.images import IMAGE_SUFFIXES, read_bytes
from fcnseg.progress import Callback, Message, no_callback
from fcnseg.text import from_bytes, to_path

Named = tuple[str, Path]
"""An image's name (relative, no suffix, "/" between folders) and its file."""


def in_folder(
    folder: Path, *, exclude: Path | None = None, callback: Callback = no_callback
) -> list[Named]:
    """The images under a folder, its sub-folders included, in natural order.

    Hidden files and folders are skipped, `exclude` (where outputs go) and earlier outputs, of
    which the callback receives. MediaError when there are none.
    """
    files = files_in(folder, exclude=exclude, callback=callback)
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise no_images(f"{folder} has no images", files)
    return named(images, folder)


def files_in(
    folder: Path, *, exclude: Path | None = None, callback: Callback = no_callback
) -> list[Path]:
    """Every file under a folder but hidden ones, those below `exclude`, and earlier outputs."""
    outputs: list[Path] = []
    files = list(_walk(folder, exclude, outputs))
    skipped = skipped_outputs(outputs, folder)
    if skipped:
        callback(Message(f"{skipped}."))
    return files


def matches(pattern: str) -> list[Path]:
    """The files a pattern stands for; `**` goes into sub-folders."""
    found = (Path(name) for name in glob.glob(pattern, recursive=True))  # noqa: PTH207
    return [path for path in found if path.is_file()]


def no_images(text: str, files: list[Path], *, pattern: bool = False) -> MediaError:
    """The MediaError that says what is there instead of images. pattern: whether it is a glob's."""
    hint = f"image files end in {', '.join(sorted(IMAGE_SUFFIXES)[:12])} ..."
    if pattern and not files:
        hint = f"it starts from {Path.cwd()}; * stays in one folder, ** goes into sub-folders"
    return MediaError(f"{text}: {_what_is_there(files)}.", hint=hint)


def from_list(path: Path) -> list[Named]:
    """The files named in a text file, one a line, in its order.

    Relative paths start from the list's folder, or from the working folder. Empty lines and
    those starting with # are passed over.
    """
    data = read_bytes(path)
    if b"\0" in data:  # no name has it
        raise MediaError(f"{path} is not a text file that lists images.")
    lines = [line.strip() for line in from_bytes(data).splitlines()]
    listed = [to_path(line).expanduser() for line in lines if line and not line.startswith("#")]
    if not listed:
        raise MediaError(f"{path} lists no files.", hint="write one image a line")
    beside = [path.parent / file for file in listed]
    pairs = zip(beside, listed, strict=True)
    files = [near if near.exists() or not file.exists() else file for near, file in pairs]
    return named(files, common_folder(files), in_order=True)


def named(files: Iterable[Path], root: Path, *, in_order: bool = False) -> list[Named]:
    """Files with their names relative to `root`, in natural order unless they have an order.

    Where a name would stand for two files, the suffix is added to it: a.png, a.jpg -> a_png, a_jpg.
    """
    ordered = list(files) if in_order else sorted(files, key=natural)
    stems = [_relative(path, root).with_suffix("").as_posix() for path in ordered]
    shared = Counter(stem.casefold() for stem in stems)
    taken: set[str] = set()
    result = []
    for stem, path in zip(stems, ordered, strict=True):
        alone = shared[stem.casefold()] == 1
        wanted = stem if alone else f"{stem}_{path.suffix.lower().removeprefix('.')}"
        result.append((free_name(wanted, taken), path))
    return result


def common_folder(files: Iterable[Path]) -> Path:
    """The deepest folder all files are under."""
    parents = [str(path.absolute().parent) for path in files]
    try:
        return Path(os.path.commonpath(parents))
    except ValueError:  # several drives
        return Path("/")


def _walk(folder: Path, exclude: Path | None, outputs: list[Path]) -> Iterator[Path]:
    """Every file under a folder; folders of earlier outputs are added to `outputs`."""
    hidden = (".", "__MACOSX")
    left_out = exclude.resolve() if exclude is not None else None
    for place, folders, files in os.walk(folder):
        here = Path(place)
        theirs = inputs_in(here, files) if here != folder else None
        if theirs is not None:
            outputs.append(here)
            folders.clear()
            images = IMAGE_SUFFIXES
            files = [name for name in theirs if Path(name).suffix.lower() in images]
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(hidden) and (here / name).resolve() != left_out
        )
        yield from (here / name for name in files if not name.startswith("."))


def _relative(path: Path, root: Path) -> Path:
    try:
        return path.absolute().relative_to(root.absolute())
    except ValueError:
        return Path(path.name)


def _what_is_there(files: list[Path]) -> str:
    if not files:
        return "there are no files"
    kinds = Counter(path.suffix.lower() or "no suffix" for path in files)
    return "found " + ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common(5))
