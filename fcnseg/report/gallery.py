"""Images for the viewer of a report, small enough for hundreds in one file."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fcnseg.classes import IGNORE, ClassMap
from fcnseg.datasets.loader import LabelledImages, Sample
from fcnseg.errors import printable
from fcnseg.inference.prediction import PredictedArrays
from fcnseg.io.images import encode_image, resize_image, resize_labels
from fcnseg.metrics import none_for_nan
from fcnseg.metrics.regions import COLORS, KINDS, RIGHT, kinds_of_errors
from fcnseg.progress import Callback, Progress, no_callback

SIDE = 320
"""Longer side of an image in a report, in pixels."""

BUDGET = 10_000_000
"""Maximum size of all images of a report, in characters; the rest are listed by name."""

MAX_HEATMAPS = 20
"""Maximum number of heatmaps per image: those of the most probable classes."""

TERMS_SIDE, MAX_TERMS = 64, 6
"""Longer side of the grid of the skips' terms, and maximum number of their classes."""

Rgb = NDArray[np.uint8]
Labels = NDArray[np.uint8]


@dataclass
class Gallery:
    """Views of images, up to a total size.

    tolerance: of outlines, in pixels, for kinds of errors.
    views: data for the viewer, by the image's index in the dataset.
    """

    classes: ClassMap
    tolerance: int
    views: dict[int, dict[str, Any]] = field(default_factory=dict)
    spent: int = 0

    @property
    def full(self) -> bool:
        """Whether the budget is spent."""
        return self.spent >= BUDGET

    def add(
        self,
        index: int,
        sample: Sample,
        predicted: Mapping[str, PredictedArrays],
        scores: Sequence[float],
        skips: Mapping[int, NDArray[np.float32]] | None = None,
    ) -> None:
        """Add an image with its labels and predictions (by model name).

        skips: stride -> each skip's term of the logits, (K, H, W), if they are a sum of these.
        """
        size = _small(sample.labels.shape)
        layers = [self._labels("labels", sample.labels, size)]
        for name, one in predicted.items():
            layers.append(self._labels(name, one.labels, size))
            kinds = kinds_of_errors(sample.labels, one.labels, self.tolerance)
            title = "errors" if len(predicted) == 1 else f"errors of {name}"
            layers.append({"title": title, "src": _indexed(_thinned(kinds, size), _KINDS, RIGHT)})
            if one.probabilities is not None:
                layers += self._heatmaps(one.probabilities, size)
        image = jpeg(resize_image(sample.image, size))
        view = {
            "name": printable(sample.name),
            "scores": list(map(none_for_nan, scores)),
            "width": size[1],
            "height": size[0],
            "image": image,
            "layers": layers,
            "terms": self._terms(skips) if skips else None,
        }
        self.spent += len(image) + sum(len(layer["src"]) for layer in layers)
        self.views[index] = view

    def _labels(self, title: str, labels: Labels, size: tuple[int, int]) -> dict[str, Any]:
        source = _indexed(resize_labels(labels, size), self.classes.palette(), IGNORE)
        return {"title": title, "src": source}

    def _heatmaps(self, probabilities: Any, size: tuple[int, int]) -> list[dict[str, Any]]:
        amounts = probabilities.mean(axis=(1, 2))
        kept = sorted(np.argsort(-amounts)[:MAX_HEATMAPS].tolist())
        layers = []
        for k in kept:
            levels = np.rint(255 * np.clip(probabilities[k], 0, 1)).astype(np.uint8)
            source = png(resize_image(levels, size))
            title = f"probability of {printable(self.classes.names[k])}"
            layers.append({"title": title, "src": source, "heat": printable(self.classes.names[k])})
        return layers

    def _terms(self, skips: Mapping[int, NDArray[np.float32]]) -> dict[str, Any]:
        """The skips' terms on a grid of pixels, for the classes with the highest mean logits.

        values: int16 (skips, classes, rows, columns), little-endian in base64, times `step`.
        """
        size = next(iter(skips.values())).shape[1:]
        rows, columns = (_centers(side, TERMS_SIDE * side / max(size)) for side in size)
        strides = sorted(skips, reverse=True)
        terms = np.stack([skips[stride][:, rows][:, :, columns] for stride in strides])
        highest = np.argsort(-terms.sum(axis=0).mean(axis=(1, 2)))[:MAX_TERMS]
        kept = terms[:, highest]
        step = max(float(np.abs(kept).max()), 1e-6) / 32767
        values = np.rint(kept / step).astype("<i2").tobytes()
        return {
            "strides": strides,
            "classes": [printable(self.classes.names[k]) for k in highest],
            "width": len(columns),
            "height": len(rows),
            "step": step,
            "values": base64.b64encode(values).decode("ascii"),
        }


