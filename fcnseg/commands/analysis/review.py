"""The command `review`: rank labels that are probably wrong, or images to label next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg import notebook
from fcnseg.classes import ClassMap
from fcnseg.concurrency import map_ordered
from fcnseg.config import ReviewConfig
from fcnseg.datasets.check import examine
from fcnseg.datasets.dataset import SegmentationDataset
from fcnseg.datasets.loader import ErrorsAsItems
from fcnseg.datasets.pairing.by_content import without_labels
from fcnseg.errors import DatasetError, FcnsegError, InputError, printable, to_bytes
from fcnseg.files import shortened
from fcnseg.inference.evaluation import dataset_for, skipped_image
from fcnseg.inference.loading import load_as
from fcnseg.inference.outputs.manifest import next_free, refuse_edited, unused_removed
from fcnseg.inference.review import Suspect, choose, features, find_suspects, uncertainty
from fcnseg.inference.segmenter import Segmenter
from fcnseg.io.annotations.tools import as_labelme
from fcnseg.io.draw import drawn_classes, overlay
from fcnseg.io.images import resize_image, write_bytes
from fcnseg.io.sources import open_source, refuse_sources
from fcnseg.io.sources.base import Frame, Source
from fcnseg.io.sources.listing import collect
from fcnseg.models.checkpoint import model_files
from fcnseg.overwriting import mark, refuse_file, refuse_folder_of_others, refuse_overwriting
from fcnseg.progress import Callback, Progress, no_callback, skipped_files
from fcnseg.report import render
from fcnseg.report.gallery import jpeg, legend
from fcnseg.report.tables import suspects_table, to_label_table

SIDE = 224
"""Size of an image on a card, in pixels."""

SHOWN = 20
"""Maximum rows shown in a notebook."""

ROOM = 24
"""Minimum margin shown around a region, in pixels."""


@dataclass(frozen=True, eq=False)
class ReviewResult:
    """Ranked regions or images, the most important first.

    suspects: regions whose labels are probably wrong; to_label: (name, uncertainty) of images
    most worth labeling. One of the two is empty. images: number of images read; failed: (name,
    reason) of those that could not be read.
    """

    out: Path
    outputs: tuple[Path, ...]
    images: int
    classes: tuple[str, ...]
    suspects: tuple[Suspect, ...] = ()
    to_label: tuple[tuple[str, float], ...] = ()
    failed: tuple[tuple[str, str], ...] = ()

    def _repr_html_(self) -> str:
        """For notebooks: the first regions or images, and the path of the report."""
        heading: tuple[str, ...] = ("image", "uncertainty")
        rows: list[tuple[str, ...]]
        if self.to_label:
            rows = [(name, f"{value:.3f}") for name, value in self.to_label]
        else:
            heading = ("image", "labeled", "predicted", "pixels", "score")
            rows = [
                (one.name, self.classes[one.labelled], self.classes[one.predicted],
                 str(one.area), f"{one.score:.3f}")
                for one in self.suspects
            ]  # fmt: skip
        what = "Images to label next" if self.to_label else "Regions whose labels may be wrong"
        given = {"images": self.images, what.lower(): len(rows), "report": self.out / "review.html"}
        return notebook.facts("Review", given) + notebook.table(what, heading, rows[:SHOWN])

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for --json."""
        return {
            "out": str(self.out),
            "outputs": [str(path) for path in self.outputs],
            "images": self.images,
            "failed": [{"name": name, "why": why} for name, why in self.failed],
            "suspects": [
                {
                    **asdict(one),
                    "labelled": self.classes[one.labelled],
                    "predicted": self.classes[one.predicted],
                }
                for one in self.suspects
            ],
            "to_label": [{"name": name, "uncertainty": value} for name, value in self.to_label],
        }


def review(
    data: ReviewConfig | Path | str, callback: Callback = no_callback, **options: Any
) -> ReviewResult:
    """Rank the labels of a dataset by how probably they are wrong; without labels, rank images.

    data: the folder, or a ReviewConfig. options: those of ReviewConfig, by name.
    Writes review.csv and review.html, and with `save` polygons to correct, into a folder.
    OptionError for an option that needs labels, with `unlabeled`.

        result = fcnseg.review("photos", model="runs/train1")
        for suspect in result.suspects[:10]:
            print(suspect.name, suspect.box, suspect.score)
    """
    config = ReviewConfig.of(data, options)
    if config.unlabeled:
        config.refuse(("split", "tolerance", "fill_boxes"), "with --unlabeled")
    refuse_file("--out", config.out)
    if config.out is not None:
        refuse_folder_of_others(config.out, ("review.csv", "review.html", *config.save))
        refuse_edited(config.out, config.save)
    segmenter = load_as(config, callback)
    if not config.unlabeled:
        try:
            checked = examine(config.data, callback, boxes=config.fill_boxes)
        except DatasetError as error:
            hint = "--unlabeled ranks images without labels: which are most worth labeling"
            hint = hint if config.data.exists() else error.hint
            raise DatasetError(error.message, hint=hint, details=error.details) from None
        if config.out is not None:
            files = [*model_files(segmenter.files), ("the dataset", config.data)]
            inputs = checked.description.inputs()
            refuse_overwriting([("--out", config.out)], inputs, kept=files)
        dataset = dataset_for(segmenter, checked.description, config.split, callback)
        with unused_removed(config.out):
            return _review_labels(config, segmenter, dataset, callback)
    if config.out is not None:
        kept = model_files(segmenter.files)
        refuse_sources([("--out", config.out)], (str(config.data),), kept=kept)
    with unused_removed(config.out):
        return _review_images(config, segmenter, callback)


