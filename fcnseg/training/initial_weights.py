"""Initial weights: a backbone's ImageNet weights, or the checkpoint of another run."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fcnseg.classes import ClassMap
from fcnseg.config import TrainConfig
from fcnseg.datasets import Pair
from fcnseg.errors import DatasetError, OptionError, quoted
from fcnseg.io.bands import Layout, choose_bands
from fcnseg.io.bands.files import measure_bands
from fcnseg.models.backbones import with_bands
from fcnseg.models.checkpoint import Checkpoint, find_model
from fcnseg.models.fcn import FCN
from fcnseg.models.networks import build, load_pretrained
from fcnseg.models.spec import PUBLISHED, ModelSpec, Preprocess
from fcnseg.progress import Callback, Message

SHAPE = (
    "backbone", "decoder", "fuse", "width", "dropout", "upsample", "skips", "output_stride",
)  # fmt: skip
"""The options that define a network's architecture; --finetune takes them from the checkpoint."""


@dataclass(frozen=True, eq=False)
class InitialModel:
    """A network with its initial weights.

    config: the options, with the network's actual architecture.
    """

    network: FCN
    preprocess: Preprocess
    config: TrainConfig


def from_pretrained(
    config: TrainConfig,
    classes: ClassMap,
    callback: Callback,
    measured: Preprocess | None = None,
) -> InitialModel:
    """Create the network to train; layers without weights are initialised from the seed.

    measured: bands and statistics of images that are not 8-bit RGB.

    With --finetune, unset options of the architecture (None) are taken from the checkpoint.
    """
    torch.manual_seed(config.seed)
    if config.finetune is not None:
        return _from_checkpoint(config, classes, callback, measured)
    config = config.with_fallbacks()
    network, backbone = build(_spec(config, classes, measured)), str(config.backbone)
    colors = _colors(measured)
    load_pretrained(network.backbone, backbone, config.backbone_weights, callback, colors=colors)
    preprocess = measured or network.backbone.preprocess
    return InitialModel(network, preprocess.at(config.short_side), config)


def _colors(measured: Preprocess | None) -> list[int | None] | None:
    """Which of a network's bands are red, green and blue; None: the network takes RGB."""
    bands = None if measured is None else measured.bands
    return None if bands is None else [bands.color_of(number) for number in bands.chosen]


def measured_input(
    config: TrainConfig, layout: Layout | None, pairs: Sequence[Pair], callback: Callback
) -> Preprocess | None:
    """Measure bands and statistics of training images that are not 8-bit RGB; None for RGB."""
    bands = choose_bands(layout, config.bands, config.show_bands)
    if bands is None:
        return None
    if any(pair.page is not None for pair in pairs):
        raise OptionError(
            "--bands is for files of one image; here pages of files are images.",
            hint="save each page as a file",
        )
    images = [pair.image for pair in pairs if pair.split == "train"]
    measured, mean, std = measure_bands(bands, images or [pair.image for pair in pairs])
    if config.show_bands:
        measured = measured.showing(bands.shown)
    ranges = [
        f"{low:.6g} to {high:.6g}" for low, high in zip(measured.low, measured.high, strict=True)
    ]
    callback(
        Message(
            f"Images have {measured}, {'; '.join(ranges)}: normalized by the training images' own "
            f"mean and std of each band; shown: {', '.join(map(str, measured.shown))}"
        )
    )
    return Preprocess(mean, std, bands=measured)


def from_state(config: TrainConfig, classes: ClassMap, state: Mapping[str, Any]) -> InitialModel:
    """Create the network of a saved state, without its weights; nothing is downloaded.

    DatasetError when the dataset's classes have changed.
    """
    before = ClassMap.from_dict(state["classes"])
    if before.names != classes.names:
        raise DatasetError(
            f"The run began with the classes {', '.join(before.names)}; the dataset now has "
            f"{', '.join(classes.names)}.",
            hint="start a new run with --finetune and this run's last.safetensors",
        )
    preprocess = Preprocess.from_dict(state["preprocess"])
    return InitialModel(build(_spec(config, classes, preprocess)), preprocess, config)


def _spec(config: TrainConfig, classes: ClassMap, measured: Preprocess | None) -> ModelSpec:
    shape = {name: getattr(config, name) for name in SHAPE}
    channels = 3 if measured is None else len(measured.mean)
    return ModelSpec(num_classes=len(classes), in_channels=channels, **shape)


