"""The trainings of each table; the name of a training is its place in the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OURS = "fcnseg"

DECODERS = ("fcn32s", "fcn16s", "fcn8s", "fcn4s", "fcn2s")
FUSES = ("score", "feature")

NETWORKS = (
    OURS, "unet-lite0", "deeplab-lite0", "lraspp-mobilenetv3", "lraspp-lite0", "unet-resnet18",
    "fcnseg-random",
)  # fmt: skip
"""`fcnseg train`'s defaults, other networks (peers.py), and fcnseg without ImageNet weights, to
compare with those that are randomly initialised."""

DEFAULTS = "defaults"

CHANGES: dict[str, dict[str, Any]] = {
    DEFAULTS: {},
    "decoder=fcn16s": {"decoder": "fcn16s"},
    "decoder=fcn8s": {"decoder": "fcn8s"},
    "decoder=fcn2s": {"decoder": "fcn2s"},
    "fuse=score": {"fuse": "score"},
    "fuse=concat": {"fuse": "concat"},
    "width=128": {"width": 128},
    "lr=1e-3": {"lr": 1e-3},
    "lr=4e-3": {"lr": 4e-3},
    "optimizer=sgd": {"optimizer": "sgd", "lr": 0.05},
    "ema=0": {"ema": 0.0},
    "class_weights=sqrt": {"class_weights": "sqrt"},
    "loss=ce": {"loss": "ce"},
    "loss=ce class_weights=sqrt": {"loss": "ce", "class_weights": "sqrt"},
    "scale=1": {"scale": (1.0, 1.0)},
    "color=0": {"color": 0.0},
    "aux=0": {"aux": 0.0},
    "loss=ce+lovasz@0.5": {"loss": "ce+lovasz@0.5"},
    "loss=ohem": {"loss": "ohem"},
    "rare_crops=0.3": {"rare_crops": 0.3},
    "backbone_lr=1": {"backbone_lr": 1.0},
    "backbone_lr=0.1": {"backbone_lr": 0.1},
    "label_smoothing=0.05": {"label_smoothing": 0.05},
    "freeze=2": {"freeze": 2},
    "flip=0": {"flip": 0.0},
    "rotate=10": {"rotate": 10.0},
    "mix=cutmix": {"mix": "cutmix"},
    "mix=classmix": {"mix": "classmix"},
    "schedule=cosine": {"schedule": "cosine"},
    "backbone_weights=none": {"backbone_weights": "none"},
}
"""One changed option at a time; the first is the baseline."""

DRIVES = ("0001TP", "0006R0", "0016E5")
"""The recordings of CamVid's training images: prefixes of their names."""

LEVERS: dict[str, dict[str, Any]] = {
    change: CHANGES[change]
    for change in (
        DEFAULTS, "mix=classmix", "backbone_lr=0.1", "aux=0", "loss=ohem", "rare_crops=0.3",
        "label_smoothing=0.05",
    )
} | {
    "color=0.8": {"color": 0.8},
    "freeze=2 freeze_norm": {"freeze": 2, "freeze_norm": True},
    "schedule=cosine": CHANGES["schedule=cosine"],
}  # fmt: skip
"""Changes that might help on recordings not trained on."""

USUAL_CROP = {"bag": (352, 352), "crack": (288, 416), "nuclei": (256, 288)}
"""The crops of `fcnseg train` without --minutes."""

BY_HAND: dict[str, dict[str, Any]] = {
    DEFAULTS: {},
    "crop=usual": {},
    "crop=160": {"crop": (160, 160)},
    "backbone=efficientnet_lite2": {"backbone": "efficientnet_lite2"},
    "decoder=fcn8s": CHANGES["decoder=fcn8s"],
    "lr=1e-3": CHANGES["lr=1e-3"],
    "freeze=4": {"freeze": 4},
    "scale=1": CHANGES["scale=1"],
}
"""Settings chosen by hand for a given time, to compare with `train --minutes` (the defaults):
other crops, cheaper steps, a larger network."""

LABELS, UNLABELED = "labels alone", "unlabeled images, too"


@dataclass(frozen=True)
class Training:
    """One training.

    part: the table. name: unique in it, DATASET/ROW. options: of `train`, in addition to those
    shared by all trainings. peer: name of a network in peers.py; None: fcnseg's.
    """

    part: str
    name: str
    dataset: str
    options: Mapping[str, Any] = field(default_factory=dict)
    peer: str | None = None

    @property
    def row(self) -> str:
        """The name without the dataset."""
        return self.name.partition("/")[2]


def _skips() -> list[Training]:
    return [
        Training("skips", f"camvid/{decoder}-{fuse}", "camvid", {"decoder": decoder, "fuse": fuse})
        for fuse in FUSES
        for decoder in DECODERS
    ]


def _others() -> list[Training]:
    trainings = []
    for network in NETWORKS:
        ours = network.startswith(OURS)
        options = {"backbone_weights": "none"} if network == "fcnseg-random" else {}
        trainings += [
            Training("others", f"{data}/{network}", data, options, None if ours else network)
            for data in ("nuclei", "bag", "crack", "camvid")
        ]
    return trainings


def _ablation() -> list[Training]:
    """Change by change, so that an unfinished table has complete rows."""
    return [
        Training("ablation", f"{data}/{change}", data, options)
        for change, options in CHANGES.items()
        for data in ("camvid", "nuclei", "bag", "crack")
    ]


def _drives() -> list[Training]:
    """Change by change; the recording in the dataset's name is used for validation."""
    return [
        Training("drives", f"camvid-{drive}/{change}", f"camvid-{drive}", options)
        for change, options in LEVERS.items()
        for drive in DRIVES
    ]


def _few() -> list[Training]:
    """One in eight and one in four labels, without and with the other images."""
    return [
        Training("few", f"{data}-{every}/{row}", f"{data}-{every}", options)
        for data in ("nuclei", "bag", "camvid")
        for every in (8, 4)
        for row, options in ((LABELS, {}), (UNLABELED, {"unlabeled": "the other images"}))
    ]


def _minutes() -> list[Training]:
    """Dataset by dataset, so that an unfinished table has complete ones."""
    return [
        Training(
            "minutes", f"{data}/{change}", data, {"crop": crop} if "usual" in change else options
        )
        for data, crop in USUAL_CROP.items()
        for change, options in BY_HAND.items()
    ]


PARTS: dict[str, list[Training]] = {
    "skips": _skips(), "others": _others(), "ablation": _ablation(), "drives": _drives(),
    "few": _few(), "minutes": _minutes(),
}  # fmt: skip
