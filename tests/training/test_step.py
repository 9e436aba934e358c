import copy
import dataclasses

import pytest
import torch

from fcnseg.config import TrainConfig
from fcnseg.datasets.loader import Batch
from fcnseg.distributed import Distributed
from fcnseg.errors import TrainingError
from fcnseg.models.backbones import upsample
from fcnseg.models.networks import build
from fcnseg.models.spec import IMAGENET, ModelSpec
from fcnseg.training.losses import Criterion, parse_loss
from fcnseg.training.step import NetWithAuxHeads, TrainStep

STEPS = 10


def make_batch(seed: int = 0, images: int = 4) -> Batch:
    make = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 3, (images, 4, 4), generator=make)
    labels = blocks.repeat_interleave(16, 1).repeat_interleave(16, 2)  # (N, 64, 64)
    noise = torch.randint(0, 60, (images, 64, 64, 3), generator=make)
    pictures = (80 * labels.unsqueeze(-1) + noise).byte()  # brighter classes are higher
    labels[0, :40] = 255  # the micro_batches of a batch have different numbers of labelled pixels
    return Batch(pictures, labels, tuple("abcdefgh"[:images]))


def make_step(precision: torch.dtype = torch.float32, **options) -> TrainStep:
    torch.manual_seed(3)
    spec = ModelSpec(
        backbone="tiny", num_classes=3, width=8, dropout=options.pop("dropout", 0.1),
        fuse=options.pop("fuse", "feature"),
    )  # fmt: skip
    config = TrainConfig.make({"lr": 0.02, "backbone_lr": 1.0, "ema": 0.9, **options})
    return TrainStep(
        build(spec),
        config,
        criterion=Criterion(parse_loss(config.loss), torch.tensor([1.0, 2.0, 0.5])),
        preprocess=IMAGENET,
        ranks=Distributed.single(),
        precision=precision,
    )


def weights(train_step: TrainStep) -> dict[str, torch.Tensor]:
    return copy.deepcopy(train_step.model.state_dict())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "sgd", "lr": 0.1},
        {"fuse": "score", "aux": 0.4},
        {"aux": 0.4},
        {"loss": "ce+lovasz"},
        {"precision": torch.bfloat16},
    ],
)
def test_steps_make_the_loss_small(options) -> None:
    train_step = make_step(**options, dropout=0.0)
    batch = make_batch()
    losses = [float(train_step(batch, step, 16).sum()) for step in range(16)]
    assert losses[-1] < 0.8 * losses[0]
    assert all(parameter.grad is not None for parameter in train_step.model.parameters())


def test_a_step_is_a_function_of_its_number() -> None:
    one, same = make_step(), make_step()
    first = float(one(make_batch(), 4, STEPS)[0])
    torch.rand(17)  # whatever else draws random numbers
    assert float(same(make_batch(), 4, STEPS)[0]) == first
    other = make_step()
    assert float(other(make_batch(), 5, STEPS)[0]) != first, "dropout differs"
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, weights(same)[name])


@pytest.mark.parametrize("loss", ["ce", "ce+dice", "ohem"])
def test_a_step_in_parts_is_the_same_step(loss: str) -> None:
    """But for batch norm, whose statistics are of a part: they are frozen here."""
    options = {"freeze_norm": True, "dropout": 0.0, "loss": loss, "optimizer": "sgd", "clip": 0.01}
    whole, micro_batches = make_step(**options), make_step(**options)
    losses = whole(make_batch(), 0, STEPS)
    assert torch.allclose(micro_batches(make_batch(), 0, STEPS, micro_batches=3), losses, rtol=1e-5)
    before = weights(make_step(**options))
    for name, tensor in weights(whole).items():
        assert torch.allclose(tensor, weights(micro_batches)[name], atol=1e-6), name
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(whole).items())


def test_gradients_are_clipped() -> None:
    train_step = make_step(clip=1e-3)
    train_step(make_batch(), 0, STEPS)
    grads = torch.cat([p.grad.flatten() for p in train_step.model.parameters()])
    assert float(grads.norm()) == pytest.approx(1e-3, rel=1e-2)


def test_calm_lowers_the_rate() -> None:
    train_step = make_step()
    train_step(make_batch(), 2, STEPS, lr_scale=0.25)
    rates = [group["lr"] / group["lr_scale"] for group in train_step.optimizer.param_groups]
    assert rates == pytest.approx([0.25 * train_step.rate(2, STEPS)] * len(rates))


def test_resuming_from_tensors_is_exact() -> None:
    straight = make_step()
    for step in range(4):
        if step == 2:
            kept = copy.deepcopy(straight.tensors())
        straight(make_batch(step), step, STEPS)
    resumed = make_step(seed=0)
    resumed.restore(kept)
    for step in (2, 3):
        resumed(make_batch(step), step, STEPS)
    for name in ("learner", "average"):
        ours, theirs = resumed.tensors()[name], straight.tensors()[name]
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name


