"""The command `check`: report what a dataset folder contains and what is wrong with it."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import IGNORE, ClassMap
from fcnseg.config import CheckConfig
from fcnseg.config.options import spelled
from fcnseg.datasets import Description, Pair
from fcnseg.datasets.check import CheckResult, Cleaned, scan_and_check
from fcnseg.datasets.check.findings import Finding, label_names
from fcnseg.datasets.check.suggestions import suggested_seconds
from fcnseg.datasets.dataset_toml import write_declared
from fcnseg.datasets.describe import files_read
from fcnseg.datasets.encoding.values import decode
from fcnseg.datasets.formats import read_pair_image, read_sample, read_stored
from fcnseg.datasets.scan import ScanResult
from fcnseg.datasets.splits import find_copies, find_similar, find_videos, own_parts
from fcnseg.errors import DatasetError, MediaError, OptionError, cannot_write, quoted, to_bytes
from fcnseg.files import folder_beside, shortened
from fcnseg.io.content import upright
from fcnseg.io.draw import caption, colorize, legend, overlay, side_by_side
from fcnseg.io.images import resize_image, resize_labels, write_bytes, write_image, write_labels
from fcnseg.overwriting import (
    Named,
    is_below,
    mark,
    refuse_among_images,
    refuse_overwriting,
    refuse_unwritable,
)
from fcnseg.progress import Callback, Message, Progress, no_callback
from fcnseg.remote.listing import copied

DOUBTFUL = ("covered-picture", "outsized-label")
"""Codes of findings that only eyes can judge: these images are on the contact sheet."""


def check(
    data: CheckConfig | Path | str, callback: Callback = no_callback, **options: Any
) -> CheckResult:
    """Check a dataset and write the contact sheet; on request a clean copy or a dataset.toml.

    data: the folder, or a CheckConfig. options: those of CheckConfig, by name.
    DatasetError when it can't be a dataset at all.

        for finding in fcnseg.check("photos").findings:
            print(finding.code)
    """
    config = CheckConfig.of(data, options)
    config = replace(config, data=copied(config.data, callback))
    outputs = _outputs(config)
    refuse_overwriting(outputs, [("the dataset", config.data)])
    refuse_unwritable(one for one in outputs if one != ("--contact", CheckConfig.contact))
    seen, result = scan_and_check(config.data, callback, boxes=config.fill_boxes)
    description = seen.description
    default = config.contact == CheckConfig.contact
    if config.data.is_dir() and not default:
        refuse_among_images("--contact", config.contact, description.root)
    refuse_overwriting(outputs, files_read(description, (path for _, path in outputs)))
    if result.suggestion is not None and not result.failed:
        seconds = suggested_seconds(result.suggestion, result.splits, result.train_sizes)
        result = replace(result, seconds=seconds)
    if config.write is not None:
        write_declared(description, config.write)
        train = f"fcnseg train {quoted(config.write)}"
        callback(Message(f"Wrote {config.write}: edit it, then {train}"))
        result = replace(result, written=config.write)
    if config.fix is not None:
        count = len(description.pairs)
        cleaned = write_clean(
            seen, config.fix, lambda done: callback(Progress("copy", done, count, "pairs"))
        )
        text = f"{len(cleaned.repaired)} repaired, {len(cleaned.left_out)} left out"
        text = f"Wrote {cleaned.written} of {count} pairs to {cleaned.folder}: {text}"
        callback(Message(f"{text}. Next: fcnseg train {quoted(cleaned.folder)}"))
        result = replace(result, cleaned=cleaned)
    ahead = _doubtful(seen, result.findings)
    if config.html is not None:
        _write_html(config, result, ahead)
        callback(Message(f"Wrote {config.html}"))
        result = replace(result, page=config.html)
    try:
        if write_contact(description, config.contact, ahead):
            if default or (config.data.is_dir() and is_below(config.contact, description.root)):
                mark(config.contact.parent, [config.contact.name])  # not an image of the dataset
            callback(Message(f"Look at {config.contact}: do the labels line up with the objects?"))
            result = replace(result, contact=config.contact)
    except MediaError as error:  # fatal only if --contact was given
        if not default:
            raise
        callback(Message(error.message, "warning"))
    return result


def _write_html(config: CheckConfig, result: CheckResult, ahead: Sequence[Pair]) -> None:
    from fcnseg.report import check_page  # slow to import

    assert config.html is not None, "called only with --html"
    classes, views = result.description.classes, []
    for pair, image, labels in _shown(result.description, ahead):
        drawn = colorize(labels, classes)
        drawn[labels == IGNORE] = _IGNORED
        views.append((f"{pair.split}: {pair.name}", image, drawn))
    write_bytes(config.html, to_bytes(check_page(str(config.data), result, views)))


def _shown(
    description: Description, ahead: Sequence[Pair]
) -> Iterator[tuple[Pair, NDArray[np.uint8], NDArray[np.uint8]]]:
    """Yield pairs with images and labels resized to HEIGHT: doubtful ones, then a sample of all."""
    ahead, shown = ahead[:COLUMNS], 0
    spread = _spread(description.pairs, 3 * COLUMNS * ROWS)
    for pair in [*ahead, *(pair for pair in spread if pair not in ahead)]:
        if shown == COLUMNS * ROWS:
            break
        try:
            image, labels = read_sample(pair, description.encoding)
        except (MediaError, DatasetError):
            continue  # reported as a finding
        height, width = image.shape[:2]
        size = (HEIGHT, max(1, min(_WIDEST, round(width * HEIGHT / height))))
        shown += 1
        yield pair, resize_image(image, size), resize_labels(labels, size)


def _outputs(config: CheckConfig) -> list[Named]:
    """The outputs; OptionError if one is inside the dataset or the clean copy, or misnamed."""
    names = ("contact", "html", "write", "fix")
    if config.fix is not None and config.data.is_dir() and is_below(config.fix, config.data):
        raise OptionError(
            f"--fix {config.fix} is inside {config.data}: it would be read as part of the dataset.",
            hint="name a folder outside, "
            f"e.g. --fix {quoted(f'{config.data.resolve().name}_clean')}",
        )
    given = [(spelled(name), getattr(config, name)) for name in names]
    outputs = [(flag, path) for flag, path in given if path is not None]
    for flag, path in outputs:
        if config.fix is not None and flag != "--fix" and is_below(path, config.fix):
            raise OptionError(
                f"{flag} {path} is inside --fix {config.fix}, which has to be a new folder.",
                hint="name a place outside; the copy has a pairs.csv of its own",
            )
    if config.write is not None and config.write.suffix.lower() != ".toml":
        raise OptionError(
            f"--write {config.write}: train takes a file named *.toml.",
            hint=f"--write {quoted(config.write.with_suffix('.toml'))}",
        )
    return outputs


COLUMNS, ROWS = 4, 3

HEIGHT = 240
"""Height of each image on the contact sheet, in pixels."""

_WIDEST = 2 * HEIGHT

_IGNORED = 255  # ignored pixels are drawn white, which no class is


def write_contact(description: Description, path: Path, doubtful: Sequence[Pair] = ()) -> bool:
    """Write a contact sheet of overlays with a legend; False when no pair could be read.

    The first row shows doubtful pairs. The others are spread evenly over the dataset, always the
    same ones.
    """
    cells: list[NDArray[np.uint8]] = []
    ahead = doubtful[:COLUMNS]
    for pair, image, labels in _shown(description, ahead):
        drawn = overlay(image, labels, description.classes, alpha=0.55)
        drawn[labels == IGNORE] = drawn[labels == IGNORE] // 2 + _IGNORED // 2
        cells.append(caption(drawn, f"{pair.split}: {pair.name}{' ?' if pair in ahead else ''}"))
    if not cells:
        return False
    sheet = side_by_side(cells, columns=COLUMNS)
    key = legend(description.classes, height=sheet.shape[0])
    write_image(path, np.hstack([sheet, key]))
    return True


def _spread(pairs: Sequence[Pair], count: int) -> Sequence[Pair]:
    """`count` pairs spread evenly over the dataset: every third one first, then those between,
    which replace pairs that can't be read."""
    if len(pairs) <= count:
        return pairs
    places = np.linspace(0, len(pairs) - 1, count).astype(int)
    order = [*places[::3], *places[1::3], *places[2::3]]
    return [pairs[place] for place in order]


