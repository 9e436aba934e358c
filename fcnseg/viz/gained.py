"""What each skip made right and made wrong, against labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import IGNORE
from fcnseg.errors import percent
from fcnseg.metrics import Confusion, Report
from fcnseg.viz import IGNORED, Tile, View, paint
from fcnseg.viz.drawing import Color
from fcnseg.viz.layout import Key, Section
from fcnseg.viz.skips import stage_name

Labels = NDArray[np.uint8]

Mask = NDArray[np.bool_]

MADE_RIGHT, MADE_WRONG, STILL_WRONG = "made right", "made wrong", "changed, still wrong"

CHANGES: dict[str, Color] = {
    MADE_RIGHT: (60, 205, 120),
    MADE_WRONG: (235, 60, 60),
    STILL_WRONG: (250, 220, 60),
}


def gained(view: View) -> Section:
    """What each skip made right and made wrong, with its points of mIoU."""
    found = view.segmenter.logits_up_to_skips(view.frame.pixels)
    predictions = {s: logits.argmax(axis=0).astype(np.uint8) for s, logits in found.items()}
    first, *steps = gains(view.truth, predictions, view.segmenter.classes.names)
    coarse = view.figures.labelled(
        view.frame,
        predictions[first.stride],
        f"{stage_name(view.figures, first.stride)} alone",
        miou_of(first),
    )
    ignored = view.truth == IGNORE
    tiles = [coarse]
    for gain in steps:
        areas = [(area, CHANGES[name]) for name, area in gain.areas.items()]
        drawn = paint(view.frame.image, areas, ignored)
        tiles.append(gain_tile(drawn, gain, stage_name(view.figures, gain.stride), view.truth))
    keys: dict[str, Key] = {"classes": view.figures.key(predictions[first.stride])}
    keys["changes"] = [*CHANGES.items(), *[("no label", IGNORED)] * bool(ignored.any())]
    heading = "gained: what each skip changed, all finer ones left out"
    return Section(tiles, heading, keys, columns=len(tiles))


@dataclass(frozen=True, eq=False)
class Gain:
    """What the skip of a stride changed, where there is a label.

    areas: bool (H, W) each, by MADE_RIGHT, MADE_WRONG, STILL_WRONG. miou: with it, 0..1, of the
    classes that are labelled; points: what it added to that, in points (hundredths). NaN without
    any label.
    """

    stride: int
    areas: Mapping[str, Mask]
    miou: float
    points: float


def gains(truth: Labels, predictions: Mapping[int, Labels], classes: tuple[str, ...]) -> list[Gain]:
    """The gain of each skip, from coarse to fine; that of the first is its own mIoU.

    truth: uint8 (H, W), 255 = ignore. predictions: uint8 (H, W) with the skips down to a stride.
    The points of all sum to 100 times the last mIoU.
    """
    found: list[Gain] = []
    before = np.full_like(truth, IGNORE)  # nothing is predicted: neither right nor wrong yet
    for stride, labels in predictions.items():
        counted = truth != IGNORE
        changed = counted & (labels != before) & bool(found)
        was, now = before == truth, labels == truth
        areas = {
            MADE_RIGHT: changed & now,
            MADE_WRONG: changed & was,
            STILL_WRONG: changed & ~was & ~now,
        }
        confusion = Confusion(len(classes))
        confusion.add(truth, labels)
        miou = Report.of(confusion.matrix, classes, 1).miou
        points = 100 * (miou - (found[-1].miou if found else 0.0))
        found.append(Gain(stride, areas, miou, points))
        before = labels
    return found


def _note(gain: Gain, truth: Labels) -> str:
    """A gain's figures: pixels in percent of those with a label, and the mIoU that is reached."""
    total = max(int((truth != IGNORE).sum()), 1)
    right, wrong = (percent(gain.areas[name].sum() / total) for name in (MADE_RIGHT, MADE_WRONG))
    return f"made right {right}, wrong {wrong}; {miou_of(gain)}"


def miou_of(gain: Gain) -> str:
    """The mIoU that is reached, for a caption."""
    return "mIoU -" if np.isnan(gain.miou) else f"mIoU {100 * gain.miou:.2f}"


def gain_tile(drawn: Labels, gain: Gain, stage: str, truth: Labels) -> Tile:
    """A map of what a skip changed, with its points."""
    now = 100 * gain.miou
    added = round(now, 2) - round(now - gain.points, 2)  # of the figures that are shown
    points = "no label" if np.isnan(added) else f"{added:+z.2f} points of mIoU"
    return Tile(drawn, f"+ {stage}: {points}", _note(gain, truth))
