import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fcnseg.errors import OptionError
from fcnseg.training.losses import LOSSES, Criterion, Term, class_weights, parse_loss

CLASSES = 4


def batch(seed: int, images: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Random logits (float64) and labels with ignored pixels; the last image is all ignored."""
    make = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, CLASSES, 6, 7, generator=make, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (images, 6, 7), generator=make)
    labels[torch.rand(labels.shape, generator=make) < 0.25] = 255
    labels[-1] = 255
    return logits, labels


def value(name: str, logits, labels, weights=None, smoothing: float = 0.0) -> torch.Tensor:
    weights = torch.ones(CLASSES, dtype=torch.float64) if weights is None else weights
    criterion = Criterion(parse_loss(name), weights, smoothing=smoothing)
    return call(criterion, logits, labels, criterion.normalizers(labels))


def call(criterion: Criterion, logits, labels, normalizers, done: float = 0.0) -> torch.Tensor:
    criterion.class_weights = criterion.class_weights.float()
    return criterion(logits, labels, normalizers, done=done)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_ce_is_torch_cross_entropy(weighted: bool, smoothing: float) -> None:
    logits, labels = batch(0)
    weights = torch.tensor([1.0, 2.0, 0.5, 4.0]) if weighted else torch.ones(CLASSES)
    wanted = F.cross_entropy(
        logits.float(), labels, weights, ignore_index=255, label_smoothing=smoothing
    )
    assert value("ce", logits, labels, weights, smoothing) == pytest.approx(float(wanted), rel=1e-5)


def test_focal_by_a_plain_loop() -> None:
    logits, labels = batch(1)
    normalizers = logits.softmax(1)
    terms = [
        -((1 - normalizers[n, k, y, x]) ** 2) * normalizers[n, k, y, x].log()
        for (n, y, x), k in np.ndenumerate(labels.numpy())
        if k != 255
    ]
    assert value("focal", logits, labels) == pytest.approx(float(sum(terms)) / len(terms), rel=1e-5)


def test_ohem_by_a_plain_loop() -> None:
    logits, labels = batch(2)
    logits = logits * 3  # some pixels are easy
    means = []
    for scores, one in zip(logits, labels, strict=True):
        here = one != 255
        if not here.any():
            continue
        losses = sorted(F.cross_entropy(scores[:, here].T, one[here], reduction="none").tolist())
        hard = [loss for loss in losses if loss >= -np.log(0.7)]
        least = max(1, round(len(losses) / 16))
        kept = hard if len(hard) >= least else losses[-least:]
        assert len(kept) < len(losses)
        means.append(np.mean(kept))
    assert value("ohem", logits, labels) == pytest.approx(np.mean(means), rel=1e-5)


def test_ohem_keeps_the_hardest_when_all_is_easy() -> None:
    labels = torch.zeros(1, 4, 8, dtype=torch.long)
    logits = torch.zeros(1, CLASSES, 4, 8)
    logits[:, 0] = torch.arange(32.0).view(4, 8) + 8  # every pixel is right and sure
    hardest = F.cross_entropy(logits.flatten(2), labels.flatten(1), reduction="none")[0, :2]
    assert value("ohem", logits, labels) == pytest.approx(float(hardest.mean()), rel=1e-3)


def test_dice_by_a_plain_loop() -> None:
    logits, labels = batch(3)
    means = []
    for normalizers, one in zip(logits.softmax(1), labels, strict=True):
        here = one != 255
        losses = []
        for k in one[here].unique():
            true, found = (one[here] == k).double(), normalizers[k][here]
            losses.append(1 - float(2 * (true * found).sum() / (true.sum() + found.sum())))
        if losses:
            means.append(np.mean(losses))
    assert value("dice", logits, labels) == pytest.approx(np.mean(means), rel=1e-5)


def jaccard_loss(wrong: set[int], true: set[int]) -> float:
    """1 - IoU when the pixels `wrong` are mispredicted (Berman et al., equation 6)."""
    return len(wrong) / len(true | wrong) if true | wrong else 0.0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_lovasz_is_the_extension_of_the_jaccard_loss(seed: int) -> None:
    logits, labels = batch(seed, images=2)
    normalizers, one = logits[0].softmax(0).flatten(1).numpy(), labels[0].flatten().numpy()
    here = np.flatnonzero(one != 255)
    losses = []
    for k in np.unique(one[here]):
        true = {i for i in here if one[i] == k}
        error = {i: 1 - normalizers[k, i] if i in true else normalizers[k, i] for i in here}
        loss, wrong, before = 0.0, set(), 0.0
        for i in sorted(here, key=lambda i: -error[i]):
            wrong.add(i)
            after = jaccard_loss(wrong, true)
            loss += error[i] * (after - before)
            before = after
        losses.append(loss)
    assert value("lovasz", logits, labels) == pytest.approx(np.mean(losses), rel=1e-4)


def test_lovasz_of_a_certain_answer_is_one_minus_its_iou() -> None:
    labels = torch.tensor([[[0, 0, 0, 1, 1, 255]]])
    answer = torch.tensor([[[0, 1, 0, 1, 0, 1]]])
    logits = 100.0 * F.one_hot(answer, CLASSES).permute(0, 3, 1, 2).float()
    wanted = 1 - np.mean([2 / 4, 1 / 3])
    assert value("lovasz", logits, labels) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", [*LOSSES, "ce+0.5*lovasz", "focal+dice"])
def test_parts_of_a_batch_add_up_to_its_gradient(name: str) -> None:
    weights = torch.tensor([1.0, 2.0, 0.5, 4.0])
    logits, labels = batch(4, images=5)
    criterion = Criterion(parse_loss(name), weights, smoothing=0.05)
    whole = logits.float().requires_grad_()
    loss = criterion(whole, labels, criterion.normalizers(labels))
    loss.backward()
    micro_batches = logits.float().requires_grad_()
    normalizers = criterion.normalizers(labels[:2]) + criterion.normalizers(labels[2:])
    total = 0.0
    for part in (slice(0, 2), slice(2, None)):
        some = criterion(micro_batches[part], labels[part], normalizers)
        some.backward()
        total += some.item()
    assert total == pytest.approx(loss.item(), rel=1e-5)
    assert torch.allclose(whole.grad, micro_batches.grad, atol=1e-7)
    assert (whole.grad[-1] == 0).all(), "ignored pixels have no gradient"
    assert whole.grad.abs().sum() > 0


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_labels_is_a_loss_of_zero(name: str) -> None:
    logits = torch.randn(2, CLASSES, 5, 5, requires_grad=True)
    loss = value(name, logits, torch.full((2, 5, 5), 255))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_a_term_joins_when_its_time_has_come() -> None:
    logits, labels = batch(5)
    criterion = Criterion(parse_loss("ce+2*dice@0.5"), torch.ones(CLASSES))
    normalizers = criterion.normalizers(labels)
    early, late = (float(criterion(logits, labels, normalizers, done=done)) for done in (0.49, 0.5))
    assert early == pytest.approx(float(value("ce", logits, labels)))
    assert late == pytest.approx(early + 2 * float(value("dice", logits, labels)), rel=1e-5)


def test_names_are_parsed() -> None:
    assert parse_loss("ce") == (Term("ce"),)
    assert parse_loss("ce + 0.5*lovasz@0.6") == (Term("ce"), Term("lovasz", 0.5, 0.6))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not understood"),
        ("entropy", "known: ce, ohem"),
        ("ce*2", "not understood"),
        ("ce++dice", "not understood"),
        ("0*ce", "above 0"),
        ("ce@1", "below 1"),
        ("ce+dice@1", "below 1"),
        ("lovasz@0.5", "no term at the start"),
    ],
)
def test_what_is_no_loss(text: str, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        parse_loss(text)


def test_class_weights() -> None:
    pixels = (900, 90, 10, 0)
    none, root, inverse = (class_weights(pixels, how) for how in ("none", "sqrt", "inverse"))
    assert none.tolist() == [1, 1, 1, 1]
    assert root[1] / root[0] == pytest.approx(10**0.5)
    assert inverse[1] / inverse[0] == pytest.approx(10)
    assert inverse[2] / inverse[0] == pytest.approx(50), "not 90: rare classes have a limit"
    for weights in (none, root, inverse):
        assert weights[3] == 1
        mean = sum(float(w) * n for w, n in zip(weights, pixels, strict=True)) / sum(pixels)
        assert mean == pytest.approx(1)
