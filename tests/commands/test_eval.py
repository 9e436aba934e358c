import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fcnseg
from fcnseg.classes import ClassMap
from fcnseg.commands.analysis.review import review
from fcnseg.commands.demo.scenes import write_dataset
from fcnseg.commands.eval import evaluate
from fcnseg.config import EvalConfig
from fcnseg.datasets.dataset import SegmentationDataset
from fcnseg.datasets.describe import describe
from fcnseg.datasets.splits import Provenance
from fcnseg.engines.averaging import AveragingEngine, Member
from fcnseg.engines.pytorch import TorchEngine
from fcnseg.errors import CheckpointError, DatasetError, MediaError
from fcnseg.inference.evaluation import (
    choose_split,
    confusion_report,
    is_own,
    on_split,
    refuse_meaningless,
)
from fcnseg.inference.loading import averaged
from fcnseg.inference.segmenter import Segmenter
from fcnseg.io.images import write_image, write_labels
from fcnseg.metrics import Report
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.models.networks import build
from fcnseg.models.spec import IMAGENET, ModelSpec
from fcnseg.progress import Event, Message, Progress

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
    return evaluate(EvalConfig.make(options), callback=events.append), events


def test_a_perfect_and_a_blind_answer(dataset: SegmentationDataset) -> None:
    truth = iter([dataset[index].labels for index in range(len(dataset))])
    perfect = confusion_report(lambda images: [next(truth) % 255 for _ in images], dataset)
    assert perfect.miou == 1
    blind = confusion_report(
        lambda images: [np.zeros(i.shape[:2], np.uint8) for i in images], dataset
    )
    assert blind.class_iou["background"] == pytest.approx(blind.pixel_accuracy)
    assert [blind.class_iou[name] for name in NAMES[1:]] == [0, 0, 0]
    assert blind.images == 6


def test_the_batch_does_not_matter_and_progress_is_told(dataset: SegmentationDataset) -> None:
    def guess(images):
        return [(image[..., 0] > 128).astype(np.uint8) for image in images]

    events: list[Event] = []
    whole = confusion_report(guess, dataset, events.append, batch=4, task="validation")
    assert [e.done for e in events if isinstance(e, Progress)] == [4, 6]
    assert {e.task for e in events if isinstance(e, Progress)} == {"validation"}
    for batch, workers in ((1, 0), (6, 1)):
        again = confusion_report(
            guess, dataset, batch=batch, workers=workers, num_parallel=1 + batch
        )
        assert (again.matrix == whole.matrix).all()


