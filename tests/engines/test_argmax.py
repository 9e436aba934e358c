import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fcnseg.engines import base
from fcnseg.engines.base import argmax_labels


@given(
    classes=st.integers(1, 255),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    block=st.integers(1, 40),
    last=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_is_softmax_and_argmax(classes, size, block, last, seed):
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, *size, generator=random) * 5
    if last:
        logits = logits.contiguous(memory_format=torch.channels_last)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "_PIXELS_AT_ONCE", block)
        labels, confidence = argmax_labels(logits, confidence=True)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, logits.argmax(dim=1).numpy())
    np.testing.assert_allclose(confidence, logits.softmax(dim=1).amax(dim=1).numpy(), atol=1e-5)


def test_the_first_of_equals_wins():
    logits = torch.zeros(1, 5, 2, 3)
    assert argmax_labels(logits)[0].max() == 0
    logits[:, 2:4] = 1
    assert (argmax_labels(logits)[0] == 2).all()


def test_confidence_only_when_asked_for():
    assert argmax_labels(torch.zeros(1, 2, 2, 2))[1] is None


def test_the_logits_stay_as_they_are():
    logits = torch.randn(1, 3, 4, 5)
    before = logits.clone()
    argmax_labels(logits, confidence=True)
    torch.testing.assert_close(logits, before, rtol=0, atol=0)


def test_other_types_go_torchs_way():
    logits = torch.randn(1, 7, 6, 5, generator=torch.Generator().manual_seed(0))
    labels, confidence = argmax_labels(logits.double(), confidence=True)
    np.testing.assert_array_equal(labels, logits.argmax(dim=1).numpy())
    assert confidence is not None
    assert confidence.dtype == np.float32


def test_large_scores_do_not_overflow():
    _, confidence = argmax_labels(torch.tensor([1e4, -1e4]).reshape(1, 2, 1, 1), confidence=True)
    assert confidence == pytest.approx(1.0)