def _review_labels(
    config: ReviewConfig, segmenter: Segmenter, data: SegmentationDataset, callback: Callback
) -> ReviewResult:
    readable = ErrorsAsItems(data)

    def look(index: int) -> list[Suspect] | FcnsegError:
        read = readable[index]
        if isinstance(read, FcnsegError):
            return read
        found = _probabilities(segmenter, read.image)
        return find_suspects(index, read.name, read.labels, found, config.tolerance)

    suspects: list[Suspect] = []
    failed: dict[str, FcnsegError] = {}
    for index, found in map_ordered(look, range(len(data)), segmenter.num_parallel):
        if isinstance(found, FcnsegError):
            failed[data.pairs[index].name] = found
        else:
            suspects += found
        callback(Progress("review", index + 1, len(data), "images"))
    count = len(data) - len(failed)
    if not count:
        raise next(iter(failed.values()))
    suspects.sort(key=lambda one: -one.score)
    ranked = tuple(suspects)
    out = _begin(config)
    outputs = [out / "review.csv", out / "review.html"]
    files = {pair.name: str(pair.labels) for pair in data.pairs}
    write_bytes(outputs[0], to_bytes(suspects_table(ranked, data.classes.names, files)))
    cards, saved = [], set()
    for one in ranked[: config.limit]:
        image, labels, name = data[one.index]
        predicted = segmenter.predict([image])[0].labels
        drawn = data.to_rgb(image)
        cards.append(cards_of_region(one, drawn, labels, predicted, data.classes))
        if "labelme" in config.save and one.index not in saved:
            saved.add(one.index)
            frame = Frame(drawn, name=name, path=data.pairs[one.index].image)
            outputs.append(_save_labelme(out, predicted, segmenter, frame))
        callback(Progress("report", len(cards), min(config.limit, len(ranked)), "regions"))
    title = f"{len(ranked)} regions whose labels may be wrong, in {count} images"
    _write_page(outputs[1], title, config, segmenter, cards)
    unread = _warn([(name, error.message) for name, error in failed.items()], callback)
    names = data.classes.names
    return ReviewResult(out, tuple(outputs), count, names, suspects=ranked, failed=unread)


def _warn(failed: Sequence[tuple[str, str]], callback: Callback) -> tuple[tuple[str, str], ...]:
    """Warn of each image that could not be read."""
    for name, why in failed:
        callback(skipped_image(name, why))
    return tuple(failed)


def _review_images(config: ReviewConfig, segmenter: Segmenter, callback: Callback) -> ReviewResult:
    """Rank images of a folder, or frames of a video, without labels."""
    names, unsure, found, thumbnails = [], [], [], []
    with _open_unlabeled(config.data, callback) as source:
        source.bands = segmenter.preprocess.bands
        looked = map_ordered(
            lambda frame: _probabilities(segmenter, frame.pixels), source, segmenter.num_parallel
        )
        for frame, probabilities in looked:
            names.append(frame.name)
            unsure.append(uncertainty(probabilities))
            found.append(features(frame.image, probabilities))
            thumbnails.append(thumbnail(frame.image))
            callback(Progress("review", len(names), source.count, "images"))
        failures = list(source.failures)
    failed = _warn(failures, callback)
    if not names:
        raise InputError(f"{config.data}: no image could be read.")
    chosen = choose(unsure, found, config.limit)
    ranked = tuple((names[place], unsure[place]) for place in chosen)
    out = _begin(config)
    outputs = [out / "review.csv", out / "review.html"]
    write_bytes(outputs[0], to_bytes(to_label_table(ranked)))
    if "labelme" in config.save:
        wanted = {names[place] for place in chosen}
        with _open_unlabeled(config.data, no_callback) as source:
            source.bands = segmenter.preprocess.bands
            for frame in (frame for frame in source if frame.name in wanted):
                labels = segmenter.predict([frame.pixels])[0].labels
                outputs.append(_save_labelme(out, labels, segmenter, frame))
    cards = [
        Card(names[place], f"uncertainty {unsure[place]:.3f}", (("image", thumbnails[place]),))
        for place in chosen
    ]
    title = f"{len(chosen)} of {len(names)} images, most worth labeling first"
    _write_page(outputs[1], title, config, segmenter, cards)
    classes = segmenter.classes.names
    return ReviewResult(out, tuple(outputs), len(names), classes, to_label=ranked, failed=failed)


