"""What can be wrong with the files of a dataset: broken, alone, of unequal size, turned."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from fcnseg.datasets.check.findings import (
    Finding,
    are,
    counted,
    file_names,
    have,
    its,
    label_names,
    listed,
)
from fcnseg.datasets.describe import Scanned

Size = tuple[int, int]


def file_troubles(seen: Scanned) -> Iterable[Finding]:
    """Everything about the files themselves."""
    yield from _unreadable(seen)
    yield from _sizes(seen)
    yield from _orphans(seen)
    yield from _left_out(seen)
    yield from _pictures(seen)


def _unreadable(seen: Scanned) -> Iterable[Finding]:
    pairs, pictures = seen.description.pairs, seen.pictures
    broken: list[tuple[Path, str]] = list(seen.description.found.broken)
    broken += [(pairs[i].labels, why) for i, why in seen.labels.problems.items()]
    if pictures is not None:
        broken += [(pairs[i].image, why) for i, why in pictures.problems.items()]
    broken = list(dict(broken).items())
    empty = [(path, why) for path, why in broken if path.is_file() and not path.stat().st_size]
    other = [entry for entry in broken if entry not in empty]
    for entries, code, what in (
        (empty, "empty-file", "empty (0 bytes)"),
        (other, "unreadable", "not readable"),
    ):
        if entries:
            yield Finding(
                "error",
                code,
                f"{are(len(entries), 'file')} {what}: {entries[0][1]}",
                file_names(seen, [path for path, _ in entries]),
                "replace or remove them; --fix OUT writes a copy without these pairs",
            )


def _sizes(seen: Scanned) -> Iterable[Finding]:
    """Labels of another size than their image; of the size it has before EXIF turns it."""
    if seen.pictures is None:
        return
    unequal: list[tuple[int, Size, Size]] = []
    lying: list[tuple[int, Size, Size]] = []
    for number, one in enumerate(seen.labels.tallies):
        height, width = (int(extent) for extent in seen.pictures.sizes[number])
        if one is None or not height or one.size == (height, width):
            continue
        turned = seen.pictures.orientations[number] >= 5 and one.size == (width, height)
        (lying if turned else unequal).append((number, (height, width), one.size))
    if lying:
        yield Finding(
            "warning",
            "exif-mismatch",
            f"{are(len(lying), 'image')} turned by {its(len(lying))} EXIF orientation, the "
            "labels are not: they were drawn on the image as stored and are turned with it.",
            label_names(seen, [number for number, _, _ in lying]),
            "turn the labels the same way; --fix OUT does",
        )
    if unequal:
        _, (height, width), size = unequal[0]
        yield Finding(
            "error",
            "size-mismatch",
            f"{have(len(unequal), 'pair')} image and labels of different size: image "
            f"{width}x{height}, labels {size[1]}x{size[0]} in the first.",
            label_names(seen, [number for number, _, _ in unequal]),
            "give both the same size (labels with nearest-neighbour only); --fix OUT does where "
            "the proportions agree and leaves the others out",
        )


def _orphans(seen: Scanned) -> Iterable[Finding]:
    found = seen.description.found
    for files, code, what, other in (
        (found.orphan_images, "orphan-image", "image", "labels"),
        (found.orphan_labels, "orphan-labels", "label file", "image"),
    ):
        if files:
            yield Finding(
                "warning",
                code,
                f"{have(len(files), what)} no {other} and "
                f"{'is' if len(files) == 1 else 'are'} skipped.",
                file_names(seen, files),
                f"add the {other}, or remove the files",
            )


def _left_out(seen: Scanned) -> Iterable[Finding]:
    notes = seen.description.found.notes
    lost: dict[str, int] = {}
    reasons: dict[str, int] = {}
    for note in notes:
        lost[note.what] = lost.get(note.what, 0) + note.count
        reasons[note.why] = reasons.get(note.why, 0) + note.count
    if notes:
        what = " and ".join(counted(count, what) for what, count in lost.items())
        why = [f"{why} ({count:,})" for why, count in reasons.items()]
        yield Finding(
            "warning",
            "left-out",
            f"{what} can't be used: {listed(why, 3)}.",
            file_names(seen, list(dict.fromkeys(note.path for note in notes))),
            "correct the files, or continue without these",
        )


def _pictures(seen: Scanned) -> Iterable[Finding]:
    if seen.pictures is None:
        return
    for mask, code, what, repair in (
        (
            seen.pictures.deep,
            "deep-image",
            "16 bits a channel, scaled to 8 over the full range",
            "if only a part of the range is used, stretch it before",
        ),
        (
            seen.pictures.clear,
            "transparent-image",
            "transparent parts, which are laid over white",
            "flatten them if the images the model will see have another background",
        ),
        (
            seen.pictures.orientations > 1,
            "exif-turned",
            "an EXIF orientation: turned upright when read, and the labels have to be upright, too",
            "look at contact.png: do the labels line up with the objects?",
        ),
    ):
        numbers = np.flatnonzero(mask).tolist()
        if numbers:
            files = [seen.description.pairs[number].image for number in numbers]
            message = f"{have(len(numbers), 'image')} {what}."
            yield Finding("info", code, message, file_names(seen, files), repair)
