"""Protect files from being overwritten: inputs of a command, and files fcnseg did not write.

Every command that writes calls `refuse_overwriting` once it knows its inputs and outputs, before
it reads or writes. Output folders are marked by a manifest, so that a later command neither reads
them as inputs nor overwrites the user's files in them.
"""

from __future__ import annotations

import functools
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fcnseg.errors import (
    PARSE_ERRORS,
    FolderPath,
    OptionError,
    cannot_write,
    counted,
    quoted,
    resolved,
)
from fcnseg.files import NonLocalPath, atomic_write, is_special, is_stdout, kind_of

MANIFEST = "manifest.jsonl"
TRAINING = "config.toml"
_FIRST_LINE = "# fcnseg train"
_HEADING = "fcnseg"  # key of a manifest's first line
_ENTRY_KEYS = {"name", "job", "stamp"}


def mark(folder: Path, files: Sequence[str] = (), not_there: Sequence[str] = ()) -> None:
    """Write a manifest that marks a folder of outputs; OptionError for another file of its name.

    files: images written directly in it; not_there: listed files that are not in it. MediaError.
    """
    path = folder / MANIFEST
    refuse_folder_of_others(folder)
    known = _heading(path)
    listed = frozenset((*(known or ()), *files)).difference(not_there)
    if known == listed:
        return
    heading = json.dumps({_HEADING: "outputs", "files": sorted(listed)}) + "\n"
    try:
        if known is not None:
            first, _, rest = path.read_bytes().lstrip().partition(b"\n")
            entry = b"" if _HEADING in json.loads(first) else first + b"\n"
            with atomic_write(path) as whole:
                whole.write(heading.encode() + entry + rest)
            return
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("w" if isinstance(path, NonLocalPath) else "a", encoding="utf-8") as out:
            out.write(heading)
    except OSError as error:
        raise cannot_write(path, error) from None


def refuse_folder_of_others(folder: Path, kinds: Sequence[str] = ()) -> None:
    """OptionError for a manifest.jsonl, or files in its subfolders, not written by fcnseg.

    kinds: the subfolders and files to be written; labels or coco.json may be part of a dataset.
    """
    path = folder / MANIFEST
    if _heading(path) is not None:
        return
    places = (folder / kind for kind in kinds)
    used = (p for p in places if p.is_file() or (p.is_dir() and any(p.iterdir())))
    if taken := [path] if path.exists() else list(used):
        raise _not_ours(taken[0])


def refuse_taken(folder: Path) -> Callable[[Path], None]:
    """A check to call before writing a file: OptionError if it exists and is not an own output."""
    ours = _heading(folder / MANIFEST) is not None
    made: set[Path] = set()

    def refuse(path: Path) -> None:
        if not ours and path not in made and path.exists():
            raise _not_ours(path)
        made.add(path)

    return refuse


def refuse_files_of_others(folder: Path, files: Sequence[Path]) -> None:
    """OptionError for files to be written in a folder whose manifest does not list them."""
    ours = _heading(folder / MANIFEST) or ()
    if other := next((file for file in files if file.name not in ours), None):
        raise _not_ours(other)


def _not_ours(path: Path, hint: str = "name another folder for the outputs") -> OptionError:
    return OptionError(f"{path} already exists and was not written by fcnseg.", hint=hint)


def inputs_in(folder: Path, files: Sequence[str]) -> list[str] | None:
    """The files of an output folder that fcnseg did not write; None for any other folder.

    Outputs are in its subfolders, listed in its manifest, or not images; the user's own images may
    be beside them. files: names of all files in it; without a manifest or config.toml among them
    nothing is read.
    """
    if MANIFEST in files and (ours := _heading(folder / MANIFEST)) is not None:
        return [name for name in files if name not in ours]
    if TRAINING in files:
        with suppress(OSError):
            text = (folder / TRAINING).read_text(encoding="utf-8", errors="replace")
            return list(files) if text.startswith(_FIRST_LINE) else None
    return None


def refuse_among_images(what: str, path: Path, root: Path) -> None:
    """OptionError for an image to be written inside a dataset, unless in an output folder there."""
    folder = path.parent
    names = os.listdir(folder) if folder.is_dir() else []  # noqa: PTH208
    if names and is_below(path, root) and inputs_in(folder, names) is None:
        raise OptionError(
            f"{what} {path} is inside the dataset {root}: it would be taken for a part of it.",
            hint="name a place outside, or in a new folder: "
            f"{what} {quoted(folder / 'check' / path.name)}",
        )