SAME_PROPORTIONS = 0.01
"""Maximum relative difference of aspect ratios at which labels are resized to the image."""


def write_clean(seen: ScanResult, out: Path, tell: Callable[[int], None]) -> Cleaned:
    """Write images/SPLIT/, labels/SPLIT/ (index PNG, 255 = ignore), pairs.csv and class_dict.csv.

    Image files are copied as they are unless EXIF turns them; labels are turned or resized
        (nearest) to fit them. Pairs that can't be repaired, and training images with a copy or a
    similar image in val or test, are omitted. The folder gets its name when it is complete.
    OptionError when `out` is not empty; MediaError when it can't be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OptionError(f"--fix {out} already exists.", hint="name a new folder")
    try:
        with folder_beside(out) as folder:
            cleaned = _write(seen, folder, tell)
            if cleaned.written:
                if out.is_dir():
                    out.rmdir()  # empty; not every system can rename a folder onto it
                folder.rename(out)
    except OSError as error:
        if isinstance(error, MediaError):
            raise
        raise cannot_write(out, error) from None
    return replace(cleaned, folder=out)


def _write(seen: ScanResult, out: Path, tell: Callable[[int], None]) -> Cleaned:
    """Write all files of a clean copy into `out`."""
    left_out = _leaked(seen)
    repaired: dict[str, str] = {}
    written: list[tuple[Path, Path, str, str]] = []
    parts = own_parts(seen.description)  # images that fcnseg held out for validation stay in train
    for number, (pair, part) in enumerate(zip(seen.description.pairs, parts, strict=True)):
        if pair.name not in left_out:
            try:
                labels, what = _fitting(seen, number)
            except MediaError as error:
                left_out[pair.name] = error.message
            else:
                if labels is None:
                    left_out[pair.name] = what
                else:
                    where = replace(pair, split=part)
                    written.append(
                        (*_write_pair(seen, number, where, labels, out), part, pair.name)
                    )
                    repaired |= {pair.name: what} if what else {}
        tell(number + 1)
    if written:
        # Without the list, words in file names (masks, val ...) would be interpreted like those of
        # folders. With the same names, the same pairs are held out for validation.
        rows = [(*(p.relative_to(out).as_posix() for p in row[:2]), *row[2:]) for row in written]
        _write_table(out / "pairs.csv", [("image", "labels", "split", "name"), *rows])
        _write_table(out / "class_dict.csv", _class_rows(seen.description.classes))
    return Cleaned(out, len(written), repaired, left_out)


def _class_rows(classes: ClassMap) -> list[tuple[object, ...]]:
    colors = classes.colors.tolist()
    rows = [
        (name, *color, index)
        for index, (name, color) in enumerate(zip(classes.names, colors, strict=True))
    ]
    return [("name", "r", "g", "b", "id"), *rows]


def _write_table(path: Path, rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    path.write_bytes(to_bytes(text.getvalue()))


def _leaked(seen: ScanResult) -> dict[str, str]:
    """Training images with a copy or similar image in val or test, other than a video's neighbors,
    and what they look like."""
    pairs, image_scan = seen.description.pairs, seen.images
    video_of = {
        number: place
        for place, video in enumerate(find_videos(pairs, image_scan))
        for number in video.members
    }
    alike = [(a, b) for group in find_copies(image_scan) for a in group for b in group if a < b]
    alike += [
        (a, b)
        for a, b in find_similar(image_scan)
        if a not in video_of or video_of[a] != video_of.get(b)
    ]
    leaked = {}
    for one, other in alike:
        for mine, theirs in ((pairs[one], pairs[other]), (pairs[other], pairs[one])):
            if mine.split == "train" and theirs.split != "train":
                leaked[mine.name] = f"looks like {theirs.name} in {theirs.split}"
    return leaked


def _fitting(seen: ScanResult, number: int) -> tuple[NDArray[np.uint8] | None, str]:
    """A pair's labels at its image's size and how they were changed; or None and the reason."""
    pair, encoding = seen.description.pairs[number], seen.description.encoding
    height, width = read_pair_image(pair).shape[:2]
    labels = decode(read_stored(pair, encoding.label_format, encoding.class_words), encoding)
    if labels.shape == (height, width):
        return labels, ""
    orientation = int(seen.images.orientations[number])
    if orientation >= 5 and labels.shape == (width, height):
        return upright(labels, orientation), "labels turned as the image's EXIF says"
    proportion = (labels.shape[1] / labels.shape[0]) / (width / height)
    if abs(proportion - 1) > SAME_PROPORTIONS:
        return None, (
            f"labels are {labels.shape[1]}x{labels.shape[0]}, the image is {width}x{height}"
        )
    what = f"labels resized from {labels.shape[1]}x{labels.shape[0]} to {width}x{height}"
    return resize_labels(labels, (height, width)), what


def _write_pair(
    seen: ScanResult, number: int, pair: Pair, labels: NDArray[np.uint8], out: Path
) -> tuple[Path, Path]:
    """Write an image and its labels; return their paths."""
    drawn = seen.images.orientations[number] > 1 or pair.page is not None
    # Names may differ only in their folders: keep those.
    name = shortened(pair.name, room=5)  # for the suffix: the same name for image and labels
    suffix = ".png" if drawn else pair.image.suffix
    image = out / "images" / pair.split / f"{name}{suffix}"
    truth = out / "labels" / pair.split / f"{name}.png"
    if drawn:
        write_image(image, read_pair_image(pair))
    else:
        image.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(pair.image, image)
    write_labels(truth, labels, seen.description.classes.palette())
    return image, truth


def _doubtful(seen: ScanResult, findings: Sequence[Finding]) -> list[Pair]:
    """The pairs that someone should look at."""
    named = {file for finding in findings if finding.code in DOUBTFUL for file in finding.files}
    return [
        pair
        for number, pair in enumerate(seen.description.pairs)
        if named and not named.isdisjoint(label_names(seen, [number]))
    ]
