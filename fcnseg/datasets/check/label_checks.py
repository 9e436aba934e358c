"""Checks of label values: undeclared values, missing and rare classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import VOC_BORDER_COLOR, ClassMap
from fcnseg.datasets import SPLITS
from fcnseg.datasets.check.findings import Finding, ambiguities, have, label_names, listed
from fcnseg.datasets.check.statistics import Frequencies, count_rectangles
from fcnseg.datasets.encoding.values import GREYS, values_of
from fcnseg.datasets.formats import read_stored
from fcnseg.datasets.scan import ScanResult
from fcnseg.errors import counted, percent
from fcnseg.io.labels import is_lossy

SHOWN = 5
"""Maximum number of values named in a message."""

RARE = 0.15
"""A class is rare if it has less than this fraction of 1/K of the training pixels."""

ENOUGH = 20
"""Least number of images with a class from which its usual proportion is estimated."""

FAR = 5.0
"""A class's proportion of an image is an outlier if its logarithm is this many standard deviations
(estimated from the median deviation) above the median. CamVid's nearest sign is 4.1 above."""

TIMES = 8.0
"""It must also be this many times the median, for classes whose proportion hardly varies."""

WEIGHTY = 0.05
"""Outliers are reported if together they have this fraction of the class's pixels."""

MOST_SHADES = 3
"""With more values than this, one in each label file, they are classes without doubt."""

FEW_REGIONS, MOSTLY = 5, 0.6
"""Least number of areas, and least fraction of filled rectangles among them."""

PLAIN = frozenset((-1, 0, 255, 65535, 0xFFFFFF, VOC_BORDER_COLOR))
"""Stored values that are certainly not a class."""


def label_findings(seen: ScanResult, classes: Frequencies) -> Iterable[Finding]:
    """Findings about the values in the labels."""
    yield from _values(seen, classes)
    yield from _lossy(seen, classes)
    yield from _reading(seen)
    yield from _no_label_names(seen)
    yield from _one_value_each(seen)
    yield from ambiguities(seen)
    yield from _boxes(seen)
    yield from _classes(seen, classes)


def _no_label_names(seen: ScanResult) -> Iterable[Finding]:
    """Values that may mean "ignore", by their name or position."""
    pixels, encoding = seen.values.pixels, seen.description.encoding
    for name, value in seen.description.unlabelled:
        if value in PLAIN or not pixels.get(value):
            continue
        stored = encoding.shown(value)
        fraction = percent(pixels[value] / seen.values.total)
        shown = f"{name} ({stored}, {fraction}" if name else f"value {stored} ({fraction}"
        if value in encoding.ignore:
            read = "ignored, as its name says" if name else "ignored, as a band between the others"
            repair = f"if it is one, write a dataset.toml (--write), take {stored} out of `ignore`"
            repair += f' and add a [[class]] named "{name or f"class_{value}"}"'
        else:
            read = "read as one, though it is a band between the others"
            repair = "if it marks uncertain pixels, write a dataset.toml (--write), remove its "
            repair += f"[[class]] and put {stored} under `ignore`"
        message = f"Is {shown} of the pixels) a class? It is {read}."
        yield Finding("warning", "unlabelled-class", message, repair=repair)


def _one_value_each(seen: ScanResult) -> Iterable[Finding]:
    """Masks of 0 and 128 beside masks of 0 and 255: no file contains both; neither has a name."""
    description = seen.description
    encoding, names = description.encoding, description.classes.names
    if encoding.class_words:
        return
    ground, *things = [values for values in encoding.values if values] or [()]
    shades = encoding.kind == "color" or all(min(values) >= GREYS for values in things)
    named = names != ClassMap.numbered(len(names)).names
    if named or not shades or not 2 <= len(things) <= MOST_SHADES:
        return
    files = Counter[int]()
    for one in seen.labels.counts.good():
        held = {*values_of(one, seen.values.kind)} - {*ground, *encoding.ignore}
        if len(held) > 1:
            return
        files.update(held)
    if len(files) == len(things) and min(files.values()) > 1:
        shown = [str(encoding.shown(value)) for value in sorted(files)]
        yield Finding(
            "warning",
            "one-value-each",
            f"Are {', '.join(shown)} classes, or one class stored in {len(shown)} ways? Each label "
            "file holds only one of them. They are read as classes.",
            repair="if they are one class, write a dataset.toml (--write) with one [[class]] that "
            f"lists all of them under `values`; a class list (classes.txt) that names {len(names)} "
            "classes ends the question",
        )


def _boxes(seen: ScanResult) -> Iterable[Finding]:
    """Annotated areas that are rectangles, probably bounding boxes."""
    regions, rectangles = count_rectangles(seen.description, read_stored)
    if regions >= FEW_REGIONS and rectangles >= MOSTLY * regions:
        yield Finding(
            "warning",
            "boxes",
            f"{rectangles} of {counted(regions, 'labelled area')} that were looked at are filled "
            "rectangles. If they are bounding boxes, a network learns to predict boxes.",
            repair="annotate the outlines of the objects, or export polygons or masks",
        )


