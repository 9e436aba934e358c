"""What `import fcnseg` offers: six documented names, each with an example that runs, all typed."""

import contextlib
import inspect
import shutil
import textwrap
from pathlib import Path
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import fcnseg
from fcnseg.errors import DatasetError, OptionError

NAMES = ("load", "create_model", "SegmentationDataset", "train", "evaluate", "TrainConfig")

TYPED = """
from pathlib import Path

import fcnseg

config: fcnseg.TrainConfig = fcnseg.TrainConfig(data=Path("photos"), epochs=2)
result = fcnseg.train("photos", epochs=2)
best: Path = result.best
again = fcnseg.train(config)
model: fcnseg.Segmenter = fcnseg.load("nuclei", device="cpu")
prediction: fcnseg.Prediction = model("cells.png")
height: int = prediction.labels.shape[0]
for frame in model.stream("clip.mp4"):
    print(frame.index, frame.heatmap("nucleus").max())
net: fcnseg.FCN = fcnseg.create_model("fcn8s", backbone="resnet18", num_classes=21)
data = fcnseg.SegmentationDataset("photos", split="train", transforms=lambda i, m: (i / 255, m))
image, labels, name = data[0]
report = fcnseg.evaluate(model, "photos", split="val")
miou: float = report.miou
scores = fcnseg.evaluate(fcnseg.EvalConfig(data=Path("photos")))
kinds: set[str] = {finding.code for finding in fcnseg.check("photos").findings}
failed: int = len(fcnseg.infer(["a.png", Path("b.png")], model="nuclei", out="segmented").failed)
frames: int = fcnseg.infer(fcnseg.InferConfig(source=("clip.mp4",))).frames_out
pages: tuple[Path, ...] = fcnseg.view("a.png", model="nuclei").outputs
exported: Path = fcnseg.export("nuclei", format="onnx").path
timed = fcnseg.bench(fcnseg.BenchConfig(model="nuclei"))
shown = fcnseg.demo(fcnseg.DemoConfig(epochs=1))
better: float = fcnseg.compare("photos", model=["a", "b"]).differences[0].better
wrong: list[str] = [one.name for one in fcnseg.review("photos", model="a").suspects]
beside = fcnseg.compare(fcnseg.CompareConfig(data=Path("photos"), model=("a", "b")))
next_ones = fcnseg.review(fcnseg.ReviewConfig(data=Path("photos"), unlabeled=True)).to_label
configs = (fcnseg.CheckConfig(data=Path("photos")), fcnseg.ExportConfig())
viz = fcnseg.VizConfig(source=("a.png",))
classes: fcnseg.ClassMap = model.classes
spec: fcnseg.ModelSpec = fcnseg.Checkpoint.load(best).spec
fed: fcnseg.Frame = prediction.frame
try:
    found = [one.labels for one in model(["a.png", "b.png"], confidence=True)]
    logits = model.to("cpu").logits("a.png")
    parts = model.skip_scores("a.png")
    saved: Path = model.save_pretrained("folder")
    arrays = model.predict(["a.png"], probabilities=True)
    sure, probable = prediction.confidence, prediction.probabilities
    drawn = prediction.overlay(alpha=0.5)
    prediction.save("overlay.png")
except fcnseg.FcnsegError as error:
    print(error.hint)
"""
"""A program that uses every name; test_docs.py has it checked with the examples."""


def test_every_name_is_listed_and_documented() -> None:
    assert set(dir(fcnseg)) >= {*NAMES, "__version__"}
    for name in NAMES:
        assert name in fcnseg.__all__
        text = inspect.getdoc(getattr(fcnseg, name)) or ""
        assert "fcnseg." in text, f"{name} has no example"


def test_no_module_takes_the_place_of_a_name() -> None:
    """Python sets a package's attribute to a module of that name when it is imported."""
    modules = {path.stem for path in Path(fcnseg.__file__).parent.glob("*.py")}
    modules |= {path.parent.name for path in Path(fcnseg.__file__).parent.glob("*/__init__.py")}
    assert not modules & set(fcnseg.__all__)


def example_of(name: str) -> str:
    """The code in a docstring."""
    text = inspect.getdoc(getattr(fcnseg, name)) or ""
    if ">>> " in text:  # a doctest
        return "\n".join(line.strip()[4:] for line in text.splitlines() if ">>> " in line)
    for block in text.split("\n\n"):
        code = textwrap.dedent(block)
        with contextlib.suppress(SyntaxError):  # of prose
            compile(code, name, "exec")
            if "fcnseg." in code:
                return code
    raise AssertionError(f"{name} has no example")


