"""torchvision's classifiers as backbones; torchvision is imported only when one is built."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from fcnseg.models.backbones import Alignment, BackboneSpec, convolutional_head, split_last
from fcnseg.models.weights import State, download, read_state
from fcnseg.progress import Callback

Layers = Callable[[nn.Module], list[nn.Module]]

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[torch.library.Library] = []  # operators live as long as their library


def import_torchvision() -> Any:
    """Import torchvision, even with a torch that it was not built for; use nothing else for it.

    PyPI's wheel for x86 Linux is a CUDA build; with a CPU torch its compiled operators do not
    load and `import torchvision` raises "operator torchvision::nms does not exist" (pytorch/vision
    issue 9085). fcnseg does not use these operators, so they are declared by name and the import
    is repeated. Remove this when torchvision imports without its operators.
    """
    try:
        import torchvision  # type: ignore[import-untyped]
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        _declare_operators()
        import torchvision
    return torchvision


def _declare_operators() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # half-imported
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        library.define(operator + _SIGNATURE)  # type: ignore[no-untyped-call]
    _declared.append(library)


def imagenet_names() -> tuple[str, ...]:
    """ImageNet's 1000 classes, in order."""
    weights = import_torchvision().models.get_model_weights("resnet18").DEFAULT
    return tuple(weights.meta["categories"])


def official_url(name: str) -> str:
    """URL of a network's best weights in torchvision."""
    return str(import_torchvision().models.get_model_weights(name).DEFAULT.url)


def _network(name: str) -> nn.Module:
    return import_torchvision().models.get_model(name, weights=None)  # type: ignore[no-any-return]


def _on_cpu(name: str) -> nn.Module:
    """Build on the CPU: RegNet computes its widths with tensors, which fails on device "meta"."""
    with torch.device("cpu"):
        return _network(name)


def _official(name: str, callback: Callback) -> State:
    return read_state(download(official_url(name), callback))


def _spec(
    name: str,
    layers: Layers,
    alignment: Alignment | Mapping[int, float],
    *,
    model: Callable[[], nn.Module] | None = None,
    head: Callable[[nn.Module], nn.Module] | None = convolutional_head,
    margin: tuple[int, int] = (0, 0),
) -> BackboneSpec:
    return BackboneSpec(
        model=model or partial(_network, name),
        layers=layers,
        alignment=alignment,
        official=partial(_official, name),
        margin=margin,
        head=head,
    )


def _specs(names: str, layers: Layers, alignment: Alignment) -> dict[str, BackboneSpec]:
    return {name: _spec(name, layers, alignment) for name in names.split()}


# --- VGG and AlexNet: pools, and fully connected layers that can be converted to convolutions ---


def _vgg(cfg: str, *, batch_norm: bool) -> nn.Module:
    # Not models.vgg16(): its classifier has 124 million parameters that are not used here.
    vgg = import_torchvision().models.vgg
    network = nn.Module()
    network.features = vgg.make_layers(vgg.cfgs[cfg], batch_norm=batch_norm)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    return network


def _pool_groups(model: nn.Module) -> list[nn.Module]:
    """Groups of layers that end with a pool: the paper taps pool3, pool4 and pool5."""
    groups: list[list[nn.Module]] = [[]]
    for module in model.features:  # type: ignore[union-attr]
        groups[-1].append(module)
        if isinstance(module, nn.MaxPool2d):
            groups.append([])
    return [nn.Sequential(*group) for group in groups if group]


def _features(model: nn.Module) -> list[nn.Module]:
    return list(model.features)  # type: ignore[arg-type]


def _with_fc7(layers: Layers, model: nn.Module) -> list[nn.Module]:
    """These layers, and the classifier up to fc7 as convolutions."""
    return [*layers(model), split_last(convolutional_head(model))[0]]


def _fc8(model: nn.Module) -> nn.Module:
    return split_last(convolutional_head(model))[1]


def _vggs() -> dict[str, BackboneSpec]:
    found = {}
    for plain, cfg in {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}.items():
        for name in (plain, f"{plain}_bn"):
            model = partial(_vgg, cfg, batch_norm=name != plain)
            found[name] = _spec(name, _pool_groups, "centre", model=model, head=None)
            with_fc7 = partial(_with_fc7, _pool_groups)
            found[f"{name}:fc"] = _spec(name, with_fc7, "centre", head=_fc8)
    return found


# AlexNet's kernels are not padded evenly: each row and column loses an element. Its fc6 is 6 wide,
# which puts fc7 half an element off pool5.
_ALEXNET = {4: 3.0, 8: 7.0, 16: 15.0, 32: 31.0}
_ALEXNET_FC = partial(_with_fc7, _features)


# --- the others ---

RESNET_LAYERS = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


def _resnet(model: nn.Module) -> list[nn.Module]:
    return [getattr(model, name) for name in RESNET_LAYERS]


def _regnets(kind: str, sizes: str) -> dict[str, BackboneSpec]:
    def layers(model: Any) -> list[nn.Module]:
        return [model.stem, *model.trunk_output.children()]

    names = [f"regnet_{kind}_{size}" for size in sizes.split()]
    return {name: _spec(name, layers, "corner", model=partial(_on_cpu, name)) for name in names}


BACKBONES: dict[str, BackboneSpec] = {
    **_vggs(),
    "alexnet": _spec("alexnet", _features, _ALEXNET, margin=(0, 32)),
    "alexnet:fc": _spec("alexnet", _ALEXNET_FC, _ALEXNET | {32: 15.0}, margin=(0, 32), head=_fc8),
    **_specs("resnet18 resnet34 resnet50 resnet101 resnet152", _resnet, "corner"),
    **_specs("resnext50_32x4d resnext101_32x8d resnext101_64x4d", _resnet, "corner"),
    **_specs("wide_resnet50_2 wide_resnet101_2", _resnet, "corner"),
    **_specs("mobilenet_v2 mobilenet_v3_small mobilenet_v3_large", _features, "corner"),
    "squeezenet1_0": _spec("squeezenet1_0", _features, "same", margin=(2, 16)),
    "squeezenet1_1": _spec("squeezenet1_1", _features, "same", margin=(0, 16)),
    **_specs(" ".join(f"efficientnet_b{n}" for n in range(8)), _features, "corner"),
    **_specs("efficientnet_v2_s efficientnet_v2_m efficientnet_v2_l", _features, "corner"),
    **_regnets("y", "400mf 800mf 1_6gf 3_2gf 8gf 16gf 32gf"),
    **_regnets("x", "400mf 800mf 1_6gf 3_2gf 8gf 16gf 32gf"),
    **_specs("convnext_tiny convnext_small convnext_base convnext_large", _features, "centre"),
}
