"""What an ImageNet classifier sees, and where (section 3.1): heatmaps without any training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fcnseg.device import resolve_device
from fcnseg.engines.base import resized
from fcnseg.errors import OptionError, closest, percent
from fcnseg.files import safe_filename
from fcnseg.io.draw import heatmap
from fcnseg.io.images import resize_image
from fcnseg.io.sources.base import Frame
from fcnseg.models.backbones import Backbone, torchvision, upsample
from fcnseg.models.fcn import crop, pad_to_multiple, size_of
from fcnseg.models.networks import BACKBONES, find_backbone, load_classifier
from fcnseg.progress import Callback, no_callback
from fcnseg.viz import Tile
from fcnseg.viz.drawing import THEMES, Theme, grey, heat_scale
from fcnseg.viz.layout import page

DEFAULT = "efficientnet_lite0"
"""The classifier taken when none is named: its weights come with the installation."""

SHORT_SIDE = 448
"""Pixels an image's short side is shrunk to: the classifier learned from things this large."""

TOP = 5
"""Classes drawn when none are named: those the whole image looks most like."""


@dataclass(frozen=True)
class ImageNetHeatmaps:
    """Draws where an ImageNet classifier sees its classes.

    chosen: class indices; empty: the TOP most likely of each image.
    """

    classifier: DenseClassifier
    device: torch.device
    chosen: tuple[int, ...]
    alpha: float
    theme: Theme = THEMES["dark"]

    @classmethod
    def of(
        cls,
        name: str | None,
        classes: Sequence[str],
        *,
        alpha: float,
        theme: Theme = THEMES["dark"],
        device: str = "auto",
        callback: Callback = no_callback,
    ) -> ImageNetHeatmaps:
        """The figures for a backbone's name (`vgg16`, ...); OptionError for unknown names."""
        classifier = dense_classifier(name or DEFAULT, callback=callback)
        known = list(classifier.names)  # some names stand twice: not a ClassMap
        chosen = tuple(_index_of(wanted, known) for wanted in classes)
        place = resolve_device(device)
        return cls(classifier.to(place), place, tuple(dict.fromkeys(chosen)), alpha, theme)

    def images(self, frame: Frame) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """overview.png and a page for each class, with their file names."""
        overall, probabilities = self.look(frame.image)
        tiles = [
            Tile(
                heatmap(grey(frame.image), probability, alpha=self.alpha),
                self.classifier.names[index],
                f"{percent(overall[index], 1)} for the whole image, peak {probability.max():.2f}",
            )
            for index, probability in probabilities.items()
        ]
        meaning = "probability at each place, of 1000 classes"
        scale = heat_scale("0", "1", meaning, image=frame.image, alpha=self.alpha)
        given, drawn = Tile(frame.image, "input"), partial(page, scale=scale, theme=self.theme)
        yield "overview.png", drawn([given, *tiles], columns=3)
        for index, tile in zip(probabilities, tiles, strict=True):
            name = f"{index:03}-{safe_filename(self.classifier.names[index])}.png"
            yield name, drawn([given, tile], columns=2)

    @torch.no_grad()
    def look(
        self, image: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], dict[int, NDArray[np.float32]]]:
        """What a uint8 RGB image (H, W, 3) shows, and where.

        Returns the whole image's probabilities float32 (1000,), by the mean of all cells'
        scores, and for each class drawn its probability at every pixel, float32 (H, W).
        """
        height, width = image.shape[:2]
        factor = min(1.0, SHORT_SIDE / min(height, width))
        size = max(1, round(height * factor)), max(1, round(width * factor))
        pixels = torch.from_numpy(np.ascontiguousarray(resize_image(image, size)))[None]
        inputs = self.classifier.preprocess.normalise(pixels.to(self.device))
        scores = self.classifier(inputs)  # (1, 1000, h, w)
        overall = scores.mean(dim=(2, 3)).softmax(dim=1)[0].cpu().numpy()
        chosen = list(self.chosen) or np.argsort(-overall)[:TOP].tolist()
        cells = scores.softmax(dim=1)[:, chosen]  # (1, C, h, w)
        maps = resized(self.classifier.to_pixels(cells, size).cpu(), (height, width))
        shown = np.clip(np.asarray(maps), 0, 1)[0]  # (C, H, W)
        return overall, dict(zip(chosen, shown, strict=True))


def _index_of(wanted: str, known: list[str]) -> int:
    """The index of an ImageNet class by its name or number; OptionError names the nearest."""
    if wanted in known:
        return known.index(wanted)
    if wanted.isdecimal() and int(wanted) < len(known):
        return int(wanted)
    near = sorted({name for name in known if wanted.lower() in name.lower()})[:6]
    near = near or closest(wanted, known, most=6, cutoff=0.3)
    raise OptionError(
        f"ImageNet has no class {wanted!r}; it has 1000, such as {', '.join(near)}.",
        hint="give one of its names, or a number from 0 to 999; without --class, the likeliest",
    )


class DenseClassifier(nn.Module):
    """A classifier with its layers behind the pooling as convolutions.

    backbone: fc6 and fc7 belong to it where there are such.
    head: from the backbone's coarsest map to scores of the 1000 classes.
    names: of the classes.
    """

    def __init__(self, backbone: Backbone, head: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.preprocess = backbone.preprocess
        self.names = names

    def forward(self, images: Tensor) -> Tensor:
        """Normalised float (N, 3, H, W), any size -> scores (N, 1000, H/s, W/s), rounded up."""
        padded = pad_to_multiple(images, self.backbone.stride)
        return self.head(self.backbone(padded)[self.backbone.stride])  # type: ignore[no-any-return]

    def to_pixels(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Some classes' maps (N, C, h, w), where they belong on the image: (N, C, *size)."""
        stride = self.backbone.stride
        height, width = size_of(maps)
        full = (height * stride, width * stride)
        return crop(upsample(maps, stride, self.backbone.offsets[stride], full), *size)


def dense_classifier(
    name: str, weights: str | Path = "auto", callback: Callback = no_callback
) -> DenseClassifier:
    """A backbone of the table with its classifier, fully convolutional, in evaluation mode.

    weights: as for load_pretrained, but with the classifier's layers.
    Raises OptionError for a backbone without a classifier, CheckpointError for weights that
    can't be had.
    """
    fc = f"{name}:fc"
    name = fc if fc in BACKBONES else name
    if find_backbone(name).head is None:
        raise OptionError(f"The backbone {name} has no classifier of ImageNet's classes.")
    spec, model = load_classifier(name, weights, callback)
    assert spec.head is not None
    with torch.no_grad():
        backbone, head = Backbone(name, spec, model), spec.head(model)
        return DenseClassifier(backbone, head, torchvision.imagenet_names()).eval()