def skipped_outputs(folders: Iterable[Path], root: Path) -> str:
    """The message about skipped output folders below a source; "" when there are none."""
    names = [folder.relative_to(root).as_posix() for folder in folders]
    if not names:
        return ""
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"Skipped {counted(len(names), 'folder')} of earlier outputs in {root}: {shown}"


def _heading(path: Path) -> frozenset[str] | None:
    """The files listed in a manifest's first line; None when fcnseg did not write the manifest."""
    with suppress(OSError, *PARSE_ERRORS), path.open(encoding="utf-8") as file:
        line = next((line for line in file if line.strip()), "{}")
        found = json.loads(line)
        if isinstance(found, dict) and (_HEADING in found or found.keys() >= _ENTRY_KEYS):
            return frozenset(found.get("files", ()))
    return None


Named = tuple[str, Path]
"""The role of a path and the path: ("--out", Path("a.png")), ("the model", ...)."""


def refuse_overwriting(
    outputs: Iterable[Named], inputs: Iterable[Named], *, kept: Iterable[Named] = ()
) -> None:
    """OptionError when an output is an input, or a folder that contains one.

    Paths are compared through links, by the file's identity and ignoring case. kept: files that may
    be in an output folder (a model, a config), but not overwritten. Two equal outputs are refused.
    """
    places = [_Output(what, path) for what, path in outputs]
    _refuse_twice(places)
    real_folder: Callable[[str], str] = functools.cache(os.path.realpath)
    for named, may_hold in ((inputs, False), (kept, True)):
        for role, given in named:
            where = _places(given, real_folder)
            for output in places:
                output.refuse(role, given, where, may_hold=may_hold)


