"""The contribution of each skip connection: its term of the scores, or an ablation without it.

Also predictions without the finer skips, and the pixels that each skip corrects, given labels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import IGNORE
from fcnseg.engines.base import Floats, Labels
from fcnseg.errors import OptionError, percent
from fcnseg.io.sources.base import Frame
from fcnseg.metrics import Confusion, Report
from fcnseg.viz import IGNORED, Panel, View, paint
from fcnseg.viz.drawing import Color, Mask, Rgb, Scale, signed_map, signed_scale
from fcnseg.viz.layout import Key, Section

if TYPE_CHECKING:
    from fcnseg.engines.pytorch import TorchEngine
    from fcnseg.inference.segmenter import Segmenter
    from fcnseg.models.fcn import FCN
    from fcnseg.viz.heatmaps import HeatmapFigures

POOLS = {32: "pool5", 16: "pool4", 8: "pool3", 4: "pool2", 2: "pool1"}
"""The paper's names of VGG's layers, by stride."""

AGAINST_THE_MEAN = "against the mean of all classes"

WITH_MINUS_WITHOUT = (
    f"{AGAINST_THE_MEAN}, with the skip minus without it; such changes do not add up"
)


@dataclass(frozen=True, eq=False)
class _Skips:
    """The effect of each skip on the prediction of a frame.

    predictions: of the sum up to each skip, or without each skip. seen: their labels, uint8
    (N, H, W). maps: stride -> its scores, or the changes by it, float32 (K, H, W), from coarse to
    fine. total: the sum of scores; None: changes, which do not add up. meaning: of the values.
    """

    figures: HeatmapFigures
    frame: Frame
    predictions: list[Panel]
    seen: Labels
    maps: dict[int, Floats]
    total: Floats | None
    meaning: str

    @classmethod
    def of(cls, figures: HeatmapFigures, frame: Frame, labels: Labels) -> _Skips:
        """Exact terms if scores are summed; else the changes without each skip."""
        segmenter = figures.segmenter
        if segmenter.sums_scores:
            found = _from_coarse(segmenter.skip_scores(frame.pixels))
            maps = {stride: _relative(scores) for stride, scores in found.items()}
            total = np.sum(list(maps.values()), axis=0)
            predictions, seen = _coarser(figures, frame, found), _predictions_of(found)
            return cls(figures, frame, predictions, seen, maps, total, AGAINST_THE_MEAN)
        logits = segmenter.logits(frame.pixels)
        found = _from_coarse(segmenter.logits_without_skips(frame.pixels))
        maps = {stride: _relative(logits - scores) for stride, scores in found.items()}
        predictions = [_without(figures, frame, s, labels, scores) for s, scores in found.items()]
        seen = np.stack([labels, *(scores.argmax(axis=0) for scores in found.values())])
        return cls(figures, frame, predictions, seen, maps, None, WITH_MINUS_WITHOUT)

    def limit(self, classes: Sequence[int]) -> float:
        """A common range for several classes, so that they can be compared."""
        chosen = list(classes)
        if self.total is not None:
            return _limit(self.total[chosen])
        return _limit(np.stack(list(self.maps.values()))[:, chosen])

    def scale(self, index: int, limit: float) -> Scale:
        """The color scale of a class's panels."""
        meaning = f"score of {self.figures.segmenter.classes.names[index]} {self.meaning}"
        return signed_scale(f"-{limit:.1f}", f"+{limit:.1f}", meaning, image=self.frame.image)

    def panels(self, index: int, limit: float) -> list[Panel]:
        """The terms of a class's score and their sum, or the changes by each skip."""
        image, color = self.frame.image, self.figures.color(index)
        panels: list[Panel] = []
        for stride, maps in self.maps.items():
            stage = stage_name(self.figures, stride)
            title, what = f"+ {stage}" if panels else stage, "score"
            if self.total is None:
                title, what = f"change by {stage}", "change"
            note = f"mean absolute {what} {np.abs(maps[index]).mean():.2f}"
            panels.append(Panel(signed_map(image, maps[index] / limit), title, note, color))
        if self.total is not None:
            panels.append(Panel(signed_map(image, self.total[index] / limit), "= sum", "", color))
        return panels


