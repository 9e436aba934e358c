"""Heatmaps of a fully convolutional ImageNet classifier (section 3.1), without training."""

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
from fcnseg.viz import Panel
from fcnseg.viz.drawing import THEMES, Theme, grey, heat_scale
from fcnseg.viz.layout import page

DEFAULT = "efficientnet_lite0"
"""The default classifier, whose weights come with the installation."""

SHORT_SIDE = 448
"""Short side that larger images are resized to: objects have about the size as in training."""

TOP = 5
"""Number of classes drawn by default: the most probable ones of the image."""


@dataclass(frozen=True)
class ImageNetHeatmaps:
    """Draws the heatmaps of an ImageNet classifier.

    chosen: class indices; empty: the TOP most probable ones of each image.
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
        known = list(classifier.names)  # some names occur twice: not a ClassMap
        chosen = tuple(_index_of(wanted, known) for wanted in classes)
        place = resolve_device(device)
        return cls(classifier.to(place), place, tuple(dict.fromkeys(chosen)), alpha, theme)

    def images(self, frame: Frame) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """overview.png and a page for each class, with their file names."""
        overall, probabilities = self.look(frame.image)
        panels = [
            Panel(
                heatmap(grey(frame.image), probability, alpha=self.alpha),
                self.classifier.names[index],
                f"{percent(overall[index], 1)} for the entire image, peak {probability.max():.2f}",
            )
            for index, probability in probabilities.items()
        ]
        meaning = "probability at each place, of 1000 classes"
        scale = heat_scale("0", "1", meaning, image=frame.image, alpha=self.alpha)
        given, drawn = Panel(frame.image, "input"), partial(page, scale=scale, theme=self.theme)
        yield "overview.png", drawn([given, *panels], columns=3)
        for index, panel in zip(probabilities, panels, strict=True):
            name = f"{index:03}-{safe_filename(self.classifier.names[index])}.png"
            yield name, drawn([given, panel], columns=2)

    @torch.no_grad()
    def look(
        self, image: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], dict[int, NDArray[np.float32]]]:
        """Classify a uint8 RGB image (H, W, 3) as a whole and densely.

        Returns the image's probabilities float32 (1000,), from the mean of all cells' scores, and
        for each class drawn its probability at every pixel, float32 (H, W).
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
    """The index of an ImageNet class by name or number; OptionError suggests similar names."""
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
    """A classifier whose layers after the pooling are convolutions.

    backbone: includes fc6 and fc7, if there are any.
    head: turns the backbone's coarsest map into scores of the 1000 classes.
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
        """Upsample maps of some classes, aligned with the image: (N, C, h, w) -> (N, C, *size)."""
        stride = self.backbone.stride
        height, width = size_of(maps)
        full = (height * stride, width * stride)
        return crop(upsample(maps, stride, self.backbone.offsets[stride], full), *size)


def dense_classifier(
    name: str, weights: str | Path = "auto", callback: Callback = no_callback
) -> DenseClassifier:
    """Build a fully convolutional classifier from a backbone in BACKBONES, in evaluation mode.

    weights: as for load_pretrained, but with the classifier's layers.
    Raises OptionError for a backbone without a classifier, CheckpointError when the weights are
    unavailable.
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
