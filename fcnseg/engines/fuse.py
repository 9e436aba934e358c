"""Operator fusion for inference: batch norms and activations are fused into convolutions.

In evaluation mode a batch norm is a scale and a shift per channel, which can be folded into the
preceding convolution's weights and bias. An activation can be applied while the convolution's
results are still in registers.
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
"""Activations that oneDNN can fuse: their names there, and their parameters."""

_TOLERANCE = 1e-2
"""Relative to the largest logit; differences by rounding are smaller (a GPU's TF32: 1e-3)."""


def fuse_for_inference(
    network: Network, *, device: torch.device, precision: torch.dtype
) -> Network:
    """Fuse a network on a device for inference in a precision, in place; return it."""
    images = random_images(network.spec.in_channels if isinstance(network, FCN) else 3).to(device)
    network = fold_batch_norms(network, images)
    if precision == torch.float32 and device.type == "cpu":
        network = fuse_activations(network, images)
    elif precision != torch.float32 and isinstance(network, FCN):
        score_in_f32(network)
    return network


def random_images(bands: int) -> Tensor:
    """A random image for a trial run, float32 (1, C, 64, 64), on the CPU."""
    random = torch.Generator("cpu").manual_seed(0)
    # dtype and device are explicit because a program may have changed torch's defaults.
    return torch.randn(1, bands, 64, 64, generator=random, dtype=torch.float32, device="cpu")


def score_in_f32(network: FCN) -> None:
    """Change a network in place to compute class scores in float32 even under autocast.

    bfloat16 has 8 significant bits: two classes would often have equal scores, and the first would
    win. The last layers are a small part of the computation.
    """

    def outputs(module: nn.Module) -> int:
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            return module.out_channels
        return len(module.weight) if isinstance(module, LearnedUpsample) else 0

    classes = network.spec.num_classes
    scoring = [module for module in network.decoder.modules() if outputs(module) == classes]
    _replace(network, {module: InFloat32(module) for module in scoring})


class InFloat32(nn.Module):
    """Runs a module in float32 even under autocast."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, maps: Tensor, *rest: object) -> Tensor:
        """The module's output, in float32."""
        if not torch.is_autocast_enabled(maps.device.type):  # exporters don't support autocast
            plain: Tensor = self.module(maps.float(), *rest)
            return plain
        with torch.autocast(maps.device.type, enabled=False):
            output: Tensor = self.module(maps.float(), *rest)
        return output


def fold_batch_norms(network: Network, images: Tensor) -> Network:
    """Fold every batch norm that directly follows a convolution into it, in place.

    The pairs are found by running the network once on `images`; if its outputs on them would
    change, it is left as it is. Returns the network.
    """
    changed: dict[nn.Module, nn.Module] = {}
    norms = _followers(
        network, images, lambda module: type(module) is nn.BatchNorm2d or bool(_extras(module))
    )
    for norm, convolution in norms.items():
        assert isinstance(norm, nn.BatchNorm2d)
        changed[convolution] = fuse_conv_bn_eval(convolution, norm)
        changed[norm] = nn.Sequential(*_extras(norm))
    return _replace_if_same(network, images, changed)


def fuse_activations(network: Network, images: Tensor) -> Network:
    """Replace convolutions and the activations after them by fused oneDNN operators, in place.

    For float32 on a CPU, in evaluation mode. The network is left as it is where torch lacks the
    operator, or if its outputs on `images` would change. By default torch runs 1x1 convolutions
    without oneDNN when it has one thread, which costs a copy each way. Returns the network.
    """
    if not _onednn_fuses():
        return network
    changed: dict[nn.Module, nn.Module] = {}
    # The exact type: a subclass may compute something else.
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
    """A convolution and the activation after it, if any, as one operator of oneDNN.

    float32 (N, C, H, W) on a CPU -> (N, C', H', W'), in evaluation mode.
    """

    def __init__(self, convolution: nn.Conv2d, activation: nn.Module | None) -> None:
        super().__init__()
        weight, bias, padding = convolution.weight, convolution.bias, convolution.padding
        if isinstance(convolution, SameConv2d):
            # Uneven padding would need a copy of the image: a tenth of a forward pass.
            weight, margin = convolution.with_even_padding()
            padding = (margin, margin)
        weight = weight.detach().contiguous(memory_format=torch.channels_last)
        # Buffers, because they move with the network and are not trained.
        self.register_buffer("weight", weight)
        self.register_buffer("bias", None if bias is None else bias.detach())
        name, numbers = ("none", []) if activation is None else _ACTIVATIONS[type(activation)]
        self._how = (
            list(padding), list(convolution.stride), list(convolution.dilation),
            convolution.groups, name, numbers, "",
        )  # fmt: skip

    @staticmethod
    def takes(convolution: nn.Conv2d) -> bool:
        """Whether a convolution is supported: zero padding given as numbers, float32."""
        known = type(convolution) in (nn.Conv2d, SameConv2d)
        zeros = convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)
        return known and zeros and convolution.weight.dtype == torch.float32

    def forward(self, maps: Tensor) -> Tensor:
        """The activation of the convolution."""
        # The operator that torch.compile uses on CPUs; private, so _onednn_fuses looks for it.
        output: Tensor = torch.ops.mkldnn._convolution_pointwise(
            maps, self.weight, self.bias, *self._how
        )
        return output


def _onednn_fuses() -> bool:
    """Whether this build of torch has the operator, which depends on the CPU architecture."""
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return there and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


def _extras(norm: nn.Module) -> list[nn.Module]:
    """The modules inside timm's BatchNormAct2d that run after the norm: drop, act; else none."""
    parts = [getattr(norm, name, None) for name in ("drop", "act")]
    modules = [part for part in parts if isinstance(part, nn.Module)]
    return modules if isinstance(norm, nn.BatchNorm2d) and len(modules) == len(parts) else []


def _followers(
    network: nn.Module, images: Tensor, wanted: Callable[[nn.Module], bool]
) -> dict[nn.Module, nn.Conv2d]:
    """Wanted module -> the convolution whose output is its input.

    Only modules that run once: shared modules are left as they are.
    """
    # Tensors are kept, not their ids: an id is reused once its tensor is freed.
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
    """Replace modules unless the network's outputs on `images` would change."""
    with torch.inference_mode():
        before: Tensor = network(images)
        back = _replace(network, changed)
        after: Tensor = network(images)
    if not (after - before).abs().max() <= _TOLERANCE * before.abs().max():
        _replace(network, back)
    return network


def _replace(network: nn.Module, changed: dict[nn.Module, nn.Module]) -> dict[nn.Module, nn.Module]:
    """Replace modules (old -> new); return the mapping that undoes it."""
    places = [
        (name, module)
        for name, module in network.named_modules(remove_duplicate=False)
        if module in changed
    ]
    for name, module in places:
        network.set_submodule(name, changed[module])
    return {changed[module]: module for _, module in places}
