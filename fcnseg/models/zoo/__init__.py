"""Published networks: the original FCNs (wkentaro/pytorch-fcn) and torchvision's.

The trained networks that come with fcnseg (nuclei) are in this folder: NAME.safetensors, each with
its model card.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from fcnseg.classes import ClassMap, unpack, voc_palette
from fcnseg.errors import CheckpointError, OptionError
from fcnseg.models.backbones import Features
from fcnseg.models.backbones.torchvision import import_torchvision
from fcnseg.models.spec import IMAGENET, PUBLISHED, ModelSpec, Preprocess
from fcnseg.models.weights import State, read_state

BGR = Preprocess((122.67891434 / 255, 116.66876762 / 255, 104.00698793 / 255), (1 / 255,) * 3)
"""The original FCNs' mean, subtracted on 0..255; in RGB order, which OriginalVGG swaps."""

GROUPS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))

FC = 4096


class _Skip(NamedTuple):
    """A pooling layer's stride and channels, the offset of its crop, the factor of its features."""

    stride: int
    channels: int
    crop: int
    scale: float


class _Kind(NamedTuple):
    """Names of the upsampling layers from coarse to fine, the skips, the last crop's offset."""

    upsamples: tuple[str, ...]
    skips: tuple[_Skip, ...]
    crop: int


KINDS: dict[str, _Kind] = {
    "pytorch_fcn32s": _Kind(("upscore",), (), 19),
    "pytorch_fcn16s": _Kind(("upscore2", "upscore16"), (_Skip(16, 512, 5, 1.0),), 27),
    "pytorch_fcn8s": _Kind(
        ("upscore2", "upscore_pool4", "upscore8"),
        (_Skip(16, 512, 5, 1.0), _Skip(8, 256, 9, 1.0)),
        31,
    ),
    "pytorch_fcn8s_atonce": _Kind(
        ("upscore2", "upscore_pool4", "upscore8"),
        (_Skip(16, 512, 5, 0.01), _Skip(8, 256, 9, 0.0001)),
        31,
    ),
}