_SUFFIXES = {
    "--html": (".html", ".htm"),
    "--contact": (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"),
    **dict.fromkeys(("--csv", "--confusion"), (".csv", ".txt")),
    "--latex": (".tex", ".txt"), "--markdown": (".md", ".markdown", ".txt"),
}  # fmt: skip
"""Suffixes allowed for an option's file; a name without a suffix is allowed, too."""

_RECOGNIZED = ("--html", "--csv", "--confusion", "--latex", "--markdown", "--shares")
"""Options whose files can be recognized, by their first bytes, as written by fcnseg."""


def refuse_unwritable(outputs: Iterable[Named]) -> None:
    """OptionError when an output can't be written; checked at the start, before hours of work.

    Devices, pipes and standard output are accepted; configs refuse "-" for other options.
    """
    for what, path in outputs:
        if is_stdout(path) or is_special(path):
            continue
        suffixes = _SUFFIXES.get(what, ())
        if suffixes and (path.is_dir() or isinstance(path, FolderPath)):
            text = f"{what}: expected a file; {path} is a folder."
            raise OptionError(text, hint=f"name a file in it: *{suffixes[0]}")
        if suffixes and path.suffix and path.suffix.lower() not in suffixes:
            known = ", ".join(suffixes)
            raise OptionError(
                f"{what} {path}: expected a name that ends in {known}; found {path.suffix!r}.",
                hint=f"{what} {quoted(path.with_suffix(suffixes[0]))}",
            )
        if what in _RECOGNIZED and path.is_file() and path.stat().st_size and not _is_own(path):
            raise _not_ours(path, "name another file, or remove this one")
        folder = path if path.is_dir() else path.parent
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        writable = os.access(folder, os.W_OK | os.X_OK)
        if not (folder.is_dir() and writable):
            why = "may not be written to" if folder.is_dir() else "is a file, not a folder"
            text = f"{what} {path} can't be made: {folder} {why}."
            raise OptionError(text, hint="name a place in a folder of yours")


def refuse_file(what: str, path: Path | None) -> None:
    """OptionError for a file, or a name with a file's suffix, where a folder is needed."""
    if path is None or path.is_dir():
        return
    if path.exists() or is_file_name(path):
        place = Path() if is_special(path) else path.parent
        found = kind_of(path) if path.exists() else "named like a file"
        raise OptionError(
            f"{what} {path} is {found}; a folder is needed.",
            hint=f"name a folder, e.g. {what} {quoted(place / (path.stem + '_out'))}",
        )


def is_file_name(path: Path) -> bool:
    """Whether a path that does not exist is named as files are: out.xyz, not run.v2 or out.xyz/."""
    known = r"\.([a-z]{3,4}|7z|bz2|gz|h26[45]|h5|j2k|jp2|m3u8|m4v|md|mp[34]|safetensors|y4m)"
    return not isinstance(path, FolderPath) and bool(re.fullmatch(known, path.suffix.lower()))


_TABLES = (
    b"image,height,width,ignored,", b"image,labels,labelled,predicted,", b"image,A ", b'image,"A ',
    b"true \\ predicted,", b"% needs \\usepackage{booktabs}", b"| Class | IoU |", b'{"index": ',
)  # fmt: skip
"""First bytes of the tables written by eval, compare (fcnseg.report.tables) and infer --shares."""

_PAGE = b'<meta name="generator" content="fcnseg">'
"""Appears near the beginning of every page written by fcnseg.report."""


def is_own_table(path: Path) -> bool:
    """Whether a file is a table written by fcnseg."""
    with suppress(OSError), path.open("rb") as file:
        return file.read(max(map(len, _TABLES))).startswith(_TABLES)
    return False


def _is_own(path: Path) -> bool:
    """Whether fcnseg wrote a file: a table, a page or an output listed in a manifest."""
    if is_own_table(path) or path.name in (_heading(path.parent / MANIFEST) or ()):
        return True
    with suppress(OSError), path.open("rb") as file:
        return _PAGE in file.read(1024)
    return False


def others_in(folder: Path, written: Iterable[Path]) -> list[Named]:
    """Files of a dataset that would be overwritten; .toml files are checked by their writer."""
    return [
        ("a file of the dataset", path)
        for path in written
        if resolved(path).suffix.lower() != ".toml"
        and path.is_file()
        and is_below(path, folder)
        and not _is_own(path)
    ]


def is_below(path: Path, folder: Path) -> bool:
    """Whether a path, with links resolved, is a folder or inside it."""
    real, above = os.path.realpath(path), os.path.realpath(folder)
    return real == above or real.startswith(os.path.join(above, ""))  # noqa: PTH118


@dataclass(frozen=True)
class _Place:
    """A path without links. folded: in the form that ignores case and Unicode normalization."""

    real: str
    folded: str


class _Output:
    """A file or folder to be written; it may exist."""

    def __init__(self, what: str, path: Path) -> None:
        self.what, self.path = what, path
        self.places = _places(path, os.path.realpath)
        self.identity = _identity(path)
        self.is_file = path.is_file()

    def refuse(self, role: str, given: Path, where: Sequence[_Place], *, may_hold: bool) -> None:
        """OptionError when an input, at these places, is this output or inside it."""
        shown = f"{self.what} {self.path}"
        for mine in self.places:
            for theirs in where:
                if mine.folded == theirs.folded:
                    raise self._same(role, given, shown, twin=mine.real != theirs.real)
                below = theirs.folded.startswith(os.path.join(mine.folded, ""))  # noqa: PTH118
                if below and not may_hold:
                    raise OptionError(
                        f"{shown} is a folder that holds {role} {given}: outputs would lie among "
                        "inputs.",
                        hint="name a folder of its own, "
                        f"e.g. {self.what} {quoted(self.path / 'out')}",
                    )
        if self.is_file and self.identity == _identity(given):
            raise self._same(role, given, shown)

    def _same(self, role: str, given: Path, shown: str, *, twin: bool = False) -> OptionError:
        if twin and self.identity != _identity(given):
            found = f"{shown} differs from {role} {given} only in case; not every disk keeps that."
        elif self.path == given:
            found = f"{shown} is {role}: it would be written over."
        else:
            found = f"{shown} is {role} {given} by another name: it would be written over."
        other = f"{self.path.stem or 'out'}_out{self.path.suffix}"
        return OptionError(
            found, hint=f"name another one, e.g. {self.what} {quoted(self.path.parent / other)}"
        )


def _refuse_twice(outputs: Sequence[_Output]) -> None:
    for number, one in enumerate(outputs):
        for other in outputs[:number]:
            if one.what != other.what and one.places[-1].folded == other.places[-1].folded:
                raise OptionError(
                    f"{other.what} and {one.what} would both be written to {one.path}.",
                    hint="name a file for each",
                )


def _places(path: Path, real: Callable[[str], str]) -> list[_Place]:
    """The location of a path and, for a link, its target. real: os.path.realpath."""
    folder, name = os.path.split(os.path.join(os.getcwd(), path))  # noqa: PTH109, PTH118
    if name in ("", ".", ".."):  # what these refer to depends on links in the folder's path
        folder, name = os.path.split(os.path.realpath(path))
    found = [os.path.join(real(folder), name)]  # noqa: PTH118
    if os.path.islink(path):  # noqa: PTH114
        found.append(os.path.realpath(path))
    return [_Place(one, unicodedata.normalize("NFC", one).casefold()) for one in found]


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode, equal for two names of one file; None if it does not exist."""
    with suppress(OSError):
        found = path.stat()
        return found.st_dev, found.st_ino
    return None