def legend(classes: ClassMap) -> list[dict[str, str]]:
    """Names and colors of classes, for a page."""
    return [
        {"name": printable(name), "color": _hex(color)}
        for name, color in zip(classes.names, classes.colors.tolist(), strict=True)
    ]


def kinds_legend() -> list[dict[str, str]]:
    """Names and colors of kinds of errors, for a page."""
    return [{"name": kind, "color": _hex(color)} for kind, color in zip(KINDS, COLORS, strict=True)]


def _hex(color: Sequence[int]) -> str:
    return "#" + "".join(f"{value:02x}" for value in color)


def _small(size: tuple[int, ...]) -> tuple[int, int]:
    factor = min(1.0, SIDE / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _centers(side: int, count: float) -> NDArray[np.intp]:
    """Indices of about `count` pixels, evenly spaced over a side; all of a shorter side."""
    parts = min(side, max(1, round(count)))
    return ((np.arange(parts) + 0.5) * side / parts).astype(np.intp)


def _thinned(kinds: Labels, size: tuple[int, int]) -> Labels:
    """Shrink a map of kinds of errors without losing isolated wrong pixels."""
    height, width = kinds.shape
    if size == (height, width):
        return kinds
    rows, columns = np.nonzero(kinds != RIGHT)
    small = np.full(size, RIGHT, np.uint8)
    small[rows * size[0] // height, columns * size[1] // width] = kinds[rows, columns]
    return small


def _indexed(labels: Labels, palette: Rgb, clear: int) -> str:
    """A PNG with a palette, as a data URL; the index `clear` is transparent."""
    image = Image.fromarray(labels)
    image.putpalette(palette.ravel().tolist())
    out = io.BytesIO()
    image.save(out, "PNG", transparency=clear)
    return _uri(out.getvalue(), "png")


def png(image: Rgb) -> str:
    """A PNG of an RGB or grey image, as a data URL."""
    return _uri(encode_image(image), "png")


def jpeg(image: Rgb) -> str:
    """A JPEG of an RGB image, as a data URL."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=82)
    return _uri(out.getvalue(), "jpeg")


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


_KINDS = np.zeros((256, 3), np.uint8)
_KINDS[: len(KINDS)] = COLORS

Predict = Callable[[Rgb, bool], PredictedArrays]
"""An image uint8 (H, W, 3), and whether to compute probabilities -> a model's prediction."""

Skips = Callable[[Rgb], Mapping[int, NDArray[np.float32]]]
"""An image -> stride -> each skip's term of the logits, float32 (K, H, W)."""

MAX_IMAGES = 300
"""Maximum number of images in a report's viewer."""

WORST, BEST = 8, 4
"""Number of images with probabilities."""


def fill(
    gallery: Gallery,
    dataset: LabelledImages,
    predict: Mapping[str, Predict],
    order: Sequence[int],
    scores: Mapping[int, Sequence[float]],
    callback: Callback = no_callback,
    *,
    skips: Skips | None = None,
) -> None:
    """Add a dataset's images to a gallery until it is full.

    order: indices, the most important first; the first WORST + BEST get probabilities and the
    skips' terms. skips: for networks whose scores are a sum.
    """
    chosen = list(order)[:MAX_IMAGES]
    for done, index in enumerate(chosen):
        if gallery.full:
            break
        sample = dataset[index]
        detailed = done < WORST + BEST
        found = {name: one(sample.image, detailed) for name, one in predict.items()}
        terms = skips(sample.image) if detailed and skips is not None else None
        drawn = sample._replace(image=dataset.to_rgb(sample.image))
        gallery.add(index, drawn, found, scores[index], terms)
        callback(Progress("report", done + 1, len(chosen), "images"))