class OriginalVGG(Features):
    """VGG-16 with fc6 and fc7 as convolutions, padded by 100.

    slim: divisor of the published widths (for small models in tests).
    """

    def __init__(self, slim: int = 1) -> None:
        super().__init__()
        channels = 3
        for group, widths in enumerate(GROUPS, start=1):
            for index, width in enumerate(widths, start=1):
                padding = 100 if (group, index) == (1, 1) else 1
                layer = nn.Conv2d(channels, width // slim, 3, 1, padding)
                setattr(self, f"conv{group}_{index}", layer)
                channels = width // slim
        self.fc6 = nn.Conv2d(channels, FC // slim, 7)
        self.fc7 = nn.Conv2d(FC // slim, FC // slim, 1)
        self.channels = {8: 256 // slim, 16: 512 // slim, 32: FC // slim}
        self.offsets = {stride: (stride - 1) / 2 for stride in self.channels}
        self.preprocess = BGR
        self.stride, self.output_stride = 1, 32
        self.stages = nn.ModuleDict()

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """float (N, 3, H, W) RGB, mean subtracted -> pool3, pool4, fc7 by stride."""
        x = images.flip(1)  # BGR
        taps = {}
        for group, widths in enumerate(GROUPS, start=1):
            for index in range(1, len(widths) + 1):
                x = F.relu(getattr(self, f"conv{group}_{index}")(x))
            x = F.max_pool2d(x, 2, 2, ceil_mode=True)
            taps[2**group] = x
        x = F.dropout(F.relu(self.fc6(x)), 0.5, self.training)
        taps[32] = F.dropout(F.relu(self.fc7(x)), 0.5, self.training)
        return {stride: taps[stride] for stride in self.channels}


class OriginalDecoder(nn.Module):
    """Scores, transposed convolutions and crops, with pytorch-fcn's names."""

    def __init__(self, kind: str, classes: int, slim: int = 1) -> None:
        super().__init__()
        self.kind = KINDS[kind]
        self.strides = (32, *(skip.stride for skip in self.kind.skips))
        self.score_fr = nn.Conv2d(FC // slim, classes, 1)
        for skip in self.kind.skips:
            setattr(self, self._score_name(skip), nn.Conv2d(skip.channels // slim, classes, 1))
        for name, (coarse, fine) in zip(
            self.kind.upsamples, pairwise((*self.strides, 1)), strict=True
        ):
            factor = coarse // fine
            up = nn.ConvTranspose2d(classes, classes, 2 * factor, factor, bias=False)
            setattr(self, name, up)

    def forward(self, taps: dict[int, Tensor], size: tuple[int, int]) -> Tensor:
        """{8, 16, 32: maps of the padded image}, (H, W) -> logits (N, K, H, W)."""
        x: Tensor = self.score_fr(taps[32])
        for up, skip in zip(self.kind.upsamples, self.kind.skips, strict=False):
            x = getattr(self, up)(x)
            x = x + self._scores(skip, taps, x)
        return self._finish(x, size)

    def skip_scores(self, taps: dict[int, Tensor], size: tuple[int, int]) -> dict[int, Tensor]:
        """Return the score map of each stride, upsampled on its own: {s: (N, K, H, W)}."""
        maps = {32: self.score_fr(taps[32])}
        for up, skip in zip(self.kind.upsamples, self.kind.skips, strict=False):
            maps = {stride: getattr(self, up)(x) for stride, x in maps.items()}
            maps[skip.stride] = self._scores(skip, taps, maps[32])
        return {stride: self._finish(x, size) for stride, x in maps.items()}

    def _scores(self, skip: _Skip, taps: dict[int, Tensor], like: Tensor) -> Tensor:
        scores: Tensor = getattr(self, self._score_name(skip))(taps[skip.stride] * skip.scale)
        height, width = like.shape[-2:]
        return scores.narrow(2, skip.crop, height).narrow(3, skip.crop, width)

    def _finish(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        grown: Tensor = getattr(self, self.kind.upsamples[-1])(x)
        return grown.narrow(2, self.kind.crop, size[0]).narrow(3, self.kind.crop, size[1])

    @staticmethod
    def _score_name(skip: _Skip) -> str:
        return {16: "score_pool4", 8: "score_pool3"}[skip.stride]


def recognise_original(state: State, name: str) -> tuple[ModelSpec, Preprocess, State] | None:
    """Recognise a state dict of pytorch-fcn and rename its tensors to ours; None for others.

    name: of the file; only it distinguishes the all-at-once FCN-8s from the staged one.
    """
    if "score_fr.weight" not in state:
        return None
    if "score_pool3.weight" in state:
        kind = "pytorch_fcn8s_atonce" if "atonce" in name.lower() else "pytorch_fcn8s"
    else:
        kind = "pytorch_fcn16s" if "score_pool4.weight" in state else "pytorch_fcn32s"
    classes = int(state["score_fr.weight"].shape[0])
    spec = ModelSpec(
        backbone=kind, num_classes=classes, decoder=PUBLISHED, fuse="score", dropout=0.0
    )
    parts = {key: "backbone" if key.startswith(("conv", "fc")) else "decoder" for key in state}
    return spec, BGR, {f"{parts[key]}.{key}": value for key, value in state.items()}


PREPROCESS = IMAGENET.at(520)
"""Of torchvision's segmentation weights, with the short side that they are evaluated at."""


class _Entry(NamedTuple):
    """One of torchvision's networks: feature name -> stride, stride -> channels."""

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


class TorchvisionFeatures(Features):
    """The backbone of one of torchvision's segmentation models."""

    def __init__(self, network: nn.Module, entry: _Entry) -> None:
        super().__init__()
        self.network = network
        self.names = entry.taps
        self.channels = entry.channels
        self.offsets = dict.fromkeys(entry.channels, 0.0)
        self.preprocess = PREPROCESS
        self.stride, self.output_stride = 1, max(entry.channels)
        self.stages = nn.ModuleDict()

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """float (N, 3, H, W) -> {s: (N, C_s, about H/s, W/s)}."""
        maps = self.network(images)
        return {stride: maps[name] for name, stride in self.names.items()}


class TorchvisionHead(nn.Module):
    """The head of one of torchvision's segmentation models, with bilinear upsampling."""

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
        """OptionError: these networks have no skips."""
        raise OptionError(
            "This published network has one head and no skips.",
            hint="skips are those of a model trained with --fuse score",
        )


def torchvision_parts(spec: ModelSpec) -> tuple[Features, nn.Module]:
    """Backbone and head of a network in TORCHVISION, randomly initialised."""
    entry = TORCHVISION[spec.backbone]
    more = {} if "lraspp" in spec.backbone else {"aux_loss": False}
    network = import_torchvision().models.get_model(
        spec.backbone, weights=None, weights_backbone=None, num_classes=spec.num_classes, **more
    )
    features = TorchvisionFeatures(network.backbone, entry)
    return features, TorchvisionHead(network.classifier, entry)


def recognise_torchvision(state: State) -> tuple[ModelSpec, Preprocess, State] | None:
    """Recognise a state dict of torchvision and rename its tensors to ours; None for others."""
    found = _name_of(state)
    if found is None:
        return None
    kind, last = found
    spec = ModelSpec(
        backbone=kind, num_classes=int(last.shape[0]), decoder=PUBLISHED, fuse="score", dropout=0.0
    )
    ours = {}
    for key, value in state.items():
        part, _, rest = key.partition(".")
        if part != "aux_classifier":
            ours[f"backbone.network.{rest}" if part == "backbone" else f"decoder.{key}"] = value
    return spec, PREPROCESS, ours


def voc_classes() -> ClassMap:
    """PASCAL VOC's background and 20 classes, in its colors."""
    weights = import_torchvision().models.get_model_weights("fcn_resnet50").DEFAULT
    names = weights.meta["categories"]
    colors = [unpack(color) for color in voc_palette(len(names))]
    return ClassMap.of(["background", *names[1:]], colors)


def _name_of(state: State) -> tuple[str, Tensor] | None:
    """The network's name and the weights of its last layer; None: not torchvision's."""
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


NAMES: tuple[str, ...] = tuple(TORCHVISION)
"""Published networks that -m takes by name."""


def published_parts(spec: ModelSpec) -> tuple[Features, nn.Module]:
    """Backbone and decoder of a published network, randomly initialised.

    OptionError lists the known names.
    """
    if spec.backbone in KINDS:
        backbone = OriginalVGG()
        return backbone, OriginalDecoder(spec.backbone, spec.num_classes)
    if spec.backbone in TORCHVISION:
        return torchvision_parts(spec)
    known = ", ".join((*NAMES, *KINDS))
    raise OptionError(f"No published network {spec.backbone!r}; known: {known}.")


def recognise(state: State, name: str = "") -> tuple[ModelSpec, Preprocess, State] | None:
    """Recognise a published state dict and rename its tensors to ours; None: unknown.

    name: of the file.
    """
    return recognise_original(state, name) or recognise_torchvision(state)


def read_published(path: Path) -> tuple[ModelSpec, Preprocess, ClassMap, State]:
    """Read a published network's weights; the network is recognised by their names.

    CheckpointError for an unknown network.
    """
    found = recognise(read_state(path), path.name)
    if found is None:
        raise CheckpointError(
            f"{path} holds weights of an unknown network; known are "
            f"{', '.join(NAMES)} of torchvision and the FCN-32s, 16s and 8s of "
            "wkentaro/pytorch-fcn.",
            hint="a backbone's weights can start a training: --backbone-weights FILE",
        )
    spec, preprocess, weights = found
    voc = voc_classes()
    classes = voc if len(voc) == spec.num_classes else ClassMap.numbered(spec.num_classes)
    return spec, preprocess, classes, weights
