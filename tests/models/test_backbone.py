from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from fcnseg.errors import CheckpointError, OptionError
from fcnseg.models.backbones import Backbone, known_keys
from fcnseg.models.backbones.torchvision import RESNET_LAYERS, import_torchvision
from fcnseg.models.networks import BACKBONES, build_backbone, load_classifier, load_pretrained

models = import_torchvision().models

STRIDES = {2, 4, 8, 16, 32}
SMALL = ("tiny", "efficientnet_lite0", "resnet18", "mobilenet_v3_small", "regnet_x_400mf")


def backbone_of(name: str, output_stride: int = 32) -> Backbone:
    torch.manual_seed(0)
    backbone = build_backbone(name, output_stride)
    assert isinstance(backbone, Backbone)
    return backbone.eval()


def test_the_table_has_what_is_promised() -> None:
    promised = {
        "tiny", "vgg11", "vgg13_bn", "vgg16", "vgg16_bn", "vgg16:fc", "vgg19", "alexnet",
        "resnet18", "resnet50", "resnet152", "resnext50_32x4d", "wide_resnet50_2",
        "mobilenet_v2", "mobilenet_v3_large", "squeezenet1_1", "efficientnet_b0",
        "efficientnet_lite0", "efficientnet_lite2", "regnet_y_400mf", "convnext_tiny",
    }  # fmt: skip
    assert promised <= set(BACKBONES)


