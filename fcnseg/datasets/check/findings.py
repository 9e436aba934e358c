"""One thing to know about a dataset, and how it is put into words.

The table of all codes, with the message and the repair of each, is docs/datasets.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fcnseg.datasets.describe import Scanned
from fcnseg.datasets.formats import files_of

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Finding:
    """One thing to know about a dataset.

    severity: "error" stops a training; "warning" is shown; "info" is good to know.
    code: a fixed word for programs. message: what was found. repair: what to do about it.
    files: the files concerned, relative to the dataset folder where they are below it.
    """

    severity: Severity
    code: str
    message: str
    files: tuple[str, ...] = ()
    repair: str = ""

    @property
    def sentence(self) -> str:
        """The message, with the first three files."""
        return f"{self.message} ({listed(self.files, 3)})" if self.files else self.message

    def as_dict(self) -> dict[str, Any]:
        """Plain data for --json."""
        return {
            "severity": self.severity,
            "code": self.code,
            "message": self.message,
            "files": list(self.files),
            "repair": self.repair,
        }


DOUBTFUL = ("covered-picture", "outsized-label")
"""Codes of findings that only eyes can judge: these pictures are on the contact sheet."""

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
"""The worst first."""


def label_names(seen: Scanned, numbers: Sequence[int]) -> tuple[str, ...]:
    """The label files of some pairs, as findings name them."""
    pairs = seen.description.pairs
    return file_names(seen, [path for number in numbers for path in files_of(pairs[number])])


def file_names(seen: Scanned, files: Sequence[Path]) -> tuple[str, ...]:
    """Paths as findings name them, each once."""
    return tuple(dict.fromkeys(relative(file, seen.description.root) for file in files))


def relative(file: Path, root: Path) -> str:
    """A path as seen from the dataset folder, where it is below it."""
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)


def counted(number: int, what: str) -> str:
    """ "3 files"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def are(number: int, what: str) -> str:
    """ "3 files are"."""
    return f"{counted(number, what)} {'is' if number == 1 else 'are'}"


def have(number: int, what: str) -> str:
    """ "3 files have"."""
    return f"{counted(number, what)} {'has' if number == 1 else 'have'}"


def its(number: int) -> str:
    """The possessive for one or many."""
    return "its" if number == 1 else "their"


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names joined, the first few."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
