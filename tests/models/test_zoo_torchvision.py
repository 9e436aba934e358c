from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fcnseg.errors import CheckpointError, OptionError
from fcnseg.models.backbones.torchvision import import_torchvision, official_url
from fcnseg.models.checkpoint import Checkpoint, find_model
from fcnseg.models.networks import build
from fcnseg.models.spec import ModelSpec
from fcnseg.models.zoo import NAMES, recognise, voc_classes

models = import_torchvision().models


def torchvisions(name: str, classes: int = 21) -> nn.Module:
    """Their network with random weights, alive enough for differences to show."""
    torch.manual_seed(0)
    more = {} if "lraspp" in name else {"aux_loss": True}
    network: nn.Module = models.get_model(
        name, weights=None, weights_backbone=None, num_classes=classes, **more
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return network.eval()


@pytest.mark.parametrize(
    "name", ["fcn_resnet50", "lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"]
)
@torch.no_grad()
def test_equals_torchvision(name: str, tmp_path: Path) -> None:
    theirs = torchvisions(name)
    path = tmp_path / f"{name}_coco-00000000.pth"
    torch.save(theirs.state_dict(), path)
    checkpoint = Checkpoint.load(path)
    path.unlink()
    assert checkpoint.spec.backbone == name
    assert checkpoint.classes.names[:2] == ("background", "aeroplane")
    assert checkpoint.preprocess.short_side == 520
    ours = checkpoint.build()
    for size in ((33, 47), (64, 96), (97, 70)):
        x = torch.randn(1, 3, *size)
        expected = theirs(x)["out"]
        assert (ours(x) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_saved_as_one_of_ours(tmp_path: Path) -> None:
    theirs = torchvisions("lraspp_mobilenet_v3_large", 5)
    torch.save(theirs.state_dict(), tmp_path / "x.pth")
    found = Checkpoint.load(tmp_path / "x.pth")
    assert found.classes.names == tuple(f"class_{index}" for index in range(5))
    again = Checkpoint.load(found.save(tmp_path / "x.safetensors"))
    x = torch.randn(1, 3, 40, 40)
    with torch.no_grad():
        assert torch.equal(again.build()(x), found.build()(x))


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_recognised(name: str) -> None:
    with torch.device("meta"):
        more = {} if "lraspp" in name else {"aux_loss": True}
        state = models.get_model(name, weights=None, weights_backbone=None, **more).state_dict()
        found = recognise(state)
        assert found is not None
        assert (found[0].backbone, found[0].num_classes) == (name, 21)
        assert build(found[0]).state_dict().keys() == found[2].keys()


def test_the_official_names_know_their_address() -> None:
    """Whose file name carries the first digits of the digest."""
    for name in NAMES:
        assert official_url(name).startswith(f"https://download.pytorch.org/models/{name}")


@pytest.mark.parametrize(
    "state", [{}, {"a": torch.ones(1)}, models.resnet18().state_dict()], ids=len
)
def test_anything_else_is_not(state: dict[str, Tensor], tmp_path: Path) -> None:
    assert recognise(state) is None
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="unknown network"):
        Checkpoint.load(tmp_path / "x.pth")


def test_it_has_no_skips() -> None:
    spec = ModelSpec(backbone="lraspp_mobilenet_v3_large", num_classes=2, decoder="published")
    with pytest.raises(OptionError, match="no skips"):
        build(spec).eval().skip_scores(torch.zeros(1, 3, 32, 32))
    with pytest.raises(OptionError, match="known: fcn_resnet50"):
        build(ModelSpec(backbone="resnet18", num_classes=2, decoder="published"))


def test_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / official_url("fcn_resnet50").rsplit("/", 1)[-1]
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"")
    assert find_model("fcn_resnet50") == cached
    with pytest.raises(CheckpointError, match="network known by that name") as caught:
        find_model("fcn_resnet5")
    assert "fcn_resnet50" in caught.value.hint


def test_voc() -> None:
    """The 21 classes and the palette of PASCAL VOC's own label files."""
    classes = voc_classes()
    assert classes.names[0] == "background"
    assert classes.names[-1] == "tvmonitor"
    colors = {classes.names[index]: tuple(classes.colors[index]) for index in (0, 1, 15, 20)}
    assert colors == {
        "background": (0, 0, 0), "aeroplane": (128, 0, 0), "person": (192, 128, 128),
        "tvmonitor": (0, 64, 128),
    }  # fmt: skip
