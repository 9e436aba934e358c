"""Fusion for inference: batch norms and activations are computed by the convolutions before them.

In evaluation a batch norm is a scale and a shift per channel; so is a convolution's output. An
activation can be applied while a convolution's results are still in the processor's registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fcnseg.models.backbones.efficientnet_lite import SameConv2d
from fcnseg.models.fcn import FCN, LearnedUpsample

Network = TypeVar("Network", bound=nn.Module)

_ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.SiLU: ("swish", []),
    nn.Hardswish: ("hardswish", []),
}
"""What oneDNN can do to a convolution's results: its name there, and its numbers."""

_TOLERANCE = 1e-2
"""Of the largest logit: other sums differ by rounding only (a GPU's TF32: 1e-3), below it."""


def fuse_for_inference(
    network: Network, *, device: torch.device, precision: torch.dtype
) -> Network:
    """Fuse a network for inference in a precision, in place; returns it.

    device: where it is now.
    """
    some = random_images(network.spec.in_channels if isinstance(network, FCN) else 3).to(device)
    network = fold_batch_norms(network, some)
    if precision == torch.float32 and device.type == "cpu":
        network = fuse_activations(network, some)
    elif precision != torch.float32 and isinstance(network, FCN):
        score_in_f32(network)
    return network


def random_images(bands: int) -> Tensor:
    """An image that a network can be tried on, float32 (1, C, 64, 64), on the processor."""
    random = torch.Generator("cpu").manual_seed(0)
    # Named, because a program may have set other defaults of torch.
    return torch.randn(1, bands, 64, 64, generator=random, dtype=torch.float32, device="cpu")


def score_in_f32(network: FCN) -> None:
    """Compute class scores in float32, in place, whatever autocast has the rest computed in.

    bfloat16 keeps 8 bits: two classes would often have equal scores, and their order in the class
    map would decide. The last layers are a small part of the work.
    """

    def outputs(module: nn.Module) -> int:
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            return module.out_channels
        return len(module.weight) if isinstance(module, LearnedUpsample) else 0

    classes = network.spec.num_classes
    scoring = [module for module in network.decoder.modules() if outputs(module) == classes]
    _replace(network, {module: InFloat32(module) for module in scoring})


