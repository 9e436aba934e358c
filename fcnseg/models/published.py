"""Whole networks that others have published, run as they were published.

torchvision's segmentation models, by name, with their official weights; and the authors'
own FCN-32s, 16s and 8s as ported by wkentaro/pytorch-fcn, from a file. Neither is a ladder
of ours: no padding to a multiple, no alignment, exactly what the weights were trained as.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from fcnseg.classes import ClassMap
from fcnseg.errors import OptionError
from fcnseg.models._torchvision import models
from fcnseg.models.backbones import Features
from fcnseg.models.preprocess import IMAGENET, Preprocess
from fcnseg.models.pytorch_fcn import BGR, KINDS, OriginalLadder, OriginalVGG
from fcnseg.models.spec import PUBLISHED, ModelSpec
from fcnseg.models.weights import State

SHORT_SIDE = 520
"""What torchvision's segmentation weights were trained and evaluated at."""


class _Line(NamedTuple):
    """One of torchvision's networks: the strides of the maps its head takes, by their names."""

    taps: dict[str, int]
    channels: dict[int, int]


_RESNET = _Line({"out": 8}, {8: 2048})
TORCHVISION: dict[str, _Line] = {
    "fcn_resnet50": _RESNET,
    "fcn_resnet101": _RESNET,
    "deeplabv3_resnet50": _RESNET,
    "deeplabv3_resnet101": _RESNET,
    "deeplabv3_mobilenet_v3_large": _Line({"out": 16}, {16: 960}),
    "lraspp_mobilenet_v3_large": _Line({"low": 8, "high": 16}, {8: 40, 16: 960}),
}
NAMES: tuple[str, ...] = tuple(TORCHVISION)
"""What -m takes by name."""


class TorchvisionFeatures(Features):
    """The backbone of one of torchvision's segmentation models."""

    def __init__(self, network: nn.Module, line: _Line) -> None:
        super().__init__()
        self.network = network
        self.names = line.taps
        self.channels = line.channels
        self.offsets = dict.fromkeys(line.channels, 0.0)
        self.preprocess = Preprocess(IMAGENET.mean, IMAGENET.std, short_side=SHORT_SIDE)
        self.stride, self.output_stride = 1, max(line.channels)
        self.stages = nn.ModuleDict()

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """float (N, 3, H, W) -> {s: (N, C_s, about H/s, W/s)}."""
        maps = self.network(images)
        return {stride: maps[name] for name, stride in self.names.items()}


class TorchvisionHead(nn.Module):
    """Its classifier, and torchvision's way back to the size of the picture."""

    def __init__(self, classifier: nn.Module, line: _Line) -> None:
        super().__init__()
        self.classifier = classifier
        self.names = line.taps

    def forward(self, taps: dict[int, Tensor], size: tuple[int, int]) -> Tensor:
        """{s: (N, C_s, h, w)}, (H, W) -> logits (N, K, H, W)."""
        maps: Any = OrderedDict((name, taps[stride]) for name, stride in self.names.items())
        scores = self.classifier(maps.get("out", maps))
        return F.interpolate(scores, size, mode="bilinear", align_corners=False)

    def shares(self, _taps: dict[int, Tensor], _size: tuple[int, int]) -> dict[int, Tensor]:
        """There are none: OptionError."""
        raise OptionError(
            "This published network has one head and no rungs.",
            hint="the rungs are those of a model trained with --fuse score",
        )


def published_parts(spec: ModelSpec) -> tuple[Features, Any]:
    """The two parts of a published network, randomly started; OptionError lists the known."""
    if spec.backbone in KINDS:
        return OriginalVGG(), OriginalLadder(spec.backbone, spec.num_classes)
    if spec.backbone not in TORCHVISION:
        raise OptionError(
            f"No published network {spec.backbone!r}; known: {', '.join((*NAMES, *KINDS))}."
        )
    line = TORCHVISION[spec.backbone]
    more = {} if "lraspp" in spec.backbone else {"aux_loss": False}
    network = models.get_model(
        spec.backbone, weights=None, weights_backbone=None, num_classes=spec.num_classes, **more
    )
    features = TorchvisionFeatures(network.backbone, line)
    return features, TorchvisionHead(network.classifier, line)


def official_url(name: str) -> str:
    """Where torchvision keeps a network's best weights."""
    return str(models.get_model_weights(name).DEFAULT.url)


def recognised(state: State, name: str = "") -> tuple[ModelSpec, Preprocess, State] | None:
    """What a published state dict is of, and its tensors under our names; None: unknown.

    name: of the file; it alone tells the at-once FCN-8s from the staged one.
    """
    if "score_fr.weight" in state:
        kind = _original(state, name)
        ours = {f"{_part(key)}.{key}": value for key, value in state.items()}
        return _spec(kind, state["score_fr.weight"]), BGR, ours
    found = _torchvision_name(state)
    if found is None:
        return None
    kind, last = found
    preprocess = Preprocess(IMAGENET.mean, IMAGENET.std, short_side=SHORT_SIDE)
    ours = {}
    for key, value in state.items():
        part, _, rest = key.partition(".")
        if part != "aux_classifier":
            ours[f"backbone.network.{rest}" if part == "backbone" else f"decoder.{key}"] = value
    return _spec(kind, last), preprocess, ours


def voc_classes() -> ClassMap:
    """PASCAL VOC's background and 20 classes, in its colours."""
    names = models.get_model_weights("fcn_resnet50").DEFAULT.meta["categories"]
    colors = []
    for index in range(len(names)):
        bits = [[(index >> (3 * bit + band)) & 1 for bit in range(8)] for band in range(3)]
        colors.append([sum(on << (7 - bit) for bit, on in enumerate(band)) for band in bits])
    return ClassMap.of(["background", *names[1:]], colors)


def _spec(kind: str, last: Tensor) -> ModelSpec:
    return ModelSpec(
        backbone=kind, num_classes=int(last.shape[0]), decoder=PUBLISHED, fuse="score", dropout=0.0
    )


def _original(state: State, name: str) -> str:
    if "score_pool3.weight" in state:
        return "pytorch_fcn8s_atonce" if "atonce" in name.lower() else "pytorch_fcn8s"
    return "pytorch_fcn16s" if "score_pool4.weight" in state else "pytorch_fcn32s"


def _part(key: str) -> str:
    return "backbone" if key.startswith(("conv", "fc")) else "decoder"


def _torchvision_name(state: State) -> tuple[str, Tensor] | None:
    """The name, and the weights of the last layer."""
    heads = {
        "lraspp": ("classifier.low_classifier.weight", "classifier.low_classifier.weight"),
        "deeplabv3": ("classifier.0.convs.0.0.weight", "classifier.4.weight"),
        "fcn": ("classifier.0.weight", "classifier.4.weight"),
    }
    trunks = {
        "resnet101": "backbone.layer3.22.conv1.weight",
        "resnet50": "backbone.layer3.5.conv3.weight",
        "mobilenet_v3_large": "backbone.16.0.weight",
    }
    for head, (sign, last) in heads.items():
        for trunk, part in trunks.items():
            if {sign, last, part} <= state.keys() and f"{head}_{trunk}" in TORCHVISION:
                return f"{head}_{trunk}", state[last]
    return None
