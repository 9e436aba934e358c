"""Every error a user of fcnseg can meet.

    FcnsegError
    ├── InputError           a path, an image, a stream: what was given can't be used
    │   ├── MediaError       an image or a video can't be read or written
    │   ├── DatasetError     a dataset folder can't be trained or scored on
    │   └── CheckpointError  a model file can't be loaded
    ├── OptionError          an option's value is wrong, or options contradict each other
    ├── MissingExtra         an optional package is needed
    ├── TrainingError        training cannot continue
    ├── SomeFailed           some inputs failed, the rest is done
    ├── FailedElsewhere      another process of the job says what went wrong
    └── Interrupted          the user stopped it; what was finished is saved

Each carries a message (what was found, what was expected) and a hint (what to do).
The command line turns them into one message and an exit status; it alone prints.

Below them: names of files and classes, made fit for a message. A name may hold bytes that are
not UTF-8; Python keeps each as half of a surrogate pair.
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
    """What can be wrong with what fcnseg is given: all its own errors are of this class.

        try:
            fcnseg.load("missing.safetensors")
        except fcnseg.FcnsegError as error:
            print(error.message, error.hint)

    message: what was found and what was expected, one or two sentences.
    hint: what the user can do about it, or "" when there is nothing to say.
    details: where there are several things to say, a sentence each.
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
    """What was given can't be used."""


class MediaError(InputError, OSError):
    """An image or a video can't be read or written."""

    # OSError has a __str__ of its own for two arguments; ours has one.
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
        """Between processes: it is made of other arguments than its message."""
        return _missing, (self.message, self.hint)


def _missing(message: str, hint: str) -> MissingExtra:
    error = MissingExtra("", "")
    FcnsegError.__init__(error, message, hint=hint)
    return error


class TrainingError(FcnsegError, RuntimeError):
    """Training cannot continue (the loss is not a number, memory ran out)."""


class SomeFailed(FcnsegError, RuntimeError):
    """Some of the inputs failed; everything else is done."""

    exit_status = 3


class FailedElsewhere(FcnsegError, RuntimeError):
    """Another process of the same job has failed, and the main one says why."""

    exit_status = 0  # torchrun ends the others at the first failure: the one with the message


class Interrupted(FcnsegError, RuntimeError):
    """The user stopped it; what was finished is saved and usable."""

    exit_status = 130


STRANGE = (
    ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, RecursionError, TypeError,
    ValueError, csv.Error,
)  # fmt: skip
"""What parsing a file that is not what it should be may raise."""


def reason(error: BaseException) -> str:
    """What an exception says, to stand in a sentence of ours."""
    if isinstance(error, KeyError):
        return f"{error} is missing"
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says so: of Python, torch, OpenCV, ONNX Runtime or OpenVINO."""
    text = str(error).lower()
    told = (
        "out of memory", "can't allocate memory", "failed to allocate", "bad alloc",
        "insufficient memory",
    )  # fmt: skip
    return isinstance(error, MemoryError) or any(words in text for words in told)


def closest(wanted: str, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6) -> list[str]:
    """The names spelled most like `wanted`, in capitals or not, at most so many; cutoff: 0..1."""
    spellings = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(wanted.casefold(), spellings, n=most, cutoff=cutoff)
    return [spellings[name] for name in close]


def did_you_mean(wanted: str, known: Iterable[str], otherwise: str = "", *, most: int = 1) -> str:
    """A hint that names what is spelled like `wanted`; `otherwise` where nothing is."""
    close = closest(wanted, known, most=most)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else otherwise


_OBEYED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories that a terminal acts on, or can't show: controls, directions, surrogates."""

_JOINERS = frozenset("\u200c\u200d")
"""Of those, the ones that are part of words and emoji."""

_NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Halves of pairs that stand for no byte; JSON can name them."""


def with_name(name: object, why: str) -> str:
    """Why something failed, with its name once."""
    return why if str(name) in why else f"{name}: {why}"


def shown(text: object) -> str:
    r"""Text as one line to look at; `\xe9` is a byte of a name that is not UTF-8."""
    return "".join(map(_escaped, str(text)))


_WAYS_OUT = {
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EISDIR: "name a file; this is a folder",
    errno.ENOSPC: "make space on the disk, or name a place on another one",
    errno.EDQUOT: "your quota is used up: make space, or name a place on another disk",
    errno.EFBIG: "files there have a largest size; ulimit -f shows this shell's",
}


def cannot_read(path: object, error: OSError, kind: type[FcnsegError] = MediaError) -> FcnsegError:
    """The error for a file that the system refuses to open or to read."""
    return kind(f"{path} can't be read: {error.strerror or error}.")


def cannot_write(path: str | Path, error: OSError) -> MediaError:
    """The MediaError for the system's refusal to write a file."""
    if isinstance(error, MediaError):
        return error
    hint = _WAYS_OUT.get(error.errno or 0, "is there space on the disk, and may you write there?")
    return MediaError(f"Can't write {path}: {error.strerror or error}.", hint=hint)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Within it the system's refusal to write names the file; a closed pipe stays what it is."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise cannot_write(path, error) from None


def counted(number: int, what: str) -> str:
    """ "1 file", "3 files", "2 classes": a number and what it counts, in the singular."""
    plural = "es" if what.endswith("s") else "s"
    return f"{number:,} {what}{'' if number == 1 else plural}"


def percent(fraction: float | None, digits: int = 2) -> str:
    """A fraction for people: 0.7751 is "77.51 %"; a dash where there is none."""
    if fraction is None or fraction != fraction:  # NaN
        return "-"
    return f"{100 * fraction:.{digits}f} %"


def points(value: float | None, other: float | None) -> str:
    """The difference of two fractions in points of 100, with its sign; a dash without one."""
    if value is None or other is None:
        return "-"
    return f"{100 * (value - other):+z.2f}"


def to_bytes(text: str) -> bytes:
    """Text as UTF-8, the bytes of file names as they are; `from_bytes` takes them back."""
    return _NO_BYTE.sub("\ufffd", text).encode("utf-8", "surrogateescape")


def from_bytes(data: bytes) -> str:
    """The text of a file that may name files; a byte-order mark is no part of it."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace")
    return data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")


def as_text(name: str) -> str:
    """A file's name as text files spell it: in UTF-8 whatever the locale, accents composed.

    For comparisons: two names of one file in different spellings become the same.
    """
    if name.isascii():
        return name
    text = to_bytes(name).decode("utf-8", "surrogateescape")
    return unicodedata.normalize("NFC", text)


def to_path(text: str) -> Path:
    """The path that a text file names, in UTF-8 whatever the locale."""
    return Path(os.fsdecode(to_bytes(text)))


def user_path(path: str | Path) -> Path:
    """The path, with a leading `~` alone as the home folder: `~.png` is the name of a file."""
    path = path if isinstance(path, Path) else Path(path)
    return Path(os.path.expanduser(path)) if path.parts[:1] == ("~",) else path  # noqa: PTH111 - never raises


def resolved(path: Path) -> Path:
    """The path without links; as it stands where a link leads to itself: Python 3.11 raises."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return path.absolute()


def typed(path: str | Path) -> str:
    """A path as it is typed at a shell: quoted where it has a space or the like in it."""
    text = str(path)
    if os.name == "nt":
        return f'"{text}"' if " " in text else text
    return shlex.quote(text)


LONGEST_NAME = 255
"""Bytes of a file's name that file systems allow."""

_REMOTE = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:/")


def path_fault(value: object) -> str | None:
    """What is expected in place of a value that can be no path; None where it can be one."""
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
    """What a caller gave as a path; OptionError, which calls it `what`, where it is none."""
    needed = path_fault(value)
    if needed is not None:
        raise OptionError(f"{what}: expected {needed}; found {value!r:.60}.")
    return user_path(value)


def is_file(path: Path) -> bool:
    """Whether a file that a text names is there; False for a name that no disk takes, too."""
    try:
        return path.is_file()
    except OSError:  # Python 3.11 raises where the name is too long
        return False


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _OBEYED or character in _JOINERS:
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps such a byte
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
