"""What each skip connection adds: its exact part of the scores, or what changes without it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import OptionError, percent
from fcnseg.io.sources.base import Frame
from fcnseg.viz import Tile
from fcnseg.viz.drawing import Scale, signed_map, signed_scale
from fcnseg.viz.layout import Section

if TYPE_CHECKING:
    from fcnseg.inference.segmenter import Segmenter
    from fcnseg.viz import View
    from fcnseg.viz.heatmaps import HeatmapFigures

Rgb = NDArray[np.uint8]

Labels = NDArray[np.uint8]

Floats = NDArray[np.float32]

POOLS = {32: "pool5", 16: "pool4", 8: "pool3", 4: "pool2", 2: "pool1"}
"""The paper's names of a VGG's layers, by their strides."""

UPSAMPLING = {
    "fixed": "bilinear",
    "learned": "by the learned kernels",
    "subpixel": "bilinear, and the sub-pixel part",
}
"""How scores get to the image's size, by ModelSpec.upsample."""

WITH_MINUS_WITHOUT = (
    "against the mean of all classes, with the skip minus without it; such changes do not add up"
)


def skip_pages(figures: HeatmapFigures, frame: Frame, labels: Labels) -> Iterator[tuple[str, Rgb]]:
    """Each skip's exact part where scores are summed, else what changes without it."""
    if not figures.segmenter.sums_scores:
        yield from _ablation_pages(figures, frame, labels)
    else:
        yield from _sum_pages(figures, frame, labels)


def _ablation_pages(
    figures: HeatmapFigures, frame: Frame, labels: Labels
) -> Iterator[tuple[str, Rgb]]:
    """rungs.png, the prediction without each skip; and how each changes a class's score."""
    logits = figures.segmenter.logits(frame.pixels)
    found = figures.segmenter.logits_without_skips(frame.pixels)
    without = dict(sorted(found.items(), reverse=True))
    predictions = [
        _without(figures, frame, stride, labels, scores) for stride, scores in without.items()
    ]
    seen = np.stack([labels, *(scores.argmax(axis=0) for scores in without.values())])
    tiles = [
        Tile(frame.image, "input"),
        figures.labelled(frame, labels, "prediction"),
        *predictions,
    ]
    key = figures.key(seen)
    yield "rungs.png", figures.page(tiles, key=key, columns=len(tiles))
    changes = {stride: _relative(logits - scores) for stride, scores in without.items()}
    drawn = figures.of_interest(labels)
    limit = _limit(np.stack(list(changes.values()))[:, list(drawn)])
    for index in drawn:
        of_class = {stride: change[index] for stride, change in changes.items()}
        page_of_class = _change_page(figures, frame, index, of_class, limit, predictions, key)
        yield f"rungs-{figures.page_name(index)}", page_of_class


def _without(
    figures: HeatmapFigures, frame: Frame, stride: int, labels: Labels, logits: Floats
) -> Tile:
    predicted = logits.argmax(axis=0).astype(np.uint8)
    note = f"{percent((predicted != labels).mean(), 1)} of pixels change"
    return figures.labelled(frame, predicted, f"without {stage_name(figures, stride)}", note)


def _change_page(
    figures: HeatmapFigures,
    frame: Frame,
    index: int,
    changes: dict[int, Floats],
    limit: float,
    predictions: list[Tile],
    key: Sequence[tuple[str, tuple[int, int, int]]],
) -> Rgb:
    """One class: how each skip changes its score, the predictions without it beneath."""
    name = figures.segmenter.classes.names[index]
    tiles = _change_tiles(figures, frame, index, changes, limit)
    scale = _scale_of(limit, f"score of {name} {WITH_MINUS_WITHOUT}", frame)
    return figures.page([*tiles, *predictions], scale=scale, key=key, columns=len(tiles))


def _change_tiles(
    figures: HeatmapFigures, frame: Frame, index: int, changes: dict[int, Floats], limit: float
) -> list[Tile]:
    return [
        Tile(
            signed_map(frame.image, change / limit),
            f"change by {stage_name(figures, stride)}",
            f"mean absolute change {np.abs(change).mean():.2f}",
            figures.color(index),
        )
        for stride, change in changes.items()
    ]


def _scale_of(limit: float, meaning: str, frame: Frame) -> Scale:
    return signed_scale(f"-{limit:.1f}", f"+{limit:.1f}", meaning, image=frame.image)