@pytest.mark.parametrize("name", NAMES)
def test_every_example_runs(
    name: str, drawn_folder: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = example_of(name)
    small = 'epochs=1, backbone="tiny", backbone_weights="none", width=16, workers=0, device="cpu"'
    for words in ("epochs=40, lr=1e-3", "epochs=40"):
        example = example.replace(words, small)
    example = example.replace('"photos"', repr(str(drawn_folder)))
    example = example.replace('fcnseg.evaluate("nuclei"', f"fcnseg.evaluate({str(tiny_run)!r}")
    monkeypatch.chdir(tmp_path)
    exec(example, {"fcnseg": fcnseg, "torch": torch})


COMMANDS = (
    "bench", "check", "compare", "demo", "evaluate", "export", "infer", "review", "train", "view",
)  # fmt: skip
"""Called by examples with the right arguments; they run in tests of their own."""

EXAMPLES = {name: example_of(name) for name in fcnseg.__all__ if name not in NAMES}


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_other_name_has_an_example(
    name: str,
    drawn_folder: Path,
    random_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for command in COMMANDS:
        called = create_autospec(getattr(fcnseg, command))
        monkeypatch.setattr(fcnseg, command, called, raising=False)
    shutil.copy(sorted((drawn_folder / "images").rglob("*.png"))[0], tmp_path / "cells.png")
    shutil.copy(random_model, tmp_path / "best.safetensors")
    monkeypatch.chdir(tmp_path)
    exec(EXAMPLES[name], {"fcnseg": fcnseg, "torch": torch, "Path": Path})


def test_a_dataset_goes_through_torchs_default_loader(drawn_folder: Path) -> None:
    data = fcnseg.SegmentationDataset(drawn_folder, split="val")
    images, labels, names = next(iter(DataLoader(data, batch_size=2)))
    assert (images.shape, images.dtype) == ((2, 128, 160, 3), torch.uint8)
    assert (labels.shape, labels.dtype) == ((2, 128, 160), torch.uint8)
    assert len(names) == 2
    again = next(iter(DataLoader(data, batch_size=2)))  # from memory, without a warning
    assert torch.equal(images, again[0])


def test_transforms_take_the_place_of_image_and_labels(drawn_folder: Path) -> None:
    def transforms(image: np.ndarray, labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(image).permute(2, 0, 1) / 255, torch.from_numpy(labels).long()

    data = fcnseg.SegmentationDataset(str(drawn_folder), transforms=transforms)
    images, labels, _ = next(iter(DataLoader(data, batch_size=4)))
    assert (images.shape, images.dtype) == ((4, 3, 128, 160), torch.float32)
    assert labels.dtype == torch.int64
    assert data.classes.names == ("background", "disk", "box", "star")


def test_a_wrong_split_or_folder_says_so(drawn_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError):
        fcnseg.SegmentationDataset(drawn_folder, split="nothing")
    with pytest.raises(DatasetError):
        fcnseg.SegmentationDataset(tmp_path)


def test_a_model_is_evaluated_by_path_or_as_it_is(drawn_folder: Path, tiny_run: Path) -> None:
    by_path = fcnseg.evaluate(tiny_run, drawn_folder, split="val", device="cpu", workers=0)
    model = fcnseg.load(tiny_run, device="cpu")
    as_it_is = fcnseg.evaluate(model, drawn_folder, split="val", workers=0)
    assert by_path.miou == as_it_is.miou
    assert by_path.report.images == 6
    with pytest.raises(OptionError, match="precision"):
        fcnseg.evaluate(model, drawn_folder, precision="bf16")
    with pytest.raises(OptionError, match="Unknown option 'splot'"):
        fcnseg.evaluate(model, drawn_folder, splot="val")


def test_commands_take_a_folder_a_source_or_a_model(
    drawn_folder: Path, tiny_run: Path, tmp_path: Path
) -> None:
    """As train and evaluate do: a config is not needed for the first try."""
    assert fcnseg.check(drawn_folder).description.layout == "folders"
    image = sorted((drawn_folder / "images").rglob("*.png"))[0]
    options = {"model": tiny_run, "device": "cpu"}
    assert fcnseg.infer([image], out=tmp_path / "segmented", **options).frames_out == 1
    assert fcnseg.view(str(image), out=tmp_path / "heatmaps", **options).outputs
    with pytest.raises(OptionError, match="Unknown option 'sav' for infer"):
        fcnseg.infer(image, sav="labels")