def skip_pages(figures: HeatmapFigures, frame: Frame, labels: Labels) -> Iterator[tuple[str, Rgb]]:
    """Yield skips.png, with predictions up to each skip or without it; and a page per class."""
    skips, given = _Skips.of(figures, frame, labels), Panel(frame.image, "input")
    key, sums = figures.key(skips.seen), skips.total is not None
    prediction = [] if sums else [figures.labelled(frame, labels, "prediction")]
    panels = [given, *prediction, *skips.predictions]
    yield "skips.png", figures.page(panels, key=key, columns=len(panels))
    drawn = figures.of_interest(labels)
    limit = skips.limit(drawn)
    for index in drawn:
        of_class = skips.panels(index, limit)
        panels = [*of_class, *skips.predictions, *[given] * sums]
        scale = skips.scale(index, limit)
        page_of_class = figures.page(panels, scale=scale, key=key, columns=len(of_class))
        yield f"skips-{figures.page_name(index)}", page_of_class


def skip_section(view: View) -> Section:
    """The skips in one figure: predictions, and the effect of each on the scores of classes."""
    figures, frame, labels = view.figures, view.frame, view.predicted.labels
    skips, given = _Skips.of(figures, frame, labels), Panel(frame.image, "input")
    sums, limit = skips.total is not None, skips.limit(view.subjects)
    last = given if sums else figures.labelled(frame, labels, "with all skips")
    panels = [*skips.predictions, last]
    columns = len(panels)
    for index in view.subjects:
        scale = skips.scale(index, limit)
        panels += [replace(panel, scale=scale) for panel in skips.panels(index, limit)]
        panels += [given] * (not sums)
    heading = "skips: what each adds" if sums else "skips: what changes without each"
    return Section(panels, heading, {"classes": figures.key(skips.seen)}, columns=columns)


def _from_coarse(found: dict[int, Floats]) -> dict[int, Floats]:
    return dict(sorted(found.items(), reverse=True))


def _without(
    figures: HeatmapFigures, frame: Frame, stride: int, labels: Labels, logits: Floats
) -> Panel:
    predicted = logits.argmax(axis=0).astype(np.uint8)
    note = f"{percent((predicted != labels).mean(), 1)} of pixels change"
    return figures.labelled(frame, predicted, f"without {stage_name(figures, stride)}", note)


def _coarser(figures: HeatmapFigures, frame: Frame, skips: dict[int, Floats]) -> list[Panel]:
    """The predictions of the sum up to each skip; only the last is the network's own.

    A partial sum is not an FCN-32s or FCN-16s: the network was trained for the sum of all.
    """
    sums = list(np.cumsum(np.stack(list(skips.values())), axis=0))
    final = sums[-1].argmax(axis=0)
    panels: list[Panel] = []
    for stride, scores in zip(skips, sums, strict=True):
        labels = scores.argmax(axis=0).astype(np.uint8)
        same = "" if scores is sums[-1] else _agreement(figures, labels, final)
        panels.append(figures.labelled(frame, labels, _extent(figures, stride, skips), same))
    return panels


def stage_name(figures: HeatmapFigures, stride: int) -> str:
    """The name of a stage: "pool4 (stride 16)", or "stride 16 (like pool4)"."""
    pool = pool_name(cast("TorchEngine", figures.segmenter.engine).network, stride)
    if pool in POOLS.values():
        return f"{pool} (stride {stride})"
    return f"stride {stride} ({pool})" if pool else f"stride {stride}"


def pool_name(network: FCN, stride: int) -> str:
    """The paper's name of a VGG's stage, else "like pool4"; "" for a dilated last stage."""
    if network.backbone.output_stride < 32 and stride >= network.backbone.output_stride:
        return ""
    return POOLS[stride] if network.spec.backbone.startswith("vgg") else f"like {POOLS[stride]}"


def _relative(scores: Floats) -> Floats:
    """Scores (K, H, W) minus the mean over classes: only differences affect predictions."""
    return np.asarray(scores - scores.mean(axis=0), np.float32)


def _limit(maps: Floats) -> float:
    """The range of values without outliers (99.5 % quantile)."""
    return max(float(np.quantile(np.abs(maps), 0.995)), 1e-6)


def _predictions_of(skips: dict[int, Floats]) -> Labels:
    """uint8 (skips, H, W): the labels of the sum up to each skip."""
    sums = np.cumsum(np.stack(list(skips.values())), axis=0)
    return np.asarray(sums.argmax(axis=1), np.uint8)