def _open_unlabeled(path: Path, callback: Callback) -> Source:
    """The images of a folder without its label files, or the source that the path names."""
    found = collect([str(path)], without_labels, callback=callback)
    if found.images and found.videos:
        videos = skipped_files([file for _, file in found.videos], "give a video by itself")
        callback(replace(videos, level="warning"))
    return open_source(found.images or str(path), callback=callback)


def _probabilities(segmenter: Segmenter, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    found = segmenter.predict([image], probabilities=True)[0].probabilities
    assert found is not None, "probabilities=True was given"
    return found


def _begin(config: ReviewConfig) -> Path:
    out = config.out or next_free(Path("runs"), "review")
    mark(out)
    return out


def _save_labelme(out: Path, labels: NDArray[np.uint8], segmenter: Segmenter, frame: Frame) -> Path:
    """Write the prediction as polygons, to be corrected in labelme."""
    path = out / shortened(f"labelme/{frame.name}", ".json")
    classes = segmenter.classes
    drawn = drawn_classes(classes)
    write_bytes(path, as_labelme(labels, classes, drawn, frame=frame, tolerance=1.0, path=path))
    return path


def _write_page(
    path: Path, title: str, config: ReviewConfig, segmenter: Segmenter, cards: Sequence[Card]
) -> None:
    summary = f"{segmenter.path or 'The model'} on {config.data}"
    write_bytes(path, to_bytes(review_page(title, summary, cards, segmenter.classes)))


@dataclass(frozen=True)
class Card:
    """A card of the report. images: (title, data URL)."""

    name: str
    text: str
    images: tuple[tuple[str, str], ...]


def cards_of_region(
    one: Suspect,
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    predicted: NDArray[np.uint8],
    classes: ClassMap,
) -> Card:
    """A card that shows a region in the image, the labels and the prediction, framed in white."""
    left, top, width, height = one.box
    room = max(ROOM, width, height) // 2 + ROOM // 2
    part = (
        slice(max(0, top - room), top + height + room),
        slice(max(0, left - room), left + width + room),
    )
    place = (top - part[0].start, left - part[1].start, height, width)
    crops = (
        ("image", image[part]),
        ("labels", overlay(image[part], labels[part], classes, alpha=0.6)),
        ("prediction", overlay(image[part], predicted[part], classes, alpha=0.6)),
    )
    text = (
        f"labeled {classes.names[one.labelled]} (probability {one.p_labelled:.2f}), predicted "
        f"{classes.names[one.predicted]} ({one.p_predicted:.2f}); {one.area} px, "
        f"score {one.score:.3f}"
    )
    images = tuple((title, _framed(crop, place)) for title, crop in crops)
    return Card(one.name, text, images)


def thumbnail(image: NDArray[np.uint8]) -> str:
    """A small version of an image as a data URL."""
    factor = min(1.0, SIDE / max(image.shape[:2]))
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    return jpeg(resize_image(image, (height, width)))


def review_page(title: str, summary: str, cards: Sequence[Card], classes: ClassMap) -> str:
    """The HTML page."""
    plain = [Card(printable(one.name), printable(one.text), one.images) for one in cards]
    content = {
        "title": title,
        "summary": printable(summary),
        "cards": plain,
        "legend": legend(classes) if any(len(one.images) > 1 for one in cards) else [],
    }
    return render("review.html.j2", content)


def _framed(crop: NDArray[np.uint8], place: tuple[int, int, int, int]) -> str:
    """A crop, scaled to SIDE pixels, with a box drawn at (top, left, height, width); a data URL."""
    factor = SIDE / max(crop.shape[:2])
    size = (max(1, round(crop.shape[0] * factor)), max(1, round(crop.shape[1] * factor)))
    drawn = resize_image(np.ascontiguousarray(crop), size).copy()
    edges = (place[0], place[1], place[0] + place[2], place[1] + place[3])
    top, left, bottom, right = (round(value * factor) for value in edges)
    for thick, color in ((3, 0), (1, 255)):  # a white line with black edges
        for offset in range(-1, thick - 1) if thick > 1 else (0,):
            rows = np.clip([top - 1 + offset, bottom + offset], 0, size[0] - 1)
            columns = np.clip([left - 1 + offset, right + offset], 0, size[1] - 1)
            drawn[rows, columns[0] : columns[1] + 1] = color
            drawn[rows[0] : rows[1] + 1, columns] = color
    return jpeg(drawn)
