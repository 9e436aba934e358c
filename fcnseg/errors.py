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
"""

import difflib
from collections.abc import Iterable, Sequence


class FcnsegError(Exception):
    """The root of the tree.

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


def closest(wanted: str, known: Iterable[str], *, most: int = 1, cutoff: float = 0.6) -> list[str]:
    """The names spelled most like `wanted`, at most so many; cutoff: how alike, 0..1."""
    return difflib.get_close_matches(wanted, list(known), n=most, cutoff=cutoff)


def did_you_mean(wanted: str, known: Iterable[str], otherwise: str = "", *, most: int = 1) -> str:
    """A hint that names what is spelled like `wanted`; `otherwise` where nothing is."""
    close = closest(wanted, known, most=most)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else otherwise
