"""What each skip connection adds: its exact part of the scores, or what changes without it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fcnseg.engines.pytorch import TorchEngine
from fcnseg.errors import percent
from fcnseg.io.sources.base import Frame
from fcnseg.viz import Tile, page, signed_map, signed_scale

if TYPE_CHECKING:
    from fcnseg.viz.heatmaps import HeatmapFigures

Rgb = NDArray[np.uint8]

Labels = NDArray[np.uint8]

Floats = NDArray[np.float32]

POOLS = {32: "pool5", 16: "pool4", 8: "pool3", 4: "pool2", 2: "pool1"}
"""The paper's names of a VGG's layers, by their strides."""


def skip_pages(figures: HeatmapFigures, frame: Frame, labels: Labels) -> Iterator[tuple[str, Rgb]]:
    """Each skip's exact part where scores are summed, else what changes without it."""
    engine = figures.segmenter.engine
    if isinstance(engine, TorchEngine) and not engine.sums_scores:
        yield from _ablation_pages(figures, frame, labels)
    else:
        yield from _sum_pages(figures, frame)


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
    yield "rungs.png", page(tiles, key=key, columns=len(tiles), width=figures.width)
    changes = {stride: _relative(logits - scores) for stride, scores in without.items()}
    limit = _limit(np.stack(list(changes.values()))[:, list(figures.chosen)])
    for index in figures.chosen:
        of_class = {stride: change[index] for stride, change in changes.items()}
        page_of_class = _change_page(figures, frame, index, of_class, limit, predictions, key)
        yield f"rungs-{figures.page_name(index)}", page_of_class


def _without(
    figures: HeatmapFigures, frame: Frame, stride: int, labels: Labels, logits: Floats
) -> Tile:
    predicted = logits.argmax(axis=0).astype(np.uint8)
    note = f"{percent((predicted != labels).mean(), 1)} of pixels change"
    return figures.labelled(frame, predicted, f"without {_stage(figures, stride)}", note)


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
    tiles = [
        Tile(
            signed_map(frame.image, change / limit),
            f"change by {_stage(figures, stride)}",
            f"mean absolute score {np.abs(change).mean():.2f}",
            figures.color(index),
        )
        for stride, change in changes.items()
    ]
    meaning = f"score of {name} with the skip minus without it (not a sum)"
    scale = signed_scale(f"-{limit:.1f}", f"+{limit:.1f}", meaning)
    return page(
        [*tiles, *predictions], scale=scale, key=key, columns=len(tiles), width=figures.width
    )


def _sum_pages(figures: HeatmapFigures, frame: Frame) -> Iterator[tuple[str, Rgb]]:
    """rungs.png, predictions from coarse to fine; and the contributions to each class."""
    skips = dict(sorted(figures.segmenter.skip_scores(frame.pixels).items(), reverse=True))
    predictions = _coarser(figures, frame, skips)
    key = figures.key(predictions_of(skips))
    yield (
        "rungs.png",
        page(
            [Tile(frame.image, "input"), *predictions],
            key=key,
            columns=len(predictions) + 1,
            width=figures.width,
        ),
    )
    added = {stride: _relative(scores) for stride, scores in skips.items()}
    totals = np.sum(list(added.values()), axis=0)
    limit = _limit(totals[list(figures.chosen)])
    for index in figures.chosen:
        of_class = {stride: scores[index] for stride, scores in added.items()}
        page_of_class = _contributions(
            figures, frame, index, of_class, totals[index], limit, predictions, key
        )
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
        same = f"{percent((labels == final).mean(), 1)} of pixels as in the sum of all"
        if scores is sums[-1]:
            title, same = f"sum of all: FCN-{stride}s", ""
        else:
            title = f"{_stage(figures, stride)} alone" if not tiles else f"sum to {stride}"
        tiles.append(figures.labelled(frame, labels, title, same))
    return tiles


def _stage(figures: HeatmapFigures, stride: int) -> str:
    """A skip by its stride, and in a VGG by the paper's name of its layer."""
    engine = figures.segmenter.engine
    vgg = isinstance(engine, TorchEngine) and engine.backbone.startswith("vgg")
    return f"stride {stride} ({POOLS[stride]})" if vgg else f"stride {stride}"


def _contributions(
    figures: HeatmapFigures,
    frame: Frame,
    index: int,
    added: dict[int, Floats],
    total: Floats,
    limit: float,
    predictions: list[Tile],
    key: Sequence[tuple[str, tuple[int, int, int]]],
) -> Rgb:
    """One class: what each skip adds to its score, their sum, the predictions beneath."""
    name = figures.segmenter.classes.names[index]
    coarse = next(iter(added))
    tiles = [
        Tile(
            signed_map(frame.image, scores / limit),
            _stage(figures, stride) if stride == coarse else f"+ {_stage(figures, stride)}",
            f"mean absolute score {np.abs(scores).mean():.2f}",
            figures.color(index),
        )
        for stride, scores in added.items()
    ]
    tiles += [
        Tile(signed_map(frame.image, total / limit), "= sum", "", figures.color(index)),
        *predictions,
        Tile(frame.image, "input"),
    ]
    scale = signed_scale(
        f"-{limit:.1f}", f"+{limit:.1f}", f"score of {name} against the mean of all classes"
    )
    return page(tiles, scale=scale, key=key, columns=len(added) + 1, width=figures.width)


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
