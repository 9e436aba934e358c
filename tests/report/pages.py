"""Pages made of nothing but arrays, for the tests of what is in them."""

import json
import re
from typing import Any

import numpy as np
import pytest

from fcnseg.classes import ClassMap
from fcnseg.datasets.loader import Sample
from fcnseg.inference.prediction import PredictedArrays
from fcnseg.metrics.scores import Scores
from fcnseg.report import eval_page
from fcnseg.report.gallery import Gallery

pytest.importorskip("matplotlib", reason="needs the extra report")

EVIL = '<img src=x onerror="document.title=1">'
CLASSES = ClassMap.of(["background", EVIL, "a & b</script><b>", "absent"])
PROTOCOL = {
    "images": 5, "split": "val", "tta": False, "tta_views": "", "ignored": 0.0, "tolerance": 2,
    "boundary_iou_band": 0.02, "model": f"{EVIL}.safetensors", "data": "photos",
}  # fmt: skip


def scene(number: int) -> tuple[Sample, PredictedArrays]:
    """48x64: a band of each of three classes, found too far down."""
    labels = np.repeat([0, 1, 2], 16)[:, None].repeat(64, 1).astype(np.uint8)
    predicted = np.roll(labels, 1 + number, axis=0)
    predicted[: 1 + number] = 0
    probabilities = np.full((len(CLASSES), 48, 64), 0.1, np.float32)
    np.put_along_axis(probabilities, predicted[None].astype(np.int64), 0.7, axis=0)
    rng = np.random.default_rng(number)
    image = rng.integers(0, 256, (48, 64, 3), np.uint8)
    found = PredictedArrays(predicted, probabilities.max(0), probabilities)
    return Sample(image, labels, f"part/{number} {EVIL}"), found


def skips_of(found: PredictedArrays) -> dict[int, np.ndarray]:
    """Terms that sum to logits of the predicted labels: 2 + 1.5 - 0.25 for the class, else 0."""
    right = np.arange(len(CLASSES))[:, None, None] == found.labels
    return {
        16: 1.5 * right.astype(np.float32),
        32: np.float32(2) * right,
        8: np.float32(-0.25) * right,
    }


def make_page(images: int = 5) -> str:
    scores, gallery = Scores(CLASSES.names), Gallery(CLASSES, 2)
    for number in range(images):
        sample, found = scene(number)
        scores.add(number, sample.name, sample.labels, found.labels, found.confidence)
        miou = scores.images[-1].report.miou
        gallery.add(number, sample, {"prediction": found}, [miou], skips_of(found))
    return eval_page(
        scores,
        PROTOCOL,
        gallery,
        facts={"model": EVIL},
        findings=[("warning", f"{EVIL} is a class")],
        model=None,
    )


def data_of(page: str) -> dict[str, Any]:
    """The numbers that a page's script reads."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    views = re.findall(r'type="application/json" id="view-(\d+)">(.*?)</script>', page, re.DOTALL)
    data = json.loads(found[1])
    assert {index: json.loads(view)["name"] for index, view in views} == data["views"]
    return {**data, "views": {index: json.loads(view) for index, view in views}}