class InFloat32(nn.Module):
    """A module whose inputs, sums and outputs are float32, under autocast, too."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, maps: Tensor, *rest: object) -> Tensor:
        """What the module gives, in float32."""
        if not torch.is_autocast_enabled(maps.device.type):  # exporters know of no autocast
            plain: Tensor = self.module(maps.float(), *rest)
            return plain
        with torch.autocast(maps.device.type, enabled=False):
            output: Tensor = self.module(maps.float(), *rest)
        return output


def fold_batch_norms(network: Network, images: Tensor) -> Network:
    """Fold, in place, every batch norm that a convolution's output goes straight into.

    Which those are is seen by running the network once on `images`; where its outputs on them
    would differ, nothing changes. Returns the network.
    """
    changed: dict[nn.Module, nn.Module] = {}
    norms = _followers(
        network, images, lambda module: type(module) is nn.BatchNorm2d or bool(_besides(module))
    )
    for norm, convolution in norms.items():
        assert isinstance(norm, nn.BatchNorm2d)
        changed[convolution] = fuse_conv_bn_eval(convolution, norm)
        changed[norm] = nn.Sequential(*_besides(norm))
    return _replace_if_same(network, images, changed)


def fuse_activations(network: Network, images: Tensor) -> Network:
    """Let oneDNN run, in place, every convolution together with the activation after it.

    For float32 on a CPU, in evaluation; elsewhere, and where the outputs on `images` would
    differ, nothing changes. Left to itself torch runs 1x1 convolutions without oneDNN when it
    has one thread, which costs a copy each way. Returns the network.
    """
    if not _onednn_fuses():
        return network
    changed: dict[nn.Module, nn.Module] = {}
    # By its very type: a class made of one may do something else.
    found = _followers(network, images, lambda module: type(module) in _ACTIVATIONS)
    activations = {convolution: activation for activation, convolution in found.items()}
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and FusedConvolution.takes(module):
            activation = activations.get(module)
            changed[module] = FusedConvolution(module, activation)
            if activation is not None:
                changed[activation] = nn.Identity()
    return _replace_if_same(network, images, changed)


class FusedConvolution(nn.Module):
    """A convolution and the activation after it, if any, as one step of oneDNN.

    float32 (N, C, H, W) on a processor -> (N, C', H', W'), in evaluation.
    """

    def __init__(self, convolution: nn.Conv2d, activation: nn.Module | None) -> None:
        super().__init__()
        weight, bias, padding = convolution.weight, convolution.bias, convolution.padding
        if isinstance(convolution, SameConv2d):
            # Padding the image unevenly copies it: a tenth of a forward pass.
            weight, margin = convolution.evenly()
            padding = (margin, margin)
        weight = weight.detach().contiguous(memory_format=torch.channels_last)
        # Buffers: they move with the network, and nothing learns them.
        self.register_buffer("weight", weight)
        self.register_buffer("bias", None if bias is None else bias.detach())
        name, numbers = ("none", []) if activation is None else _ACTIVATIONS[type(activation)]
        self._how = (
            list(padding), list(convolution.stride), list(convolution.dilation),
            convolution.groups, name, numbers, "",
        )  # fmt: skip

    @staticmethod
    def takes(convolution: nn.Conv2d) -> bool:
        """Whether a convolution can be run so: padded with zeros, by numbers, in float32."""
        known = type(convolution) in (nn.Conv2d, SameConv2d)
        zeros = convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)
        return known and zeros and convolution.weight.dtype == torch.float32

    def forward(self, maps: Tensor) -> Tensor:
        """The activation of the convolution."""
        # What torch.compile's own CPU code calls; private, so _onednn_fuses looks for it.
        output: Tensor = torch.ops.mkldnn._convolution_pointwise(
            maps, self.weight, self.bias, *self._how
        )
        return output


def _onednn_fuses() -> bool:
    """Whether this torch has the operator, which not every build for every processor has."""
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return there and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


def _besides(norm: nn.Module) -> list[nn.Module]:
    """What a batch norm does after it, in order: timm's drop and activate, others nothing."""
    parts = [getattr(norm, name, None) for name in ("drop", "act")]
    modules = [part for part in parts if isinstance(part, nn.Module)]
    return modules if isinstance(norm, nn.BatchNorm2d) and len(modules) == len(parts) else []


def _followers(
    network: nn.Module, images: Tensor, wanted: Callable[[nn.Module], bool]
) -> dict[nn.Module, nn.Conv2d]:
    """Wanted module -> the convolution whose output is its input.

    Only those that are run once: one that serves several places is left alone.
    """
    # Tensors are kept, not their ids: an id is used again once its tensor is gone.
    made: list[tuple[Tensor, nn.Conv2d]] = []
    pairs: dict[nn.Module, nn.Conv2d] = {}
    runs: list[nn.Module] = []

    def after_convolution(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        made.append((output, module))
        runs.append(module)

    def before_follower(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        runs.append(module)
        for output, convolution in made:
            if output is inputs[0]:
                pairs[module] = convolution

    hooks = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(after_convolution))
        if wanted(module):
            hooks.append(module.register_forward_pre_hook(before_follower))
    try:
        with torch.no_grad():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        after: convolution
        for after, convolution in pairs.items()
        if runs.count(after) == runs.count(convolution) == 1
    }


def _replace_if_same(
    network: Network, images: Tensor, changed: dict[nn.Module, nn.Module]
) -> Network:
    """The network with other modules in the places of some, unless its outputs would differ."""
    with torch.inference_mode():
        before: Tensor = network(images)
        back = _replace(network, changed)
        after: Tensor = network(images)
    if not (after - before).abs().max() <= _TOLERANCE * before.abs().max():
        _replace(network, back)
    return network


def _replace(network: nn.Module, changed: dict[nn.Module, nn.Module]) -> dict[nn.Module, nn.Module]:
    """Put other modules in the places of some; what puts the old ones back."""
    places = [
        (name, module)
        for name, module in network.named_modules(remove_duplicate=False)
        if module in changed
    ]
    for name, module in places:
        network.set_submodule(name, changed[module])
    return {changed[module]: module for _, module in places}