def _from_checkpoint(
    config: TrainConfig, classes: ClassMap, callback: Callback, measured: Preprocess | None
) -> InitialModel:
    path = find_model(config.finetune, callback=callback)
    old = Checkpoint.load(path)
    if old.spec.decoder == PUBLISHED:
        raise OptionError(
            f"{path} is the complete published network {old.spec.backbone}, which has no decoder "
            "to train.",
            hint="start a new decoder on its backbone: "
            f"--backbone NAME --backbone-weights {quoted(path)}",
        )
    shape = {name: getattr(old.spec, name) for name in SHAPE if getattr(config, name) is None}
    config = dataclasses.replace(config, **shape)
    side = old.preprocess.short_side or 0
    preprocess = _as_before(old.preprocess, measured)
    network = build(_spec(config, classes, preprocess))
    if config.backbone != old.spec.backbone:
        colors = _colors(measured)
        weights = config.backbone_weights
        load_pretrained(network.backbone, str(config.backbone), weights, callback, colors=colors)
        preprocess = (measured or network.backbone.preprocess).at(side)
    initial = network.state_dict()
    if old.spec.in_channels == 3 != network.spec.in_channels:
        old = _with_bands(old, network, measured)
    kept = fitting(old, network.spec, classes, initial)
    if not any(tensor.ndim > 1 for tensor in kept.values()):
        raise OptionError(
            f"Nothing in {path} fits this network.",
            hint="omit the network options: the checkpoint's are used",
        )
    network.load_state_dict({**initial, **kept})
    left = len(initial) - len(kept)
    text = f"Starting from {path}: {len(kept)} of {len(initial)} tensors"
    callback(Message(f"{text}, {left} are newly initialized." if left else f"{text}."))
    return InitialModel(network, preprocess.at(config.short_side), config)


def _as_before(old: Preprocess, measured: Preprocess | None) -> Preprocess:
    """A checkpoint's preprocessing if its bands are those of the images; else the measured one.

    The weights were trained with the checkpoint's statistics.
    """
    if measured is None or measured.bands is None:
        if old.bands is not None and (old.bands.stored, old.bands.dtype) != (3, "uint8"):
            raise OptionError(
                f"The checkpoint takes {old.bands}; these images are 8-bit RGB.",
                hint="start without --finetune, or give images of those bands",
            )
        return old
    same = old.bands is not None and (old.bands.chosen, old.bands.stored, old.bands.dtype) == (
        measured.bands.chosen,
        measured.bands.stored,
        measured.bands.dtype,
    )
    return old if same else measured.at(old.short_side or 0)


def _with_bands(old: Checkpoint, network: FCN, measured: Preprocess | None) -> Checkpoint:
    """Widen the first kernels of an RGB checkpoint to a network's bands."""
    prefix = "backbone."
    ours = {key.removeprefix(prefix): v for key, v in old.weights.items() if key.startswith(prefix)}
    wider = with_bands(ours, network.backbone, _colors(measured))
    weights = {**old.weights, **{f"{prefix}{key}": value for key, value in wider.items()}}
    spec = dataclasses.replace(old.spec, in_channels=network.spec.in_channels)
    assert measured is not None, "the number of bands differs"
    return dataclasses.replace(old, spec=spec, preprocess=measured, weights=weights)


def fitting(
    old: Checkpoint, spec: ModelSpec, classes: ClassMap, initial: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors of a checkpoint that fit a network, by name; classes are matched by name.

    spec, classes: of the new network; initial: its initial tensors, which are kept for classes that
    the checkpoint does not have.
    """
    axes = class_axes(spec)
    rows = _same_classes(old.classes, classes)
    kept = {}
    for name, tensor in old.weights.items():
        if name in initial:
            tensor = tensor.to(initial[name].dtype)  # pretrained models may be in half precision
        if name in initial and name not in axes and tensor.shape == initial[name].shape:
            kept[name] = tensor
        elif name in axes and rows and _same_except(axes[name], tensor, initial[name]):
            kept[name] = _replace_classes(tensor, initial[name], axes[name], rows)
    return kept


@functools.cache
def class_axes(spec: ModelSpec) -> Mapping[str, Sequence[int]]:
    """The tensors with class axes: name -> axes.

    Found by comparing shapes with the same network with another number of classes.
    """
    with torch.device("meta"):
        ours = build(spec).state_dict()
        other = dataclasses.replace(spec, num_classes=spec.num_classes % 255 + 1)
        theirs = build(other).state_dict()
    return {
        name: [axis for axis, size in enumerate(tensor.shape) if size != theirs[name].shape[axis]]
        for name, tensor in ours.items()
        if tensor.shape != theirs[name].shape
    }


def _same_classes(old: ClassMap, new: ClassMap) -> list[tuple[int, int]]:
    """(old index, new index) of the common classes; by number if one class map has no names."""
    unnamed = ClassMap.numbered(len(new)).names in (old.names, new.names)
    if len(old) == len(new) and unnamed:
        return [(index, index) for index in range(len(new))]
    return [(old.names.index(n), new.names.index(n)) for n in new.names if n in old.names]


def _same_except(axes: Sequence[int], tensor: Tensor, initial: Tensor) -> bool:
    """Whether two tensors have the same shape except along class axes."""
    return tensor.ndim == initial.ndim and all(
        axis in axes or size == initial.shape[axis] for axis, size in enumerate(tensor.shape)
    )


def _replace_classes(
    tensor: Tensor, initial: Tensor, axes: Sequence[int], rows: Sequence[tuple[int, int]]
) -> Tensor:
    """A copy of `initial` with the common classes replaced by those of `tensor`."""
    sources, targets = torch.tensor(rows).T
    for axis in axes:
        tensor = tensor.index_select(axis, sources)
    return _index_put(initial, tensor, axes, targets)


def _index_put(initial: Tensor, part: Tensor, axes: Sequence[int], targets: Tensor) -> Tensor:
    if not axes:
        return part
    block = _index_put(initial.index_select(axes[0], targets), part, axes[1:], targets)
    return initial.index_copy(axes[0], targets, block)