def _values(seen: ScanResult, classes: Frequencies) -> Iterable[Finding]:
    """Values without a class."""
    if classes.undeclared:
        shown = sorted(classes.undeclared.items(), key=lambda item: -item[1][0])
        shown_values = ", ".join(
            f"{seen.description.encoding.shown(value)} ({counted(n, 'pixel')} in "
            f"{counted(len(where), 'file')})"
            for value, (n, where) in shown[:SHOWN]
        )
        more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
        where = sorted({number for _, (_, numbers) in shown for number in numbers})
        yield Finding(
            "warning",
            "undeclared-value",
            f"The labels hold values that are no class: {shown_values}{more}. They are ignored.",
            label_names(seen, where),
            "correct these files; or say what the values mean: --write dataset.toml, edit it, "
            "and train on that",
        )


def _lossy(seen: ScanResult, classes: Frequencies) -> Iterable[Finding]:
    """Values that result from compression or resizing."""
    pixels, blurred = classes.between
    if pixels:
        proportion = pixels / max(1, seen.values.total)
        yield Finding(
            "warning",
            "snapped",
            f"{percent(proportion, 1)} of the label pixels ({pixels:,}) have values between the "
            "classes', made by JPEG or by resizing with interpolation; each is assigned to the "
            "nearest class.",
            label_names(seen, blurred),
            "save labels as PNG and resize them with nearest-neighbor; --fix OUT writes PNGs",
        )
    elif (
        seen.labels.lossy
        and seen.description.encoding.kind == "index"
        and not seen.description.encoding.class_words  # one mask per class
        and len(seen.values.pixels) > 2
    ):
        files = enumerate(pair.labels for pair in seen.description.pairs)
        lossy = [number for number, file in files if is_lossy(file)]
        yield Finding(
            "error",
            "lossy-indices",
            "Class indices are stored as JPEG, which changes them slightly: 3 may now be "
            "2 or 4, and this cannot be detected.",
            label_names(seen, lossy),
            "export the labels again, as PNG",
        )


def _reading(seen: ScanResult) -> Iterable[Finding]:
    """How ambiguous labels were read."""
    encoding = seen.description.encoding
    if encoding.alone:
        value, other = encoding.alone
        where = [
            number
            for number, one in enumerate(seen.labels.counts)
            if one is not None and encoding.in_file(one.values) != encoding
        ]
        yield Finding(
            "warning",
            "two-meanings",
            f"{value} is ignored in files that hold {other}, and read as {other} in the "
            f"{counted(len(where), 'file')} of 0 and {value} alone.",
            label_names(seen, where),
            f"if {value} is to be ignored there, too, write a dataset.toml (--write) and take "
            "the line `alone` out of it",
        )
    if encoding.kind == "index" and len(encoding.values) == 2 and not encoding.class_words:
        first, second = (values[0] if values else 0 for values in encoding.values)
        if first > second:
            yield Finding(
                "info",
                "inverted-mask",
                f"The object is stored as {second} (dark), the background as {first}, "
                "which covers most of the images' edges.",
                repair="if it is the reverse, exchange the values of the two classes in "
                "the file --write dataset.toml writes",
            )
    if not seen.description.found.reading and encoding.label_format == "alpha":
        read = "The label files' transparency is read as the labels, not their colors."
        repair = "if the colors are meant, save the labels without transparency"
        yield Finding("info", "alpha-labels", read, (), repair)
    if most := seen.description.few_objects * (len(encoding.values) - 1):
        read = f"Do 1 to {most} number the objects of each file? They are read as {most} classes, "
        read += "but a number says nothing of size and color, and not every file has all of them."
        repair = (
            "if they do, write a dataset.toml (--write) with one [[class]] that has all of them "
        )
        repair += "under `values`; a class list (classes.txt) that names them ends the question"
        yield Finding("warning", "object-numbers", read, (), repair)


def _classes(seen: ScanResult, classes: Frequencies) -> Iterable[Finding]:
    """Classes that are missing, missing from a split, or rare; images without labels."""
    names = seen.description.classes.names
    pixels, here = classes.pixels, classes.images.sum(0) > 0
    if not here.any():
        yield Finding(
            "error",
            "nothing-labelled",
            "No pixel of any class in any label file: everything is ignored.",
            repair="look at a label file; --write dataset.toml and correct `values` and `ignore`",
        )
        return
    if np.count_nonzero(classes.learned) == 1:
        yield _one_class(seen, names[int(classes.learned.argmax())], in_all=here.sum() == 1)
    absent = [names[index] for index in np.flatnonzero(~here)]
    if absent:
        yield Finding(
            "warning",
            "absent-class",
            f"No labels of {listed(absent)}.",
            repair="add images of them, or leave them out of the class list (dataset.toml)",
        )
    for row, split in enumerate(SPLITS):
        missing = [names[i] for i in np.flatnonzero((classes.images[row] == 0) & here)]
        if missing and pixels[row].any():
            effect = "can't be learned" if split == "train" else "not scored there"
            yield Finding(
                "warning",
                "absent-in-split",
                f"Not in {split}, so {effect}: {listed(missing)}.",
                repair=f"move some images that have them to {split}",
            )
    yield from _covered(seen, classes)
    yield from _outsized(seen, classes)
    yield from _rare(names, classes.learned)
    yield from _unlabelled(seen, classes)


