"""Folders that hold earlier outputs, and what in them is somebody's own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from fcnseg.errors import MediaError, OptionError, counted
from fcnseg.files import NonLocalPath

MANIFEST = "manifest.jsonl"

TRAINING = "config.toml"

_FIRST_LINE = "# fcnseg train"

_HEADING = "fcnseg"  # the key of a manifest's heading

_IN_A_LINE = {"name", "job", "stamp"}


def mark(folder: Path, files: Sequence[str] = ()) -> None:
    """Say in a manifest that a folder holds outputs. files: images among them that lie in it.

    OptionError when something else is called so there, MediaError when it can't be written.
    """
    path = folder / MANIFEST
    refuse_foreign(folder)
    if not path.exists():
        mode = "w" if isinstance(path, NonLocalPath) else "a"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with path.open(mode, encoding="utf-8") as out:
                out.write(json.dumps({_HEADING: "outputs", "files": list(files)}) + "\n")
        except OSError as error:
            raise MediaError(
                f"Can't write {path}: {error.strerror or error}.",
                hint="name a place for the outputs that has space and may be written to",
            ) from None


def refuse_foreign(folder: Path, kinds: Sequence[str] = ()) -> None:
    """OptionError for a manifest.jsonl in a folder, or files in its sub-folders, not made by us.

    kinds: the sub-folders that are written to; one called labels may be a dataset's.
    """
    path = folder / MANIFEST
    if _heading(path) is not None:
        return
    used = [folder / kind for kind in kinds if (folder / kind).is_dir()]
    taken = [path] if path.exists() else [place for place in used if any(place.iterdir())]
    if taken:
        raise OptionError(
            f"{taken[0]} is there already, and fcnseg did not write it.",
            hint="name another folder for the outputs",
        )


def inputs_in(folder: Path, files: Sequence[str]) -> list[str] | None:
    """Which of the files in a folder of outputs are not ours; None for any other folder.

    Outputs lie in its sub-folders, or are no images: someone's own images may lie beside them.
    files: the names of all files in it, so that the disk is not asked where none is a mark.
    """
    if MANIFEST in files:
        ours = _heading(folder / MANIFEST)
        if ours is not None:
            return [name for name in files if name not in ours]
    if TRAINING in files:
        with suppress(OSError):
            text = (folder / TRAINING).read_text(encoding="utf-8", errors="replace")
            return list(files) if text.startswith(_FIRST_LINE) else None
    return None


def skipped_outputs(folders: Iterable[Path], root: Path) -> str:
    """What a message says of the folders of outputs below a source; "" when there are none."""
    names = [folder.relative_to(root).as_posix() for folder in folders]
    if not names:
        return ""
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"Skipped {counted(len(names), 'folder')} of earlier outputs in {root}: {shown}"


def _heading(path: Path) -> frozenset[str] | None:
    """The files that a manifest's first line lists; None when it is no manifest of ours."""
    with suppress(OSError, ValueError), path.open(encoding="utf-8") as file:
        line = next((line for line in file if line.strip()), "{}")
        found = json.loads(line)
        if isinstance(found, dict) and (_HEADING in found or found.keys() >= _IN_A_LINE):
            return frozenset(found.get("files", ()))
    return None
