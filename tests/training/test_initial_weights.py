import dataclasses
from pathlib import Path

import pytest
import torch

from fcnseg.classes import ClassMap
from fcnseg.config import TrainConfig
from fcnseg.errors import CheckpointError, OptionError
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.models.networks import build
from fcnseg.models.spec import ModelSpec, Preprocess
from fcnseg.training.initial_weights import from_pretrained

TINY = {"backbone": "tiny", "backbone_weights": "none", "width": 8}
ABC = ClassMap.of(["a", "b", "c"])
PREPROCESS = Preprocess((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A checkpoint of classes a, b, c whose every weight is known."""
    torch.manual_seed(5)
    spec = ModelSpec(backbone="tiny", num_classes=3, width=8, decoder="fcn16s")
    weights = build(spec).state_dict()
    weights["decoder.head.1.bias"] = torch.tensor([10.0, 20.0, 30.0])
    return Checkpoint(spec, PREPROCESS, ABC, weights).save(tmp_path / "old.safetensors")


def start(classes: ClassMap, **options):
    told, config = [], TrainConfig.make(options)
    if config.upsample is None and not config.finetune:  # this is decided before, by the data
        config = dataclasses.replace(config, upsample="fixed")
    made = from_pretrained(config, classes, told.append)
    return made, " ".join(event.text for event in told)


def test_a_fresh_start_follows_the_seed() -> None:
    one, same, other = (start(ABC, **TINY, seed=seed)[0].network.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_the_backbone_starts_from_a_file(saved: Path) -> None:
    made, _ = start(ABC, backbone="tiny", width=8, backbone_weights=str(saved))
    old = Checkpoint.load(saved).weights
    for name, tensor in made.network.backbone.state_dict().items():
        assert torch.equal(tensor, old[f"backbone.{name}"])


def test_the_same_classes_keep_everything(saved: Path) -> None:
    made, told = start(ABC, finetune=str(saved))
    old = Checkpoint.load(saved)
    assert made.network.spec == old.spec, "the checkpoint's shape, not the defaults"
    assert made.config.decoder == "fcn16s"
    assert made.config.width == 8
    assert made.preprocess == PREPROCESS
    for name, tensor in made.network.state_dict().items():
        assert torch.equal(tensor, old.weights[name]), name
    assert "newly initialized" not in told


def test_what_was_shipped_in_half_precision_is_resumed(saved: Path, tmp_path: Path) -> None:
    small = Checkpoint.load(saved).half().save(tmp_path / "half.safetensors")
    made, _ = start(ABC, finetune=str(small))
    old = Checkpoint.load(saved).weights
    for name, tensor in made.network.state_dict().items():
        assert tensor.dtype == old[name].dtype, name
        torch.testing.assert_close(tensor, old[name], rtol=1e-3, atol=1e-4)
    moved, _ = start(ClassMap.of(["c", "new", "a"]), finetune=str(small))
    assert moved.network.decoder.head[1].bias.tolist() == [30, 0, 10]


def test_the_short_side_is_the_checkpoints_or_chosen(saved: Path, tmp_path: Path) -> None:
    assert start(ABC, **TINY, short_side=96)[0].preprocess.short_side == 96
    old = Checkpoint.load(saved)
    path = dataclasses.replace(old, preprocess=old.preprocess.at(200)).save(
        tmp_path / "200.safetensors"
    )
    for options, expected in ({}, 200), ({"short_side": 96}, 96), ({"short_side": 0}, None):
        assert start(ABC, finetune=str(path), **options)[0].preprocess.short_side == expected
    other, _ = start(ABC, finetune=str(path), backbone="resnet18", backbone_weights="none")
    assert other.preprocess.short_side == 200


def test_classes_are_kept_by_name(saved: Path) -> None:
    made, told = start(ClassMap.of(["c", "new", "a", "b"]), finetune=str(saved))
    assert made.network.decoder.head[1].bias.tolist() == [30, 0, 10, 20]
    old = Checkpoint.load(saved).weights["decoder.head.1.weight"]
    fresh = made.network.decoder.head[1].weight
    assert torch.equal(fresh[[0, 2, 3]], old[[2, 0, 1]])
    assert fresh[1].abs().sum() > 0
    assert str(saved) in told


def test_learned_upsampling_has_classes_on_two_axes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = ModelSpec(backbone="tiny", num_classes=3, width=8, decoder="fcn8s", upsample="learned")
    weights = {name: torch.randn_like(t.float()) for name, t in build(spec).state_dict().items()}
    name = "decoder.upsamples.8.weight"
    assert weights[name].shape[:2] == (3, 3)
    path = Checkpoint(spec, PREPROCESS, ABC, weights).save(tmp_path / "old.safetensors")
    made, _ = start(ClassMap.of(["c", "new", "a"]), finetune=str(path))
    found, old = made.network.state_dict()[name], weights[name]
    assert torch.equal(found[0, 2], old[2, 0])
    assert torch.equal(found[2, 2], old[0, 0])
    assert found[1, 0].abs().sum() == 0, "a new class does not leak"
    assert found[1, 1].abs().sum() > 0


def test_a_share_for_each_pixel_can_be_added(saved: Path) -> None:
    made, told = start(ABC, finetune=str(saved), upsample="subpixel")
    assert made.network.spec.upsample == "subpixel"
    assert "1 are newly initialized" in told
    old = Checkpoint.load(saved).build()(images := torch.randn(1, 3, 40, 64))
    assert torch.equal(made.network.eval()(images), old), "it starts as the checkpoint"


def test_subpixel_weights_are_kept_by_class(tmp_path: Path) -> None:
    spec = ModelSpec(backbone="tiny", num_classes=3, width=8, upsample="subpixel")
    weights = {name: torch.randn_like(t.float()) for name, t in build(spec).state_dict().items()}
    path = Checkpoint(spec, PREPROCESS, ABC, weights).save(tmp_path / "old.safetensors")
    made, _ = start(ClassMap.of(["c", "new", "a"]), finetune=str(path))
    found, old = made.network.decoder.detail[1].weight, weights["decoder.detail.1.weight"]
    assert torch.equal(found[:, [0, 2]], old[:, [2, 0]])
    assert found[:, 1].abs().sum() == 0


def test_other_classes_start_anew_and_the_rest_stays(saved: Path) -> None:
    made, told = start(ClassMap.of(["x", "y", "z"]), finetune=str(saved))
    assert made.network.decoder.head[1].bias.tolist() == [0, 0, 0]
    old = Checkpoint.load(saved).weights
    assert torch.equal(made.network.decoder.entry[0].weight, old["decoder.entry.0.weight"])
    assert "2 are newly initialized" in told


def test_classes_without_names_are_kept_by_number(saved: Path) -> None:
    made, _ = start(ClassMap.numbered(3), finetune=str(saved))
    assert made.network.decoder.head[1].bias.tolist() == [10, 20, 30]


def test_another_decoder_keeps_what_fits(saved: Path) -> None:
    made, told = start(ABC, finetune=str(saved), decoder="fcn8s")
    assert made.network.spec.decoder == "fcn8s"
    old = Checkpoint.load(saved).weights
    assert torch.equal(
        made.network.decoder.rungs["16"].mix[0].weight, old["decoder.rungs.16.mix.0.weight"]
    )
    assert "newly initialized" in told


def test_nothing_fits_another_backbone(saved: Path) -> None:
    with pytest.raises(OptionError, match=r"Nothing in .* fits"):
        start(
            ClassMap.of(["x", "y"]), finetune=str(saved), backbone="resnet18",
            backbone_weights="none", width=16,
        )  # fmt: skip


def test_no_checkpoint_to_start_from(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        start(ABC, finetune=str(tmp_path / "none.safetensors"))


def test_a_published_network_as_a_whole_has_no_decoder_to_train(tmp_path: Path) -> None:
    spec = ModelSpec(backbone="lraspp_mobilenet_v3_large", num_classes=21, decoder="published")
    network = build(spec)
    classes = ClassMap.numbered(21)
    path = Checkpoint(spec, PREPROCESS, classes, network.state_dict()).save(
        tmp_path / "p.safetensors"
    )
    with pytest.raises(OptionError, match="no decoder") as caught:
        start(ABC, finetune=str(path))
    assert "--backbone-weights" in (caught.value.hint or "")