def _one_class(seen: ScanResult, name: str, *, in_all: bool) -> Finding:
    """With a single class there is nothing to learn."""
    where = "every labeled pixel" if in_all else "every labeled pixel of the training images"
    repair = "label a second class"
    if seen.description.found.notes:
        repair += ", with areas: lines, points and boxes cover no pixels"
    return Finding(
        "error",
        "one-class",
        f"There is nothing to learn: {where} is {name}.",
        repair=f"{repair}; if the files hold more, --write dataset.toml and correct `values` and "
        "`ignore`",
    )


def _unlabelled(seen: ScanResult, classes: Frequencies) -> Iterable[Finding]:
    """Images without labeled pixels."""
    empty = np.flatnonzero(classes.labelled == 0).tolist()
    blank = [number for number in empty if seen.labels.counts[number] is not None]
    if blank:
        yield Finding(
            "warning",
            "unlabelled-picture",
            f"{have(len(blank), 'image')} no labeled pixel, everything is ignored.",
            label_names(seen, blank),
            "label them or remove them; nothing is learned from them",
        )


def _covered(seen: ScanResult, classes: Frequencies) -> Iterable[Finding]:
    """Images with a single class that is not the most frequent one: perhaps an empty label file."""
    usual = int(classes.pixels.sum(0).argmax())
    odd = {index: some for index, some in classes.covered.items() if index != usual}
    numbers = sorted(number for some in odd.values() for number in some)
    if 0 < len(numbers) <= len(seen.description.pairs) / 20:
        names = listed([seen.description.classes.names[index] for index in sorted(odd)])
        yield Finding(
            "info",
            "covered-picture",
            f"{have(len(numbers), 'image')} one class throughout ({names}), which few others have.",
            label_names(seen, numbers),
            "look at them: an empty or inverted label file looks like this",
        )


def _outsized(seen: ScanResult, classes: Frequencies) -> Iterable[Finding]:
    """A few images with many times a class's usual proportion: areas filled by mistake.

    In the dataset crack, three of 118 images have a third of all crack pixels; the one in val
    dominates the score.
    """
    for name, (numbers, pixels) in zip(seen.description.classes.names, classes.spread, strict=True):
        if len(numbers) < ENOUGH:
            continue
        proportions = pixels / classes.labelled[numbers]
        logs = np.log(proportions)
        usual = np.median(logs)
        deviation = 1.4826 * np.median(np.abs(logs - usual))  # a normal distribution's sigma
        far = logs - usual > max(FAR * deviation, np.log(TIMES))
        part = pixels[far].sum() / pixels.sum()
        if 0 < far.sum() <= len(numbers) / 20 and part >= WEIGHTY:
            most = "" if far.sum() == 1 else f"{percent(proportions[far].min(), 1)} to "
            yield Finding(
                "warning",
                "outsized-label",
                f"{have(int(far.sum()), 'image')} {percent(part, 0)} of all pixels of {name}, "
                f"which covers {most}{percent(proportions[far].max(), 1)} there and "
                f"{percent(np.exp(usual), 1)} elsewhere (the median).",
                label_names(seen, numbers[far].tolist()),
                "look at them: a region filled by mistake looks like this and affects training and "
                "scores. Correct the labels, or --write dataset.toml and name the images under "
                "`leave_out`",
            )


def _rare(names: Sequence[str], pixels: NDArray[np.int64]) -> Iterable[Finding]:
    total = max(1, int(pixels.sum()))
    rare = [i for i in np.argsort(pixels) if 0 < pixels[i] < RARE / len(names) * total]
    if rare:
        proportions = [f"{names[i]} ({percent(pixels[i] / total, 2)})" for i in rare]
        heavier = (pixels.max() / pixels[rare[0]]) ** 0.5
        yield Finding(
            "info",
            "rare-class",
            f"Rare in the training labels: {listed(proportions)} of the pixels.",
            repair="the default loss counts the overlap of each class, however rare; "
            f"--class-weights sqrt makes a pixel of {names[rare[0]]} count up to "
            f"{min(heavier, 50):.0f} times one of the most frequent class; images with more of "
            "these classes help most",
        )
