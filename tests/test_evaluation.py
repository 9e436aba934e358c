import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fcnseg.classes import ClassMap
from fcnseg.config import EvalConfig
from fcnseg.data.dataset import SegmentationDataset
from fcnseg.data.drawn import write_dataset
from fcnseg.data.layouts import describe
from fcnseg.errors import CheckpointError, DatasetError
from fcnseg.evaluation import choose_split, evaluate, score
from fcnseg.events import Event, Note, Progress
from fcnseg.media.images import write_image
from fcnseg.media.labels import write_labels
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.models.preprocess import IMAGENET
from fcnseg.runtime.engines import TorchEngine
from fcnseg.runtime.segmenter import Segmenter
from fcnseg.runtime.views import labels_of_views

NAMES = ("background", "disk", "box", "star")


@pytest.fixture(scope="module")
def dataset(drawn_folder: Path) -> SegmentationDataset:
    return SegmentationDataset(describe(drawn_folder), "val")


def renamed(run: Path, names: list[str], to: Path) -> str:
    """The run's best with other class names, its answers in another order where they move."""
    old = Checkpoint.load(run / "best.safetensors")
    weights = dict(old.weights)
    if set(names) == set(NAMES):
        order = [NAMES.index(name) for name in names]
        for key in ("decoder.head.1.weight", "decoder.head.1.bias"):
            weights[key] = weights[key][order]
    made = Checkpoint(old.spec, old.preprocess, ClassMap.of(names), weights)
    return str(made.save(to / "renamed.safetensors"))


def run_eval(folder: Path, model: object, **more):
    events: list[Event] = []
    options = {"data": folder, "model": str(model), "device": "cpu", **more}
    return evaluate(EvalConfig.make(options), events.append), events


def test_a_perfect_and_a_blind_answer(dataset: SegmentationDataset) -> None:
    truth = iter([dataset[index].labels for index in range(len(dataset))])
    perfect = score(lambda images: [next(truth) % 255 for _ in images], dataset)
    assert perfect.miou == 1
    blind = score(lambda images: [np.zeros(i.shape[:2], np.uint8) for i in images], dataset)
    assert blind.class_iou["background"] == pytest.approx(blind.pixel_accuracy)
    assert [blind.class_iou[name] for name in NAMES[1:]] == [0, 0, 0]
    assert blind.images == 6


def test_the_batch_does_not_matter_and_progress_is_told(dataset: SegmentationDataset) -> None:
    def guess(images):
        return [(image[..., 0] > 128).astype(np.uint8) for image in images]

    events: list[Event] = []
    whole = score(guess, dataset, events.append, batch=4, task="validation")
    assert [e.done for e in events if isinstance(e, Progress)] == [4, 6]
    assert {e.task for e in events if isinstance(e, Progress)} == {"validation"}
    for batch, workers in ((1, 0), (6, 1)):
        again = score(guess, dataset, batch=batch, workers=workers, lanes=1 + batch)
        assert (again.matrix == whole.matrix).all()


def test_the_result_is_one_json_object(drawn_folder: Path, tiny_run: Path) -> None:
    result, events = run_eval(drawn_folder, tiny_run)
    values = json.loads(json.dumps(result.as_dict()))
    assert set(values) == {
        "miou", "pixel_accuracy", "mean_accuracy", "fw_iou", "images", "classes",
    }  # fmt: skip
    assert [row["name"] for row in values["classes"]] == list(NAMES)
    assert set(values["classes"][0]) == {"name", "iou", "accuracy", "pixels"}
    assert values["images"] == 6
    assert result.split == "val"
    assert any(
        isinstance(e, Note) and "best.safetensors on 6 images (val)" in e.text for e in events
    )


@pytest.mark.parametrize(
    ("sizes", "split"),
    [
        ({"train": 5, "val": 2, "test": 1}, "test"),
        ({"train": 5, "val": 2}, "val"),
        ({"train": 5}, "all"),
        ({"test": 3}, "test"),
        ({"": 4}, "all"),
    ],
)
def test_the_split_that_is_scored(sizes: dict[str, int], split: str) -> None:
    assert choose_split(sizes) == split


@pytest.mark.parametrize(("split", "images"), [("train", 24), ("all", 30), ("val", 6)])
def test_a_split_can_be_chosen(drawn_folder: Path, tiny_run: Path, split: str, images: int) -> None:
    assert run_eval(drawn_folder, tiny_run, split=split)[0].report.images == images