def _sum_pages(figures: HeatmapFigures, frame: Frame, labels: Labels) -> Iterator[tuple[str, Rgb]]:
    """rungs.png, predictions from coarse to fine; and the contributions to each class."""
    skips = dict(sorted(figures.segmenter.skip_scores(frame.pixels).items(), reverse=True))
    predictions = _coarser(figures, frame, skips)
    key = figures.key(predictions_of(skips))
    yield (
        "rungs.png",
        figures.page(
            [Tile(frame.image, "input"), *predictions],
            key=key,
            columns=len(predictions) + 1,
        ),
    )
    added = {stride: _relative(scores) for stride, scores in skips.items()}
    totals = np.sum(list(added.values()), axis=0)
    drawn = figures.of_interest(labels)
    limit = _limit(totals[list(drawn)])
    for index in drawn:
        of_class = {stride: scores[index] for stride, scores in added.items()}
        tiles = _added_tiles(figures, frame, index, of_class, totals[index], limit)
        tiles += [*predictions, _input(frame)]
        name = figures.segmenter.classes.names[index]
        scale = _scale_of(limit, f"score of {name} against the mean of all classes", frame)
        page_of_class = figures.page(tiles, scale=scale, key=key, columns=len(of_class) + 1)
        yield f"rungs-{figures.page_name(index)}", page_of_class


def _coarser(figures: HeatmapFigures, frame: Frame, skips: dict[int, Floats]) -> list[Tile]:
    """The prediction of the sum up to each skip; only the last is the network's own.

    A partial sum is no FCN-32s or FCN-16s: the network was trained for the sum of all.
    """
    sums = list(np.cumsum(np.stack(list(skips.values())), axis=0))
    final = sums[-1].argmax(axis=0)
    tiles: list[Tile] = []
    for stride, scores in zip(skips, sums, strict=True):
        labels = scores.argmax(axis=0).astype(np.uint8)
        same = "" if scores is sums[-1] else _agreement(figures, labels, final)
        tiles.append(figures.labelled(frame, labels, _extent(figures, stride, skips), same))
    return tiles


def stage_name(figures: HeatmapFigures, stride: int) -> str:
    """A skip by its stride, and in a VGG by the paper's name of its layer."""
    engine = figures.segmenter.engine
    vgg = getattr(engine, "backbone", "").startswith("vgg")
    return f"stride {stride} ({POOLS[stride]})" if vgg else f"stride {stride}"


def _added_tiles(
    figures: HeatmapFigures,
    frame: Frame,
    index: int,
    added: dict[int, Floats],
    total: Floats,
    limit: float,
) -> list[Tile]:
    """What each skip adds to a class's score, and their sum."""
    coarse = next(iter(added))
    tiles = [
        Tile(
            signed_map(frame.image, scores / limit),
            stage_name(figures, stride) if stride == coarse else f"+ {stage_name(figures, stride)}",
            f"mean absolute score {np.abs(scores).mean():.2f}",
            figures.color(index),
        )
        for stride, scores in added.items()
    ]
    return [*tiles, Tile(signed_map(frame.image, total / limit), "= sum", "", figures.color(index))]


def skip_section(
    figures: HeatmapFigures, frame: Frame, labels: Labels, subjects: Sequence[int]
) -> Section:
    """The skips in one figure: predictions, and what each does to the scores of some classes."""
    if figures.segmenter.sums_scores:
        found = figures.segmenter.skip_scores(frame.pixels)
        skips = dict(sorted(found.items(), reverse=True))
        seen, rows = predictions_of(skips), [[*_coarser(figures, frame, skips), _input(frame)]]
        maps = {stride: _relative(scores) for stride, scores in skips.items()}
        total = np.sum(list(maps.values()), axis=0)
        limit, meaning = _limit(total[list(subjects)]), "against the mean of all classes"
    else:
        logits = figures.segmenter.logits(frame.pixels)
        found = figures.segmenter.logits_without_skips(frame.pixels)
        skips = dict(sorted(found.items(), reverse=True))
        seen = np.stack([labels, *(scores.argmax(axis=0) for scores in skips.values())])
        without = (_without(figures, frame, s, labels, scores) for s, scores in skips.items())
        rows = [[*without, figures.labelled(frame, labels, "with all skips")]]
        maps = {stride: _relative(logits - scores) for stride, scores in skips.items()}
        limit = _limit(np.stack(list(maps.values()))[:, list(subjects)])
        meaning = WITH_MINUS_WITHOUT
    for index in subjects:
        of_class = {stride: scores[index] for stride, scores in maps.items()}
        if figures.segmenter.sums_scores:
            row = _added_tiles(figures, frame, index, of_class, total[index], limit)
        else:
            row = [*_change_tiles(figures, frame, index, of_class, limit), _input(frame)]
        scale = _scale_of(
            limit, f"score of {figures.segmenter.classes.names[index]} {meaning}", frame
        )
        rows.append([replace(tile, scale=scale) if tile.color else tile for tile in row])
    tiles = [tile for row in rows for tile in row]
    keys = {"classes": figures.key(seen)}
    heading = (
        "skips: what each adds"
        if figures.segmenter.sums_scores
        else "skips: what changes without each"
    )
    return Section(tiles, heading, keys, columns=len(rows[0]))


