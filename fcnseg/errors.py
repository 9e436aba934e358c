"""All errors that fcnseg raises, and text for messages.

    FcnsegError
    ├── InputError           an input (a path, an image, a stream) can't be used
    │   ├── MediaError       an image or a video can't be read or written
    │   ├── DatasetError     a dataset folder can't be trained or scored on
    │   └── CheckpointError  a model file can't be loaded
    ├── OptionError          an option's value is wrong, or options contradict each other
    ├── MissingExtra         an optional package is needed
    ├── TrainingError        training cannot continue
    ├── SomeFailed           some inputs failed, the rest is done
    ├── FailedElsewhere      another process of the job failed and reports the error
    └── Interrupted          interrupted by the user; finished work is saved

Each has a message (what was found, what was expected) and a hint (what to do).
The command line prints the message and sets the exit status; the library never prints.

The functions below the classes prepare names of files and classes for messages. A name may
contain bytes that are not UTF-8, which Python decodes to lone surrogates (surrogateescape).
"""

from __future__ import annotations

import codecs
import csv
import difflib
import errno
import os
import re
import shlex
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class FcnsegError(Exception):
    """Base class of all errors of fcnseg.

        try:
            fcnseg.load("missing.safetensors")
        except fcnseg.FcnsegError as error:
            print(error.message, error.hint)

    message: what was found and what was expected, one or two sentences.
    hint: what the user can do about it, or "".
    details: further findings, one sentence each.
    """

    exit_status = 1

    def __init__(self, message: str, *, hint: str = "", details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = tuple(details)

    def __str__(self) -> str:
        hint = [f"hint: {self.hint}"] if self.hint else []
        return "\n".join([self.message, *self.details, *hint])


class InputError(FcnsegError, ValueError):
    """An input can't be used."""


class MediaError(InputError, OSError):
    """An image or a video can't be read or written."""

    # OSError defines its own __str__, for (errno, strerror).
    __str__ = FcnsegError.__str__


class DatasetError(InputError):
    """A dataset folder can't be trained or scored on."""


class CheckpointError(InputError):
    """A model file can't be loaded."""


class OptionError(FcnsegError, ValueError):
    """An option's value is wrong, or options contradict each other."""

    exit_status = 2


class MissingExtra(FcnsegError, ImportError):
    """An optional package is needed: `pip install 'fcnseg[extra]'`."""

    __str__ = FcnsegError.__str__

    def __init__(self, what: str, extra: str) -> None:
        FcnsegError.__init__(
            self,
            f"{what} needs the extra '{extra}', which is not installed.",
            hint=f"pip install 'fcnseg[{extra}]'",
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the message and hint: the constructor takes other arguments."""
        return _missing, (self.message, self.hint)


def _missing(message: str, hint: str) -> MissingExtra:
    error = MissingExtra("", "")
    FcnsegError.__init__(error, message, hint=hint)
    return error


class TrainingError(FcnsegError, RuntimeError):
    """Training cannot continue (the loss is NaN, memory ran out)."""


class SomeFailed(FcnsegError, RuntimeError):
    """Some of the inputs failed; the others are done."""

    exit_status = 3


class FailedElsewhere(FcnsegError, RuntimeError):
    """Another process of the same job has failed; the main process reports why."""

    # A failure here would make torchrun stop the main process before it prints its message.
    exit_status = 0


class Interrupted(FcnsegError, RuntimeError):
    """Interrupted by the user; finished work is saved and usable."""

    exit_status = 130


PARSE_ERRORS = (
    ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, RecursionError, TypeError,
    ValueError, csv.Error,
)  # fmt: skip
"""Exceptions that parsers may raise on a malformed file."""


def reason(error: BaseException) -> str:
    """The text of an exception, for use within a message."""
    if isinstance(error, KeyError):
        return f"{error} is missing"
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, torch, OpenCV, ONNX Runtime or OpenVINO says out of memory."""
    text = str(error).lower()
    phrases = (
        "out of memory", "can't allocate memory", "failed to allocate", "bad alloc",
        "insufficient memory",
    )  # fmt: skip
    return isinstance(error, MemoryError) or any(phrase in text for phrase in phrases)


def closest(wanted: str, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6) -> list[str]:
    """The known names most similar to `wanted`, ignoring case, at most `most`; cutoff: 0..1."""
    spellings = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(wanted.casefold(), spellings, n=most, cutoff=cutoff)
    return [spellings[name] for name in close]


def did_you_mean(wanted: str, known: Iterable[str], otherwise: str = "", *, most: int = 1) -> str:
    """A hint with the names most similar to `wanted`; `otherwise` if there are none."""
    close = closest(wanted, known, most=most)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else otherwise


_ESCAPED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories to escape: a terminal interprets them (controls, text direction) or can't
show them (surrogates)."""

_JOINERS = frozenset("\u200c\u200d")
"""Exceptions: they are part of words and emoji."""

_NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Surrogates that surrogateescape does not use for a byte; JSON may contain them."""


def with_name(name: object, why: str) -> str:
    """ "NAME: WHY", or only `why` if that contains the name."""
    return why if str(name) in why else f"{name}: {why}"


def printable(text: object) -> str:
    r"""Text as one printable line; `\xe9` is a byte of a name that is not UTF-8."""
    return "".join(map(_escaped, str(text)))


_WRITE_HINTS = {
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EISDIR: "name a file; this is a folder",
    errno.ENOSPC: "make space on the disk, or name a place on another one",
    errno.EDQUOT: "your quota is used up: make space, or name a place on another disk",
    errno.EFBIG: "files there have a largest size; ulimit -f shows this shell's",
}


def cannot_read(path: object, error: OSError, kind: type[FcnsegError] = MediaError) -> FcnsegError:
    """The error for a file that can't be opened or read."""
    return kind(f"{path} can't be read: {error.strerror or error}.")


def cannot_write(path: str | Path, error: OSError) -> MediaError:
    """The MediaError for a file that can't be written."""
    if isinstance(error, MediaError):
        return error
    hint = _WRITE_HINTS.get(
        error.errno or 0, "is there space on the disk, and may you write there?"
    )
    return MediaError(f"Can't write {path}: {error.strerror or error}.", hint=hint)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Convert OSErrors in the block to MediaErrors that name the file, except BrokenPipeError."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise cannot_write(path, error) from None


def counted(number: int, what: str) -> str:
    """ "1 file", "3 files", "2 classes": a number and a noun, given in the singular."""
    plural = "es" if what.endswith("s") else "s"
    return f"{number:,} {what}{'' if number == 1 else plural}"


def percent(fraction: float | None, digits: int = 2) -> str:
    """A fraction as a percentage: 0.7751 is "77.51 %"; "-" for None and NaN."""
    if fraction is None or fraction != fraction:  # NaN
        return "-"
    return f"{100 * fraction:.{digits}f} %"


def points(value: float | None, other: float | None) -> str:
    """The signed difference of two fractions in percentage points; "-" if one is None."""
    if value is None or other is None:
        return "-"
    return f"{100 * (value - other):+z.2f}"


def to_bytes(text: str) -> bytes:
    """Text as UTF-8; escaped bytes of file names are restored. `from_bytes` is the inverse."""
    return _NO_BYTE.sub("\ufffd", text).encode("utf-8", "surrogateescape")


def from_bytes(data: bytes) -> str:
    """Decode a text file that may name files: UTF-8 or UTF-16, without its byte-order mark."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace")
    return data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")


def as_text(name: str) -> str:
    """A file's name in UTF-8, whatever the locale, normalized to NFC.

    For comparisons: different spellings of one name become equal.
    """
    if name.isascii():
        return name
    text = to_bytes(name).decode("utf-8", "surrogateescape")
    return unicodedata.normalize("NFC", text)


def to_path(text: str) -> Path:
    """The path for a name in a text file, which is UTF-8 whatever the locale."""
    return Path(os.fsdecode(to_bytes(text)))


class FolderPath(type(Path())):  # type: ignore[misc] # a PosixPath or a WindowsPath
    """A path that was typed with a slash at its end: of a folder, whatever its suffix."""


def user_path(path: str | Path) -> Path:
    """The path with a first part `~` expanded to the home folder; `~.png` is a file's name."""
    if not isinstance(path, Path):
        path = FolderPath(path) if path.endswith((os.sep, "/")) else Path(path)
    return type(path)(os.path.expanduser(path)) if path.parts[:1] == ("~",) else path  # noqa: PTH111 - never raises


def resolved(path: Path) -> Path:
    """The path without symbolic links; only made absolute if a link loops (Python 3.11 raises)."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return path.absolute()


def quoted(path: str | Path) -> str:
    """A path quoted for the shell where necessary."""
    text = str(path)
    if os.name == "nt":
        return f'"{text}"' if " " in text else text
    return shlex.quote(text)


LONGEST_NAME = 255
"""Maximum bytes of a file's name."""

_REMOTE = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:/")


def path_fault(value: object) -> str | None:
    """What was expected of a value that is not a valid path; None if it is valid."""
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else ""
    if not text or not isinstance(text, str):
        return "a path"
    if "\0" in text:
        return "a path without NUL characters"
    parts = [] if _REMOTE.match(text) else Path(text).parts
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in parts):
        return f"a path of names of at most {LONGEST_NAME} bytes: this one is too long"
    return None


def path_of(value: Any, what: str) -> Path:
    """A caller's value as a path; OptionError, which calls it `what`, if it is not valid."""
    needed = path_fault(value)
    if needed is not None:
        raise OptionError(f"{what}: expected {needed}; found {value!r:.60}.")
    return user_path(value)


def is_file(path: Path) -> bool:
    """Whether the file exists; False, too, for a name that no file can have."""
    try:
        return path.is_file()
    except OSError:  # Python 3.11 raises where the name is too long
        return False


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _ESCAPED or character in _JOINERS:
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte decoded by surrogateescape
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