def test_the_result_is_one_json_object(drawn_folder: Path, tiny_run: Path) -> None:
    result, events = run_eval(drawn_folder, tiny_run)
    values = json.loads(json.dumps(result.as_dict()))
    assert set(values) == {
        "miou", "pixel_accuracy", "mean_accuracy", "fw_iou", "images", "classes", "miou_rule",
        "miou_with_absent", "absent_predicted", "split", "left_out", "problems", "protocol",
        "outputs", "mean_dice", "mean_precision", "ece", "ece_by_distance", "missing",
        "boundary_iou", "boundary_f1", "failed", "unusable",
    }  # fmt: skip
    assert [row["name"] for row in values["classes"]] == list(NAMES)
    assert set(values["classes"][0]) == {
        "name", "iou", "accuracy", "pixels", "dice", "precision", "recall", "boundary_iou",
        "boundary_f1", "ece", "missing",
    }  # fmt: skip
    assert values["images"] == 6
    assert result.split == "val"
    assert any(
        isinstance(e, Message) and "best.safetensors on 6 images (val)" in e.text for e in events
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
    told = [e.text for e in events if isinstance(e, Message)]
    assert any("in another order" in text for text in told)


def test_other_names_are_refused(drawn_folder: Path, tiny_run: Path, tmp_path: Path) -> None:
    model = renamed(tiny_run, ["a", "b", "c", "d"], tmp_path)
    with pytest.raises(DatasetError, match="can't be matched"):
        run_eval(drawn_folder, model)


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
    assert "0 is background, 1 is disk, 2 is box" in texts(events)


def plain_folder(root: Path, *, count: int = 8, values: tuple[int, int] = (0, 255)) -> Path:
    """Pictures with a disk, without parts and names: images/N.png, labels/N.png."""
    y, x = np.mgrid[:64, :64]
    for number in range(count):
        disk = (x - 20 - 3 * number) ** 2 + (y - 30) ** 2 < 150
        image = np.where(disk, 200, 20 + number)[..., None].repeat(3, 2)
        write_image(root / f"images/{number}.png", image.astype(np.uint8))
        labels = np.where(disk, values[1], values[0]).astype(np.uint8)
        write_labels(root / f"labels/{number}.png", labels)
    return root


def two_classes(to: Path, names=("background", "crack"), **extra) -> str:
    """A random tiny network's checkpoint."""
    torch.manual_seed(0)
    network = build(ModelSpec(backbone="tiny", num_classes=len(names), width=8))
    preprocess = network.backbone.preprocess
    made = Checkpoint(
        network.spec, preprocess, ClassMap.of(names), network.state_dict(), extra=extra
    )
    return str(made.save(to / "two.safetensors"))


def texts(events: list[Event]) -> str:
    return "\n".join(event.text for event in events if isinstance(event, Message))


@pytest.mark.parametrize("trained", ["unknown", "another"])
def test_a_folder_without_parts_is_scored_as_a_whole(tmp_path: Path, trained: str) -> None:
    folder = plain_folder(tmp_path / "test")
    extra = {}
    if trained == "another":
        other = describe(plain_folder(tmp_path / "train", count=9))
        extra = {"trained_on": vars(Provenance.of(other))}
    result, events = run_eval(folder, two_classes(tmp_path, **extra))
    assert (result.report.images, result.split, result.left_out) == (8, "all", {})
    assert "All pairs are scored: the dataset has no splits" in texts(events)


@pytest.mark.parametrize("place", ["train", "moved", "grown"])
def test_of_its_own_training_data_a_model_is_scored_on_the_rest(tmp_path: Path, place: str) -> None:
    folder = plain_folder(tmp_path / "train")
    description = describe(folder)
    model = two_classes(tmp_path, trained_on=vars(Provenance.of(description)))
    if place == "moved":
        folder = folder.rename(tmp_path / "elsewhere")
    if place == "grown":
        plain_folder(folder, count=11)
    result, events = run_eval(folder, model)
    assert result.split == "val"
    assert result.left_out["train"] + result.report.images == (11 if place == "grown" else 8)
    assert f"Not scored: {result.left_out['train']} in train (the model was" in texts(events)
    assert ("has changed since" in texts(events)) == (place == "grown")
    assert run_eval(folder, model, split="all")[0].left_out == {}


def test_a_checkpoint_remembers_what_it_is_own(drawn_folder: Path, tiny_run: Path) -> None:
    stored = Checkpoint.load(tiny_run / "best.safetensors").extra["trained_on"]
    assert Provenance.from_dict(stored) == Provenance.of(describe(drawn_folder))


def test_parts_that_are_not_scored_are_counted(drawn_folder: Path, tiny_run: Path) -> None:
    result, events = run_eval(drawn_folder, tiny_run)
    assert result.left_out == {"train": 24}
    assert "Not scored: 24 in train (the dataset has its own splits)" in texts(events)
    assert on_split({"train": 24}, "as requested").startswith("Not scored: 24 in train; ")


@pytest.mark.parametrize("stored", [(0, 255), (255, 0), (0, 1), (0, 128)])
@pytest.mark.parametrize("learned", [(0, 255), (255, 0), (0, 1)])
def test_one_thing_is_one_thing_however_it_is_stored(
    tmp_path: Path, stored: tuple[int, int], learned: tuple[int, int]
) -> None:
    encoding = describe(plain_folder(tmp_path / "learned", values=learned)).encoding.as_dict()
    folder = plain_folder(tmp_path / "stored", values=stored)
    result, events = run_eval(folder, two_classes(tmp_path, encoding=encoding))
    background, crack = result.classes
    assert background.pixels > 5 * crack.pixels > 0
    assert f"{stored[0]} is background, {stored[1]} is crack" in texts(events)
    warned = [e.text for e in events if isinstance(e, Message) and e.level == "warning"]
    assert any("So 255 is background" in text for text in warned) == (stored == (255, 0))


@pytest.mark.parametrize("values", [(0, 1), (0, 255)])
def test_one_thing_is_not_taken_for_one_of_several(
    tmp_path: Path, tiny_run: Path, values: tuple[int, int]
) -> None:
    """Which of four classes it is can't be told; nor are its pixels ignored as value 255."""
    folder = plain_folder(tmp_path / "one", values=values)
    with pytest.raises(DatasetError, match="can't be matched"):
        run_eval(folder, tiny_run)


@pytest.mark.parametrize(
    ("listed", "scored", "said"),
    [
        ("background\nCrack", {"background", "crack"}, "1 is crack"),
        ("background\ncracks", {"background", "crack"}, "1 is crack"),
        ("leaf\ncrack", {"crack"}, "0: ignored"),
        ("background\ncrack\nleaf", {"background", "crack"}, "2: ignored"),
    ],
)
def test_names_decide_and_what_the_model_lacks_is_ignored(
    tmp_path: Path, listed: str, scored: set[str], said: str
) -> None:
    folder = plain_folder(tmp_path / "named", values=(0, 1))
    (folder / "classes.txt").write_text(listed)
    result, events = run_eval(folder, two_classes(tmp_path))
    assert {row.name for row in result.classes if row.pixels} == scored
    assert said in texts(events)


@pytest.mark.parametrize("listed", ["leaf\nstem", "background\nleaf\nstem"])
def test_other_things_are_not_scored(tmp_path: Path, listed: str) -> None:
    folder = plain_folder(tmp_path / "named", values=(0, 1))
    (folder / "classes.txt").write_text(listed)
    with pytest.raises(DatasetError, match=r"can't be matched|nothing else is scored"):
        run_eval(folder, two_classes(tmp_path))


def test_only_background_is_no_score(tmp_path: Path, tiny_run: Path) -> None:
    folder = plain_folder(tmp_path / "bare", values=(0, 0))
    with pytest.raises(DatasetError, match="only background is labeled in 8 images"):
        run_eval(folder, tiny_run)


def test_labels_that_are_the_other_way_round_are_found_out() -> None:
    right = Report.of(np.array([[900, 20], [30, 200]]), ["background", "crack"], 3)
    refuse_meaningless(right, Path("data"))
    wrong = Report.of(right.matrix[::-1], right.names, 3)
    with pytest.raises(DatasetError, match=r"inverted.*exchanged it is 87\.37 %"):
        refuse_meaningless(wrong, Path("data"))
    refuse_meaningless(wrong, Path("data"), own=True)  # a model that has learned little
    poor = Report.of(np.array([[10, 990], [0, 10]]), ["background", "crack"], 3)
    refuse_meaningless(poor, Path("data"))  # all crack: bad, but not exchanged


def test_a_model_knows_the_dataset_it_is_own(
    drawn_folder: Path, tiny_run: Path, tmp_path: Path
) -> None:
    model = fcnseg.load(tiny_run)
    assert is_own(describe(drawn_folder), model)
    assert not is_own(describe(plain_folder(tmp_path / "other", values=(0, 1))), model)


def test_classes_without_labels_are_counted_by_a_rule_that_is_told() -> None:
    matrix = np.array([[80, 0, 20], [0, 50, 0], [0, 0, 0]])
    report = Report.of(matrix, ["road", "car", "tree"], 1)
    assert report.miou == pytest.approx((0.8 + 1) / 2)
    assert report.absent_predicted == {"tree": 20}
    assert report.miou_with_absent == pytest.approx((0.8 + 1 + 0) / 3)


def test_what_check_calls_an_error_is_told(
    drawn_folder: Path, tiny_run: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(drawn_folder, tmp_path / "data"))
    broken = next(iter(describe(folder).pairs))
    assert broken.split == "train"
    broken.labels.write_bytes(b"no picture")
    odd = describe(folder).pairs[1].labels
    write_labels(odd, np.full((128, 160), 9, np.uint8))
    result, events = run_eval(folder, tiny_run)
    assert "An error in the dataset" in texts(events)
    assert "values that are no class: 9" in texts(events)  # a warning, but of the scores
    assert broken.labels.name in texts(events)
    assert len(result.as_dict()["problems"]) == 1


def test_what_is_no_model_and_no_folder(drawn_folder: Path, tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        run_eval(drawn_folder, tmp_path / "none.safetensors")
    with pytest.raises(DatasetError):
        run_eval(tmp_path / "none", tiny_run)
    config = EvalConfig(data=drawn_folder, model=(str(tiny_run),))
    with pytest.raises(DatasetError, match="none"):  # the folder beside a config is the one scored
        evaluate(config, tmp_path / "none")


class Spots(nn.Module):
    """Says class 1 where a pixel is bright, whatever is around it."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        bright = images.mean(1, keepdim=True)
        return torch.cat([-bright, bright], 1)


def spots() -> Segmenter:
    engine = TorchEngine(Spots(), IMAGENET, device=torch.device("cpu"), precision=torch.float32)  # type: ignore[arg-type]
    return Segmenter(engine, ClassMap.numbered(2), IMAGENET)


@pytest.mark.parametrize("mirrored", [False, True])
def test_one_plain_view_is_the_plain_answer(mirrored: bool) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 57, 3), np.uint8)
    plain = spots()
    engine = AveragingEngine([Member(plain.engine, plain.preprocess)], mirrored=mirrored)
    assert (engine.labels(image[None])[0] == plain.predict([image])[0].labels).all()


def test_views_are_averaged_in_place() -> None:
    """A bright square off the centre stays where it is, mirrored and scaled views included."""
    image = np.zeros((64, 80, 3), np.uint8)
    image[8:24, 48:72] = 255
    seen = averaged([spots()], tta=True).predict([image])[0].labels
    wanted = (image[..., 0] > 0).astype(np.uint8)
    assert seen.shape == (64, 80)
    assert (seen != wanted).mean() < 0.02


def test_eval_with_views(drawn_folder: Path, tiny_run: Path) -> None:
    plain, _ = run_eval(drawn_folder, tiny_run)
    views, _ = run_eval(drawn_folder, tiny_run, tta=True)
    assert views.report.images == 6
    assert (views.report.matrix != plain.report.matrix).any()
    assert views.miou > plain.miou - 0.1


def test_an_unreadable_image_is_left_out_and_named(
    data: Path, random_model: Path, tmp_path: Path
) -> None:
    """The scores of the others are not lost, and say how many there are; so with review."""
    folder = shutil.copytree(data, tmp_path / "data")
    first, second = sorted((folder / "images/val").iterdir())
    first.write_bytes(first.read_bytes()[:300])
    result, events = run_eval(folder, random_model, split="val")
    assert [image.name for image in result.scores.images] == [f"val/{second.stem}"]
    assert [name for name, _ in result.unusable] == [f"val/{first.stem}"]
    assert result.as_dict()["images"] == 1
    warned = [one.text for one in events if isinstance(one, Message) and one.level == "warning"]
    [skipped] = [text for text in warned if text.startswith("Skipped: ") and first.name in text]
    options = {"model": str(random_model), "split": "val", "limit": 1}
    made = review(folder, out=tmp_path / "out", callback=events.append, **options)
    assert [one.text for one in events if isinstance(one, Message)].count(skipped) == 2
    assert (made.images, [name for name, _ in made.failed]) == (1, [f"val/{first.stem}"])
    shutil.copyfile(first, second)
    with pytest.raises(MediaError, match="truncated or damaged"):
        run_eval(folder, random_model, split="val")
