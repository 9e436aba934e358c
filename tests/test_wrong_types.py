"""Values of a wrong type in Python calls: accepted, or an error of ours that says why not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fcnseg
from fcnseg.errors import FcnsegError

IMAGE = np.zeros((32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def model(random_model: Path) -> fcnseg.Segmenter:
    return fcnseg.load(random_model, device=torch.device("cpu"), precision="f32")


def test_a_device_is_a_name_or_torchs_own(random_model: Path, model: fcnseg.Segmenter) -> None:
    assert model.engine.device == "cpu"
    assert model.to(torch.device("cpu")).engine.device == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(FcnsegError, match="Device 'cuda:0' can't be used"):
            fcnseg.load(random_model, device=0)
    for device in (None, b"cpu", 1.5, True):
        with pytest.raises(FcnsegError, match="A device is a name"):
            fcnseg.load(random_model, device=device)  # type: ignore[arg-type]


@pytest.mark.parametrize("side", ["a", 1.5, -1, True, (64, 64)])
def test_short_side(random_model: Path, side: Any) -> None:
    with pytest.raises(FcnsegError, match="short_side: expected a whole number"):
        fcnseg.load(random_model, short_side=side)


def test_no_model(model: fcnseg.Segmenter) -> None:
    for wrong in (model, [model], 3, b"m", torch.nn.Linear(1, 1)):
        with pytest.raises(FcnsegError, match="A model is a name or a path"):
            fcnseg.load(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("images", [IMAGE, torch.zeros(3, 8, 8), [IMAGE], None, b"a.mp4", 1.5, ""])
def test_images_in_memory_are_no_stream(model: fcnseg.Segmenter, images: Any) -> None:
    with pytest.raises(FcnsegError, match="A stream's source is a path"):
        next(model.stream(images))


@pytest.mark.parametrize("name", ["every", "limit", "batch", "smooth"])
@pytest.mark.parametrize("value", ["a", None, -1, True])
def test_numbers_of_a_stream(model: fcnseg.Segmenter, name: str, value: Any) -> None:
    with pytest.raises(FcnsegError, match=f"{name}: expected a"):
        next(model.stream("a.mp4", **{name: value}))


def test_what_a_prediction_takes(model: fcnseg.Segmenter, tmp_path: Path) -> None:
    found = model(IMAGE)
    disk = found.overlay(classes=["disk"])
    for same in ("disk", 1, np.int64(1), [1]):
        options: Any = {"classes": same} if not isinstance(same, np.int64) else {"classes": [same]}
        np.testing.assert_array_equal(found.overlay(**options), disk)
    np.testing.assert_array_equal(found.heatmap(1), found.heatmap("disk"))  # type: ignore[arg-type]
    wrong: list[Callable[[], object]] = [
        *(functools.partial(found.heatmap, name) for name in (None, 1.5, [], b"disk", 9)),
        *(functools.partial(found.overlay, alpha=value) for value in ("a", None, 2, True)),
        *(functools.partial(found.save, path) for path in (None, 3, "", b"x.png", Path())),
        functools.partial(found.save, tmp_path / "a.png", labels=True, alpha=0.3),
    ]
    for call in wrong:
        with pytest.raises(FcnsegError):
            call()


@pytest.mark.parametrize(
    "name",
    ["num_classes", "width", "in_channels", "dropout", "weights", "decoder", "fuse", "backbone",
     "output_stride"],
)  # fmt: skip
def test_create_model(name: str) -> None:
    for value in ("a", None, IMAGE, [3], *([True] if name != "dropout" else [])):
        with pytest.raises(FcnsegError):
            fcnseg.create_model(**{"backbone": "tiny", name: value})


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested")
def test_no_model_and_no_image(model: fcnseg.Segmenter, tmp_path: Path) -> None:
    nested = torch.nested.nested_tensor([torch.zeros(3, 4), torch.zeros(5, 4)])
    calls: list[Callable[[], object]] = [
        lambda: fcnseg.evaluate(IMAGE, tmp_path),  # type: ignore[arg-type]
        lambda: model(nested),
        lambda: model(300 * "x"),
        lambda: next(model.stream(300 * "x")),
        lambda: fcnseg.SegmentationDataset(300 * "x"),
    ]
    for call in calls:
        with pytest.raises(FcnsegError):
            call()


NO_PATHS: list[Any] = [None, 3, "", b"x", [], "a\0b", 300 * "x"]


@pytest.mark.parametrize("path", NO_PATHS, ids=str)
def test_no_path(model: fcnseg.Segmenter, path: Any) -> None:
    calls: list[Callable[[Any], object]] = [
        model.save_pretrained,
        model(IMAGE).save,
        fcnseg.Checkpoint.load,
        fcnseg.check,
        fcnseg.train,
        lambda given: fcnseg.export(model=given or ""),
        lambda given: fcnseg.bench(given or ""),
        lambda given: fcnseg.load(given or ""),
    ]
    for call in calls:
        with pytest.raises(FcnsegError):
            call(path)


def test_a_prediction_is_not_saved_as_a_file_called_dash(model: fcnseg.Segmenter) -> None:
    with pytest.raises(FcnsegError, match="found standard output"):
        model(IMAGE).save("-")
    assert not Path("-").exists()


@pytest.mark.parametrize("key", [slice(0, 1), "a", None, 1.5, (0,), ("a", 1), (0, 1, 2)], ids=str)
def test_a_sample_is_taken_by_its_number(drawn_folder: Path, key: Any) -> None:
    data = fcnseg.SegmentationDataset(drawn_folder)
    with pytest.raises(FcnsegError, match="A sample is taken by its number"):
        data[key]
    with pytest.raises(IndexError, match="samples; found number"):
        data[len(data)]
    assert data[np.int64(0)].name == data[torch.tensor(0)].name == data[-len(data)].name


@pytest.mark.parametrize("names", [3, None, "ab", b"ab", [3], [None]], ids=str)
def test_no_class_names(names: Any) -> None:
    with pytest.raises(FcnsegError, match="Class names are a list of texts"):
        fcnseg.ClassMap.of(names)
    with pytest.raises(FcnsegError, match="Colors are three numbers"):
        fcnseg.ClassMap.of(["a"], ["red"])  # type: ignore[list-item]
    assert fcnseg.ClassMap.of(np.array(["a", "b"])).names == ("a", "b")  # type: ignore[arg-type]


@pytest.mark.parametrize("image", [3, None, "a.png", [[0]]], ids=str)
def test_no_frame(image: Any) -> None:
    with pytest.raises(FcnsegError, match="A frame is a uint8 RGB array"):
        fcnseg.Frame(image)


def test_bench_and_demo_take_what_the_other_commands_take(
    random_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(FcnsegError, match="No model 'm'"):
        fcnseg.bench("m")
    timed = fcnseg.bench(random_model, size=(48, 64), frames=3, device="cpu")
    assert timed.size == (48, 64)
    with pytest.raises(FcnsegError, match="demo takes a DemoConfig"):
        fcnseg.demo("m")  # type: ignore[arg-type]
    (tmp_path / "taken").touch()
    with pytest.raises(FcnsegError, match="is not empty"):
        fcnseg.demo(out=tmp_path)


@pytest.mark.parametrize("data", [None, 0, [], {}, b"d"])
def test_no_dataset(data: Any) -> None:
    with pytest.raises(FcnsegError, match="A dataset is a path"):
        fcnseg.SegmentationDataset(data)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(3, 8, 8).long(),
        torch.zeros(8, 8).bool(),
        torch.full((3, 8, 8), torch.nan),
        torch.full((3, 8, 8), 200.0),
    ],
)
def test_hints_for_tensors_are_torchs(model: fcnseg.Segmenter, tensor: torch.Tensor) -> None:
    with pytest.raises(FcnsegError) as caught:
        model(tensor)
    assert "torch." in caught.value.hint
    assert "astype" not in caught.value.hint


def test_what_is_no_name_no_function_no_source(
    random_model: Path, model: fcnseg.Segmenter, tmp_path: Path
) -> None:
    found = model(IMAGE)
    any_: Any = fcnseg
    wrong: list[Callable[[], object]] = [
        lambda: any_.load(random_model, precision=[]),
        lambda: any_.load(random_model, engine=None),
        lambda: any_.ClassMap(("a",), [[0, 0, 0]]),
        lambda: any_.ClassMap.numbered("a"),
        lambda: any_.SegmentationDataset(""),
        lambda: any_.infer("", model=random_model, out=tmp_path / "o"),
        lambda: any_.view([], model=random_model, out=tmp_path / "o"),
        lambda: found.overlay(classes=1.5),  # type: ignore[arg-type]
        lambda: model(""),
    ]
    for call in wrong:
        with pytest.raises(FcnsegError):
            call()
    assert not list(tmp_path.iterdir())
