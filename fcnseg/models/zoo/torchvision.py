"""torchvision's segmentation models, by name, with their official weights.

They are run as they were published: no padding to a multiple, no alignment, exactly what the
weights were trained as. torchvision is imported when one of them is asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from fcnseg.classes import ClassMap
from fcnseg.errors import OptionError
from fcnseg.models.backbone import Features
from fcnseg.models.spec import IMAGENET, PUBLISHED, ModelSpec, Preprocess
from fcnseg.models.weights import State

SHORT_SIDE = 520
"""What torchvision's segmentation weights were trained and evaluated at."""


class _Entry(NamedTuple):
    """One of torchvision's networks: the strides of the maps its head takes, by their names."""

    taps: dict[str, int]
    channels: dict[int, int]


_RESNET = _Entry({"out": 8}, {8: 2048})
TORCHVISION: dict[str, _Entry] = {
    "fcn_resnet50": _RESNET,
    "fcn_resnet101": _RESNET,
    "deeplabv3_resnet50": _RESNET,
    "deeplabv3_resnet101": _RESNET,
    "deeplabv3_mobilenet_v3_large": _Entry({"out": 16}, {16: 960}),
    "lraspp_mobilenet_v3_large": _Entry({"low": 8, "high": 16}, {8: 40, 16: 960}),
}
NAMES: tuple[str, ...] = tuple(TORCHVISION)
"""What -m takes by name."""


class TorchvisionFeatures(Features):
    """The backbone of one of torchvision's segmentation models."""

    def __init__(self, network: nn.Module, entry: _Entry) -> None:
        super().__init__()
        self.network = network
        self.names = entry.taps
        self.channels = entry.channels
        self.offsets = dict.fromkeys(entry.channels, 0.0)
        self.preprocess = Preprocess(IMAGENET.mean, IMAGENET.std, short_side=SHORT_SIDE)
        self.stride, self.output_stride = 1, max(entry.channels)
        self.stages = nn.ModuleDict()

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """float (N, 3, H, W) -> {s: (N, C_s, about H/s, W/s)}."""
        maps = self.network(images)
        return {stride: maps[name] for name, stride in self.names.items()}


class TorchvisionHead(nn.Module):
    """Its classifier, and torchvision's way back to the size of the image."""

    def __init__(self, classifier: nn.Module, entry: _Entry) -> None:
        super().__init__()
        self.classifier = classifier
        self.names = entry.taps

    def forward(self, taps: dict[int, Tensor], size: tuple[int, int]) -> Tensor:
        """{s: (N, C_s, h, w)}, (H, W) -> logits (N, K, H, W)."""
        maps: Any = OrderedDict((name, taps[stride]) for name, stride in self.names.items())
        scores = self.classifier(maps.get("out", maps))
        return F.interpolate(scores, size, mode="bilinear", align_corners=False)

    def skip_scores(self, _taps: dict[int, Tensor], _size: tuple[int, int]) -> dict[int, Tensor]:
        """There are none: OptionError."""
        raise OptionError(
            "This published network has one head and no skips.",
            hint="skips are those of a model trained with --fuse score",
        )


def parts(spec: ModelSpec) -> tuple[Features, nn.Module]:
    """Backbone and head of one of TORCHVISION, randomly initialised."""
    from fcnseg.models.torchvision_import import models

    entry = TORCHVISION[spec.backbone]
    more = {} if "lraspp" in spec.backbone else {"aux_loss": False}
    network = models.get_model(
        spec.backbone, weights=None, weights_backbone=None, num_classes=spec.num_classes, **more
    )
    features = TorchvisionFeatures(network.backbone, entry)
    return features, TorchvisionHead(network.classifier, entry)


def official_url(name: str) -> str:
    """Where torchvision keeps a network's best weights."""
    from fcnseg.models.torchvision_import import models

    return str(models.get_model_weights(name).DEFAULT.url)


def recognised(state: State) -> tuple[ModelSpec, Preprocess, State] | None:
    """What a state dict is of, and its tensors under our names; None: not torchvision's."""
    found = _name_of(state)
    if found is None:
        return None
    kind, last = found
    spec = ModelSpec(
        backbone=kind, num_classes=int(last.shape[0]), decoder=PUBLISHED, fuse="score", dropout=0.0
    )
    preprocess = Preprocess(IMAGENET.mean, IMAGENET.std, short_side=SHORT_SIDE)
    ours = {}
    for key, value in state.items():
        part, _, rest = key.partition(".")
        if part != "aux_classifier":
            ours[f"backbone.network.{rest}" if part == "backbone" else f"decoder.{key}"] = value
    return spec, preprocess, ours


def voc_classes() -> ClassMap:
    """PASCAL VOC's background and 20 classes, in its colours."""
    from fcnseg.models.torchvision_import import models

    names = models.get_model_weights("fcn_resnet50").DEFAULT.meta["categories"]
    colors = []
    for index in range(len(names)):
        bits = [[(index >> (3 * bit + band)) & 1 for bit in range(8)] for band in range(3)]
        colors.append([sum(on << (7 - bit) for bit, on in enumerate(band)) for band in bits])
    return ClassMap.of(["background", *names[1:]], colors)


def _name_of(state: State) -> tuple[str, Tensor] | None:
    """The name, and the weights of the last layer."""
    heads = {
        "lraspp": ("classifier.low_classifier.weight", "classifier.low_classifier.weight"),
        "deeplabv3": ("classifier.0.convs.0.0.weight", "classifier.4.weight"),
        "fcn": ("classifier.0.weight", "classifier.4.weight"),
    }
    backbones = {
        "resnet101": "backbone.layer3.22.conv1.weight",
        "resnet50": "backbone.layer3.5.conv3.weight",
        "mobilenet_v3_large": "backbone.16.0.weight",
    }
    for head, (sign, last) in heads.items():
        for backbone, part in backbones.items():
            if {sign, last, part} <= state.keys() and f"{head}_{backbone}" in TORCHVISION:
                return f"{head}_{backbone}", state[last]
    return None