def _input(frame: Frame) -> Tile:
    return Tile(frame.image, "input")


def _relative(scores: Floats) -> Floats:
    """Scores (K, H, W) against the mean of the classes: only differences matter to predictions."""
    return np.asarray(scores - scores.mean(axis=0), np.float32)


def _limit(maps: Floats) -> float:
    """One range for the pages of all classes, so that they can be compared."""
    return max(float(np.quantile(np.abs(maps), 0.995)), 1e-6)


def predictions_of(skips: dict[int, Floats]) -> Labels:
    """uint8 (skips, H, W): the labels of the sum up to each skip."""
    sums = np.cumsum(np.stack(list(skips.values())), axis=0)
    return np.asarray(sums.argmax(axis=1), np.uint8)


def refuse_beside(segmenter: Segmenter, name: str, other: Segmenter) -> None:
    """OptionError where `partial-sums` can't compare a network with another, called `name`."""
    ours, theirs = segmenter.classes.names, other.classes.names
    if set(ours) != set(theirs):
        raise OptionError(
            f"--beside {name} has the classes {', '.join(theirs)}; "
            f"{segmenter.title} has {', '.join(ours)}.",
            hint="give networks of the same classes",
        )
    if {path.resolve() for path in segmenter.files} & {path.resolve() for path in other.files}:
        raise OptionError(
            f"--beside {name} is the model that it is to be compared with, {segmenter.title}.",
            hint="give a network that was trained without the finer skips",
        )


def partial_sums(view: View) -> Section:
    """One network with its finer skips left out, above networks that were trained without them."""
    found = view.segmenter.logits_up_to_skips(view.frame.pixels)
    shown = [
        (_extent(view.figures, stride, found), logits.argmax(axis=0))
        for stride, logits in found.items()
    ]
    names = [PurePath(name).name for name, _ in view.beside]  # a caption has little room
    if len(set(names)) < len(names):
        names = [name for name, _ in view.beside]
    for name, (_, other) in zip(names, view.beside, strict=True):
        order = np.array([view.segmenter.classes.index_of(one) for one in other.classes.names])
        predicted = order[other.predict([view.frame.pixels])[0].labels]
        shown.append((f"trained separately: {name}", predicted))
    complete = shown[len(found) - 1][1]
    tiles = []
    for title, labels in shown:
        note = "" if labels is complete else _agreement(view.figures, labels, complete)
        tiles.append(view.figures.labelled(view.frame, labels.astype(np.uint8), title, note))
    keys = {"classes": view.figures.key(np.stack([labels for _, labels in shown]))}
    left_out = "its finer skips left out"
    if not view.segmenter.sums_scores:
        left_out = "zeros for the features of its finer skips (no scores are summed)"
    heading = f"partial-sums: one network with {left_out}, and others"
    return Section(tiles, heading, keys, columns=len(found))


def _extent(figures: HeatmapFigures, stride: int, strides: Collection[int]) -> str:
    """Which skips a prediction has, of those of a network; features are no sum of scores."""
    sums = figures.segmenter.sums_scores
    if stride == min(strides):
        return f"{'sum of all' if sums else 'with all skips'}: FCN-{stride}s"
    name = stage_name(figures, stride)
    if stride == max(strides):
        return f"{name} alone"
    return f"sum to {name}" if sums else f"skips to {name}"


def _agreement(
    figures: HeatmapFigures, labels: NDArray[np.integer], complete: NDArray[np.integer]
) -> str:
    same = percent((labels == complete).mean(), 1)
    complete_is = "in the sum of all" if figures.segmenter.sums_scores else "with all skips"
    return f"{same} of pixels as {complete_is}"