def refuse_beside(segmenter: Segmenter, name: str, other: Segmenter) -> None:
    """OptionError when `partial-sums` can't compare a network with another, given as `name`."""
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
    """One network without its finer skips, and networks that were trained without them."""
    found = view.segmenter.logits_up_to_skips(view.frame.pixels)
    shown = [
        (_extent(view.figures, stride, found), logits.argmax(axis=0))
        for stride, logits in found.items()
    ]
    names = [PurePath(name).name for name, _ in view.beside]  # captions are short
    if len(set(names)) < len(names):
        names = [name for name, _ in view.beside]
    for name, (_, other) in zip(names, view.beside, strict=True):
        order = np.array([view.segmenter.classes.index_of(one) for one in other.classes.names])
        predicted = order[other.predict([view.frame.pixels])[0].labels]
        shown.append((f"trained separately: {name}", predicted))
    complete = shown[len(found) - 1][1]
    panels = []
    for title, labels in shown:
        note = "" if labels is complete else _agreement(view.figures, labels, complete)
        panels.append(view.figures.labelled(view.frame, labels.astype(np.uint8), title, note))
    keys = {"classes": view.figures.key(np.stack([labels for _, labels in shown]))}
    left_out = "its finer skips left out"
    if not view.segmenter.sums_scores:
        left_out = "zeros for the features of its finer skips (no scores are summed)"
    heading = f"partial-sums: one network with {left_out}, and others"
    return Section(panels, heading, keys, columns=len(found))


def _extent(figures: HeatmapFigures, stride: int, strides: Collection[int]) -> str:
    """The caption of a prediction: which of the network's skips it includes."""
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


# --- with labels: the pixels that each skip makes right or wrong

MADE_RIGHT, MADE_WRONG, STILL_WRONG = "made right", "made wrong", "changed, still wrong"

CHANGES: dict[str, Color] = {
    MADE_RIGHT: (60, 205, 120),
    MADE_WRONG: (235, 60, 60),
    STILL_WRONG: (250, 220, 60),
}


def gained(view: View) -> Section:
    """The pixels that each skip makes right or wrong, and its points of mIoU."""
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
    panels = [coarse]
    for gain in steps:
        areas = [(area, CHANGES[name]) for name, area in gain.areas.items()]
        drawn = paint(view.frame.image, areas, ignored)
        panels.append(gain_panel(drawn, gain, stage_name(view.figures, gain.stride), view.truth))
    keys: dict[str, Key] = {"classes": view.figures.key(predictions[first.stride])}
    keys["changes"] = [*CHANGES.items(), *[("no label", IGNORED)] * bool(ignored.any())]
    heading = "gained: what each skip changed, all finer ones left out"
    return Section(panels, heading, keys, columns=len(panels))


@dataclass(frozen=True, eq=False)
class Gain:
    """The changes by the skip of a stride, on labelled pixels.

    areas: bool (H, W) each, by MADE_RIGHT, MADE_WRONG, STILL_WRONG. miou: with the skip, 0..1, of
    the labelled classes; points: its increase, in percentage points. NaN without labels.
    """

    stride: int
    areas: Mapping[str, Mask]
    miou: float
    points: float


def gains(truth: Labels, predictions: Mapping[int, Labels], classes: tuple[str, ...]) -> list[Gain]:
    """The gain of each skip, from coarse to fine; the first gain is the mIoU of the coarsest.

    truth: uint8 (H, W), 255 = ignore. predictions: stride -> uint8 (H, W) with the skips down to
    it. All points sum to 100 times the last mIoU.
    """
    found: list[Gain] = []
    counted = truth != IGNORE
    before = np.full_like(truth, IGNORE)  # no prediction yet: neither right nor wrong
    for stride, labels in predictions.items():
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
    """A gain as text: percentages of labelled pixels, and the mIoU."""
    total = max(int((truth != IGNORE).sum()), 1)
    right, wrong = (percent(gain.areas[name].sum() / total) for name in (MADE_RIGHT, MADE_WRONG))
    return f"made right {right}, wrong {wrong}; {miou_of(gain)}"


def miou_of(gain: Gain) -> str:
    """The mIoU with a skip, for a caption."""
    return "mIoU -" if np.isnan(gain.miou) else f"mIoU {100 * gain.miou:.2f}"


def gain_panel(drawn: Rgb, gain: Gain, stage: str, truth: Labels) -> Panel:
    """A panel with a map of a skip's changes, and its points of mIoU."""
    now = 100 * gain.miou
    added = round(now, 2) - round(now - gain.points, 2)  # the difference of the printed values
    points = "no label" if np.isnan(added) else f"{added:+z.2f} points of mIoU"
    return Panel(drawn, f"+ {stage}: {points}", _note(gain, truth))