def test_another_networks_tensors_are_refused() -> None:
    kept = make_step(fuse="score").tensors()
    with pytest.raises(TrainingError, match="another network"):
        make_step().restore(kept)


@pytest.mark.parametrize("fuse", ["score", "feature"])
def test_coarse_rungs_answer_too(fuse: str) -> None:
    torch.manual_seed(0)
    network = build(
        ModelSpec(backbone="tiny", num_classes=3, width=8, decoder="fcn8s", fuse=fuse)
    ).eval()
    model = NetWithAuxHeads(network, aux=True)
    images = torch.randn(2, 3, 64, 96)
    answers = model(images)
    shapes = [tuple(answer.shape) for answer in answers]  # fcn8s: 8, 32, 16
    assert shapes == [(2, 3, 64, 96), (2, 3, 16, 24), (2, 3, 16, 24)]
    assert torch.equal(answers[0], network(images))
    assert len(model.heads) == (0 if fuse == "score" else 2)
    assert not network.decoder.entry._forward_hooks, "nothing listens afterwards"
    if fuse == "score":  # skips start at zero: all strides predict the same
        assert torch.allclose(answers[1], answers[0][..., 1::4, 1::4], atol=0.05)


@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_lite0"])
def test_a_coarse_answer_is_that_of_the_shorter_decoder(backbone: str) -> None:
    """At every fourth pixel, also at sizes that are no multiple of 32."""
    spec = ModelSpec(backbone=backbone, num_classes=3, decoder="fcn16s", fuse="score")
    network = build(spec).eval()
    shorter = build(dataclasses.replace(spec, decoder="fcn32s")).eval()
    shorter.load_state_dict(network.state_dict(), strict=False)
    images = torch.randn(1, 3, 70, 90)
    model = NetWithAuxHeads(network, aux=True)
    logits = shorter(images)
    wanted = torch.stack([model.on_grid(logits[:, k]) for k in range(3)], 1)
    assert torch.allclose(model(images)[1], wanted, atol=1e-5)


@pytest.mark.parametrize("fuse", ["score", "feature"])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_the_loss_counts_coarse_rungs_at_every_fourth_pixel(fuse: str, micro_batches: int) -> None:
    train_step = make_step(fuse=fuse, aux=0.5, dropout=0.0, freeze_norm=True)
    batch = make_batch()
    with torch.no_grad():
        fine, *coarse = train_step.model(IMAGENET.normalise(batch.images))
    sparse, criterion = batch.labels[:, 1::4, 1::4], train_step.criterion
    final = criterion(fine, batch.labels, criterion.normalizers(batch.labels))
    normalizers = criterion.normalizers(sparse)
    aux = sum(0.5 * criterion(scores, sparse, normalizers) for scores in coarse)
    found = train_step(batch, 0, 16, micro_batches=micro_batches)
    assert found.tolist() == pytest.approx([float(final), float(aux)], rel=1e-5)


# What torch imports in order to compile.
TORCHS_OWN = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def compile_with(monkeypatch, backend):
    """Let torch.compile leave out its C++ compiler, which takes half a minute."""
    original = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda module: original(module, backend=backend)
    )


@TORCHS_OWN
@pytest.mark.parametrize("aux", [0.0, 0.4])
def test_a_compiled_backbone_learns_the_same(monkeypatch, aux):
    compile_with(monkeypatch, "aot_eager")
    plain, compiled = make_step(aux=aux), make_step(aux=aux, compile=True)
    for step in range(2):
        plain(make_batch(step), step, STEPS)
        compiled(make_batch(step), step, STEPS)
    torch.testing.assert_close(weights(compiled), weights(plain), atol=1e-5, rtol=1e-4)


@TORCHS_OWN
def test_what_can_not_be_compiled_is_said(monkeypatch):
    def without_a_compiler(graph, inputs):
        raise RuntimeError("no compiler\nand more")

    compile_with(monkeypatch, without_a_compiler)
    with pytest.raises(TrainingError, match=r"torch\.compile can't .*: no compiler\."):
        make_step(compile=True)(make_batch(), 0, STEPS)


@pytest.mark.parametrize(
    ("backbone", "first", "shift"),
    [("tiny", 1, 0.5), ("efficientnet_lite0", 3, 1.0), ("resnet18", 0, 0.0)],
)
@torch.no_grad()
def test_the_grid_is_aligned(backbone: str, first: int, shift: float) -> None:
    """Elements of stride 8 among the pixels of every fourth row and column."""
    network = build(ModelSpec(backbone=backbone, num_classes=4, width=8))
    model = NetWithAuxHeads(network, aux=True)
    maps = torch.randn(1, 2, 5, 6)
    assert model.grid == (4, first)
    assert torch.equal(model.to_grid(maps, 8), upsample(maps, 2, shift, (10, 12)))
    assert model.to_grid(maps, 4) is maps