@pytest.mark.parametrize(
    "name", [*SMALL, "vgg11", "squeezenet1_0", "squeezenet1_1", "alexnet", "convnext_tiny"]
)
@torch.no_grad()
def test_maps_are_at_their_strides(name: str) -> None:
    backbone = backbone_of(name)
    maps = backbone(torch.rand(2, 3, 64, 96))
    assert maps.keys() == backbone.channels.keys() <= STRIDES
    for stride, features in maps.items():
        assert features.shape == (2, backbone.channels[stride], 64 // stride, 96 // stride)
    assert backbone.stride == max(maps)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
@torch.no_grad()
def test_is_torchvisions_network(name: str) -> None:
    """The coarsest map is what torchvision's classifier pools."""
    torch.manual_seed(0)
    model = models.get_model(name, weights=None).eval()
    backbone = backbone_of(name)
    spec = BACKBONES[name]
    plain = spec.model()
    plain.load_state_dict(known_keys(model.state_dict(), plain))
    backbone.load_state_dict(Backbone(name, spec, plain).state_dict())
    images = torch.rand(1, 3, 64, 64)
    x = images
    for module in (
        [getattr(model, part) for part in RESNET_LAYERS] if name == "resnet18" else model.features
    ):
        x = module(x)
    torch.testing.assert_close(backbone(images)[32], x)


def test_the_paper_taps_the_pools() -> None:
    stages = backbone_of("vgg16").stages
    ends = [list(stage.modules())[-1] for stage in stages.values()]
    assert all(isinstance(end, nn.MaxPool2d) for end in ends)


@pytest.mark.parametrize(
    ("name", "hint"), [("resnet19", "did you mean 'resnet18'?"), ("zebra", "one of the names")]
)
def test_unknown_names(name: str, hint: str) -> None:
    with pytest.raises(OptionError, match=r"known: tiny, .*timm:NAME") as caught:
        build_backbone(name)
    assert hint in caught.value.hint


@pytest.mark.parametrize("table", ["alignment.md", "networks.md"])
def test_every_backbone_is_in_the_generated_tables(table: str) -> None:
    """They are written by benchmarks/alignment.py and benchmarks/networks.py."""
    text = (Path(__file__).parents[2] / "docs" / table).read_text(encoding="utf-8")
    assert [name for name in BACKBONES if f"`{name}`" not in text] == []


# --- output stride ---


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize(
    "name", ["resnet18", "efficientnet_lite0", "mobilenet_v3_small", "regnet_x_400mf"]
)
@torch.no_grad()
def test_dilated_is_the_same_seen_more_densely(name: str, output_stride: int) -> None:
    """Every cell of the coarse map is among the dense one's, unchanged."""
    coarse, dense = backbone_of(name), backbone_of(name, output_stride)
    dense.load_state_dict(dict(zip(dense.state_dict(), coarse.state_dict().values(), strict=True)))
    for module in (*coarse.modules(), *dense.modules()):  # gates look at the whole map
        for part, child in module.named_children():
            if "SqueezeExc" in type(child).__name__:
                setattr(module, part, nn.Identity())
    images = torch.rand(1, 3, 160, 192)
    expected, found = coarse(images)[32], dense(images)[output_stride]
    assert dense.stride == output_stride
    step = 32 // output_stride
    first = int(coarse.offsets[32] - dense.offsets[output_stride]) // output_stride
    cells = found[..., first::step, first::step]
    assert cells.shape == expected.shape
    assert (cells - expected).abs().max() < 1e-5 * expected.abs().max()


@torch.no_grad()
def test_dilated_resnet_is_torchvisions() -> None:
    torch.manual_seed(0)
    model = models.resnet50(weights=None, replace_stride_with_dilation=[False, True, True]).eval()
    backbone = backbone_of("resnet50", 8)
    parts = [getattr(model, part) for part in RESNET_LAYERS]
    values = nn.Sequential(*parts).state_dict().values()
    backbone.load_state_dict(dict(zip(backbone.state_dict(), values, strict=True)))
    images = torch.rand(1, 3, 64, 64)
    expected = nn.Sequential(*parts)(images)
    assert (backbone(images)[8] - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", ["vgg16", "squeezenet1_1", "convnext_tiny", "tiny", "alexnet"])
def test_not_every_backbone_can_be_dilated(name: str) -> None:
    with pytest.raises(OptionError, match="can't be dilated"):
        build_backbone(name, 8)


# --- weights ---


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_auto_takes_the_wheel() -> None:
    backbone = backbone_of("efficientnet_lite0")
    load_pretrained(backbone, "efficientnet_lite0")
    _, model = load_classifier("efficientnet_lite0")
    assert same_weights(backbone, Backbone("", BACKBONES["efficientnet_lite0"], model))


def test_none_leaves_it_and_tiny_has_nothing_to_load() -> None:
    backbone = backbone_of("tiny")
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    load_pretrained(backbone, "tiny", "none")
    load_pretrained(backbone, "tiny", "auto")
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())


def write(path: Path, state: dict[str, Tensor]) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("output_stride", [8, 32])
def test_from_a_file(tmp_path: Path, suffix: str, output_stride: int) -> None:
    torch.manual_seed(1)
    model = models.resnet18(weights=None)
    path = write(tmp_path / f"resnet18{suffix}", model.state_dict())
    backbone = backbone_of("resnet18", output_stride)
    load_pretrained(backbone, "resnet18", path)
    parts = nn.Sequential(*(getattr(model, part) for part in RESNET_LAYERS))
    assert same_weights(backbone, parts)


def test_from_a_whole_segmenter(tmp_path: Path) -> None:
    """Ours, and torchvision's: both call it backbone."""
    source, target = backbone_of("resnet18"), build_backbone("resnet18")
    state = {f"backbone.{key}": value for key, value in source.state_dict().items()}
    path = write(tmp_path / "ours.safetensors", state | {"decoder.x": torch.zeros(1)})
    load_pretrained(target, "resnet18", path)
    assert same_weights(source, target)
    network = models.segmentation.fcn_resnet50(weights=None, weights_backbone=None)
    path = write(tmp_path / "fcn_resnet50.pth", network.state_dict())
    backbone = build_backbone("resnet50", 8)
    load_pretrained(backbone, "resnet50", path)
    assert same_weights(backbone, network.backbone)


def test_fully_connected_layers_come_along(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = models.alexnet(weights=None)
    path = write(tmp_path / "alexnet.pth", model.state_dict())
    backbone = backbone_of("alexnet:fc")
    load_pretrained(backbone, "alexnet:fc", path)
    fc6 = next(w for name, w in backbone.named_parameters() if w.shape[-1] == 6)
    assert torch.equal(fc6, model.classifier[1].weight.view(4096, 256, 6, 6))


@pytest.mark.parametrize("name", ["resnet34", "vgg11", "efficientnet_lite0"])
def test_other_peoples_weights_do_not_fit(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "resnet18.pth", models.resnet18(weights=None).state_dict())
    with pytest.raises(CheckpointError, match=rf"do not fit the backbone {name}") as caught:
        load_pretrained(build_backbone(name), name, path)
    assert caught.value.hint


def test_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def unreachable(*_args: object, **_more: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with pytest.raises(CheckpointError, match=r"weights of resnet18 .*no route to host") as caught:
        load_pretrained(build_backbone("resnet18"), "resnet18")
    for way_out in ("--backbone-weights none", "efficientnet_lite0", str(tmp_path)):
        assert way_out in caught.value.hint