def test_a_split_that_is_not_there(drawn_folder: Path, tiny_run: Path) -> None:
    with pytest.raises(DatasetError, match="'test'"):
        run_eval(drawn_folder, tiny_run, split="test")


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_the_same_classes_in_another_order(
    drawn_folder: Path, tiny_run: Path, tmp_path: Path, precision: str
) -> None:
    """Also in bf16: classes of nearly equal scores are told apart, not taken in their order."""
    plain, _ = run_eval(drawn_folder, tiny_run, precision=precision)
    moved = renamed(tiny_run, ["star", "background", "disk", "box"], tmp_path)
    result, events = run_eval(drawn_folder, moved, precision=precision)
    order = [3, 0, 1, 2]
    assert (result.report.matrix == plain.report.matrix[np.ix_(order, order)]).all()
    told = [e.text for e in events if isinstance(e, Note)]
    assert any("in another order" in text for text in told)


def test_other_names_are_told(drawn_folder: Path, tiny_run: Path, tmp_path: Path) -> None:
    model = renamed(tiny_run, ["a", "b", "c", "d"], tmp_path)
    _, events = run_eval(drawn_folder, model)
    assert any(
        isinstance(e, Note) and e.level == "warning" and "names differ" in e.text for e in events
    )


def test_classes_that_cannot_be_compared(
    drawn_folder: Path, tiny_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    write_dataset(folder, train=2, val=2)
    (folder / "classes.txt").write_text("cat\ndog\ncow\nhen\nfox\n")
    with pytest.raises(DatasetError, match="can't be matched"):
        run_eval(folder, tiny_run)


def test_a_folder_that_lacks_classes(drawn_folder: Path, tiny_run: Path, tmp_path: Path) -> None:
    """Without names, and with only some of the classes: the model's encoding says which."""
    folder = tmp_path / "data"
    labels = np.zeros((64, 64), np.uint8)
    labels[20:40] = 2
    for number in range(2):
        write_image(folder / f"images/{number}.png", np.full((64, 64, 3), 90 * number, np.uint8))
        write_labels(folder / f"labels/{number}.png", labels)
    result, events = run_eval(folder, tiny_run, split="all")
    pixels = {row.name: row.pixels for row in result.classes}
    assert pixels == {"background": 2 * 44 * 64, "disk": 0, "box": 2 * 20 * 64, "star": 0}
    assert any("the model's 4 count" in e.text for e in events if isinstance(e, Note))


def test_what_is_no_model_and_no_folder(drawn_folder: Path, tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        run_eval(drawn_folder, tmp_path / "none.safetensors")
    with pytest.raises(DatasetError):
        run_eval(tmp_path / "none", tiny_run)


class Spots(nn.Module):
    """Says class 1 where a pixel is bright, whatever is around it."""

    lift = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        bright = images.mean(1, keepdim=True)
        return torch.cat([-bright, bright], 1)


def spots() -> Segmenter:
    engine = TorchEngine(Spots(), IMAGENET, device=torch.device("cpu"), precision=torch.float32)  # type: ignore[arg-type]
    return Segmenter(engine, ClassMap.numbered(2), IMAGENET)


def test_one_plain_view_is_the_plain_answer() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 57, 3), np.uint8)
    plain = spots().predict([image])[0].labels
    for mirrored in (False, True):
        seen = labels_of_views(spots(), image, scales=(1.0,), mirrored=mirrored)
        assert (seen == plain).all()


def test_views_are_averaged_in_place() -> None:
    """A bright square off the centre stays where it is, mirrored and scaled views included."""
    image = np.zeros((64, 80, 3), np.uint8)
    image[8:24, 48:72] = 255
    seen = labels_of_views(spots(), image)
    wanted = (image[..., 0] > 0).astype(np.uint8)
    assert seen.shape == (64, 80)
    assert (seen != wanted).mean() < 0.02


def test_eval_with_views(drawn_folder: Path, tiny_run: Path) -> None:
    plain, _ = run_eval(drawn_folder, tiny_run)
    views, _ = run_eval(drawn_folder, tiny_run, tta=True)
    assert views.report.images == 6
    assert (views.report.matrix != plain.report.matrix).any()
    assert views.miou > plain.miou - 0.1
