"""Kinds of errors: they sum to what is missing, and each is what its name says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from fcnseg.io.labels import connected_regions
from fcnseg.metrics import Confusion, Report
from fcnseg.metrics.regions import KINDS, RIGHT, count_kinds, kinds_of_errors, missing_iou

CLASSES = 4


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(0, 3))
def test_the_kinds_sum_to_what_is_missing_of_the_miou(data: st.DataObject, by: int) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))
    classes = st.integers(0, CLASSES - 1)
    labels = data.draw(hnp.arrays(np.uint8, shape, elements=st.one_of(classes, st.just(255))))
    predicted = data.draw(hnp.arrays(np.uint8, shape, elements=classes))
    confusion = Confusion(CLASSES)
    confusion.add(labels, predicted)
    counts = count_kinds(labels, predicted, CLASSES, by)
    wrong = confusion.matrix - np.diag(np.diag(confusion.matrix))
    assert (counts.sum(axis=0) == wrong).all()
    missing = missing_iou(counts, confusion.matrix)
    report = Report.of(confusion.matrix, ["a", "b", "c", "d"], 1)
    assert missing.shape == (len(KINDS), CLASSES)
    if np.isnan(report.miou):
        assert np.isnan(missing).all()
        return
    assert missing.sum() == pytest.approx(1 - report.miou, abs=1e-12)
    here = sum(one.iou is not None for one in report.classes)
    for k, one in enumerate(report.classes):
        lacks = 0 if one.iou is None else (1 - one.iou) / here
        assert missing[:, k].sum() == pytest.approx(lacks, abs=1e-12)


def scene(kind: str) -> tuple[np.ndarray, np.ndarray]:
    labels, predicted = np.zeros((2, 40, 40), np.uint8)
    labels[10:20, 10:20] = 1
    if kind in ("boundary", "extent"):
        shift = 1 if kind == "boundary" else 6
        predicted[10 : 20 + shift, 10:20] = 1
    elif kind == "confused":
        predicted[10:20, 10:20] = 2
    elif kind == "invented":
        predicted[10:20, 10:20] = 1
        predicted[30:33, 30:33] = 2
    return labels, predicted


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_error(kind: str) -> None:
    labels, predicted = scene(kind)
    kinds = kinds_of_errors(labels, predicted, 2)
    found = set(np.unique(kinds).tolist()) - {RIGHT}
    # The outer pixels of what is too large by more than the tolerance are within it.
    expected = {"boundary", "extent"} if kind == "extent" else {kind}
    assert {KINDS[index] for index in found} == expected
    assert ((kinds != RIGHT) == (labels != predicted)).all()


def test_an_outline_is_off_next_to_where_it_is_in_the_labels() -> None:
    kinds = kinds_of_errors(*scene("extent"), 2)
    assert (kinds[20:22, 10:20] == KINDS.index("boundary")).all()
    assert (kinds[22:26, 10:20] == KINDS.index("extent")).all()


def test_a_tenth_of_a_region_is_enough_to_be_found() -> None:
    labels, predicted = np.zeros((2, 12, 12), np.uint8)
    labels[0, :10] = 1
    missed = kinds_of_errors(labels, predicted, 2)[0, :10]
    assert (missed == KINDS.index("missed")).all()
    predicted[0, 0] = 1
    found = kinds_of_errors(labels, predicted, 2)[0, 1:10]
    assert (found == KINDS.index("boundary")).all()


def test_ignored_pixels_have_no_kind() -> None:
    labels, predicted = scene("invented")
    labels[30:33, 30:33] = 255
    assert (kinds_of_errors(labels, predicted, 2) == RIGHT).all()


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.uint8, (7, 9), elements=st.integers(0, 2)))
def test_regions_are_scipys(labels: np.ndarray) -> None:
    ours, sizes = connected_regions(labels)
    assert sizes.tolist() == np.bincount(ours.ravel()).tolist()
    total = 0
    for value in np.unique(labels):
        theirs, count = ndimage.label(labels == value, np.ones((3, 3)))
        total += count
        for number in range(1, count + 1):
            inside = theirs == number
            assert len(np.unique(ours[inside])) == 1
            assert (ours == ours[inside][0]).sum() == inside.sum()
    assert sorted(np.unique(ours)) == list(range(total))
