"""The verb `check`: what a dataset is and what is wrong with it, before an hour is spent."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcnseg.datasets import Description, Pair
from fcnseg.datasets.check.findings import DOUBTFUL, SEVERITIES, Finding, file_troubles, label_names
from fcnseg.datasets.check.label_checks import label_troubles
from fcnseg.datasets.check.split_checks import leaks
from fcnseg.datasets.check.statistics import ClassShare, Size, Suggestion, count_classes, suggest
from fcnseg.datasets.describe import Scanned, own_split_sizes, scan, split_sizes
from fcnseg.errors import DatasetError
from fcnseg.progress import Callback, no_callback


@dataclass(frozen=True)
class Cleaned:
    """What a clean copy holds.

    folder: where it is. written: pairs in it. repaired, left_out: pair name -> what and why.
    """

    folder: Path
    written: int
    repaired: dict[str, str]
    left_out: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for --json."""
        return {
            "folder": str(self.folder),
            "written": self.written,
            "repaired": self.repaired,
            "left_out": self.left_out,
        }


@dataclass(frozen=True, eq=False)
class CheckResult:
    """What a dataset is and what is wrong with it.

    shares: how often each class occurs. train_pixels: labelled pixels of each class in the
        training pictures (in all, when there are none). train_sizes: their (height, width).
    mean, spread: of red, green and blue in 0..1, over all pictures.
    suggestion: what to train with. contact, cleaned, written: what was written, or None.
    """

    description: Description
    splits: dict[str, int]
    findings: tuple[Finding, ...]
    shares: tuple[ClassShare, ...]
    train_pixels: tuple[int, ...]
    train_sizes: tuple[Size, ...]
    mean: tuple[float, ...]
    spread: tuple[float, ...]
    suggestion: Suggestion | None
    contact: Path | None = None
    cleaned: Cleaned | None = None
    written: Path | None = None

    @property
    def failed(self) -> bool:
        """Whether some finding is an error."""
        return any(finding.severity == "error" for finding in self.findings)

    def raise_errors(self, data: Path) -> None:
        """DatasetError that names all errors, if there are any, and the command that mends them.

        data: the dataset, as the user names it.
        """
        errors = [finding for finding in self.findings if finding.severity == "error"]
        if not errors:
            return
        clean = f"fcnseg check {data} --fix {data.resolve().name}_clean"
        by_copy = any("--fix" in one.repair for one in errors)
        if len(errors) == 1:
            hint = errors[0].repair + (f": {clean}" if by_copy else "")
            raise DatasetError(errors[0].sentence, hint=hint)
        details = [f"{one.sentence} Fix: {one.repair}." for one in errors]
        hint = f"{clean} writes a copy that can be used" if by_copy else f"fcnseg check {data}"
        raise DatasetError(f"{data} has {len(errors)} errors:", hint=hint, details=details)

    def as_dict(self) -> dict[str, Any]:
        """What --json prints. splits: the folder's own, if any; parts: those in use."""
        description = self.description
        return {
            "layout": description.layout,
            "pairs": len(description.pairs),
            "classes": list(description.classes.names),
            "ignore_index": description.ignore_index,
            "splits": own_split_sizes(self.description) or self.splits,
            "parts": self.splits,
            "findings": [finding.as_dict() for finding in self.findings],
            "why": list(description.why),
            "frequencies": [share.as_dict() for share in self.shares],
            "mean": list(self.mean),
            "std": list(self.spread),
            "suggested": self.suggestion.as_dict() if self.suggestion else None,
            "contact": str(self.contact) if self.contact else None,
            "fixed": self.cleaned.as_dict() if self.cleaned else None,
            "written": str(self.written) if self.written else None,
        }


def examine(data: str | Path, callback: Callback = no_callback) -> CheckResult:
    """`check` without writing anything: what a training does first."""
    return scan_and_check(Path(data), callback)[1]


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """No search for cycles: among hundreds of thousands of small objects that stay it finds
    nothing, and takes a sixth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@_without_collections()
def scan_and_check(data: Path, callback: Callback) -> tuple[Scanned, CheckResult]:
    """What is in a folder, and what `check` says of it."""
    seen = scan(data, callback, pictures=True)
    assert seen.pictures is not None, "pictures were asked for"
    counts = count_classes(seen)
    findings = [*file_troubles(seen), *label_troubles(seen, counts), *leaks(seen)]
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    names = seen.description.classes.names
    pixels = counts.pixels[0] if counts.pixels[0].any() else counts.pixels.sum(0)
    sizes = _train_sizes(seen)
    train_pixels = tuple(int(count) for count in pixels)
    result = CheckResult(
        description=seen.description,
        splits=split_sizes(seen.description),
        findings=tuple(findings),
        shares=counts.shares(names),
        train_pixels=train_pixels,
        train_sizes=sizes,
        mean=seen.pictures.mean,
        spread=seen.pictures.spread,
        suggestion=suggest(sizes, train_pixels, names) if sizes else None,
    )
    return seen, result


def doubtful(seen: Scanned, findings: Sequence[Finding]) -> list[Pair]:
    """The pairs that someone should look at."""
    named = {file for finding in findings if finding.code in DOUBTFUL for file in finding.files}
    return [
        pair
        for number, pair in enumerate(seen.description.pairs)
        if named and not named.isdisjoint(label_names(seen, [number]))
    ]


def _train_sizes(seen: Scanned) -> tuple[Size, ...]:
    """Of the readable training pictures, or of all when there are none."""
    assert seen.pictures is not None
    sizes: Sequence[list[int]] = seen.pictures.sizes.tolist()
    pairs = seen.description.pairs
    train = [(h, w) for (h, w), pair in zip(sizes, pairs, strict=True) if pair.split == "train"]
    chosen = train or [(h, w) for h, w in sizes]
    return tuple((h, w) for h, w in chosen if h and w)
