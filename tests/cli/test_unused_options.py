"""An option that was given is obeyed, or refused; never passed over in silence."""

from __future__ import annotations

import ast
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fcnseg
from fcnseg.cli.console import with_owners
from fcnseg.commands.analysis.compare import compare
from fcnseg.commands.analysis.review import review
from fcnseg.commands.bench import bench
from fcnseg.commands.export import export
from fcnseg.commands.infer import infer
from fcnseg.commands.train import train
from fcnseg.commands.viz import view
from fcnseg.config import (
    CONFIGS,
    BenchConfig,
    CompareConfig,
    ExportConfig,
    InferConfig,
    ReviewConfig,
    TrainConfig,
    VizConfig,
)
from fcnseg.config.options import flags_of
from fcnseg.errors import OptionError
from fcnseg.io.images import write_image
from fcnseg.io.video_writer import VideoWriter
from fcnseg.models.checkpoint import find_models
from tests.conftest import TINY
from tests.inference.test_pipeline import FakeSegmenter, run
from tests.test_live import FakeCamera


@pytest.mark.parametrize(
    ("flag", "options"),
    [
        ("--start", {"start": 1.0}),
        ("--end", {"end": 1.0}),
        ("--alpha", {"alpha": 0.3, "save": ("labels",)}),
        ("--conf", {"conf": 0.3, "save": ("probabilities",)}),
        ("--alpha", {"alpha": 0.3, "save": ("color", "coco")}),
    ],
)
@pytest.mark.parametrize("folder", [False, True])
def test_infer(tmp_path: Path, flag: str, options: dict[str, Any], folder: bool) -> None:
    write_image(tmp_path / "in" / "a.png", np.zeros((8, 8, 3), np.uint8))
    source = tmp_path / "in" if folder else tmp_path / "in" / "a.png"
    values = {"source": str(source), "out": tmp_path / "out", **options}
    with pytest.raises(OptionError, match=f"{flag} has no effect here"):
        infer(InferConfig.make(values), segmenter=FakeSegmenter())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flag", "options"),
    [
        ("--every", {"every": 2}),
        ("--batch", {"batch": 3}),
        ("--format", {"format": "y4m"}),  # which is what a pipe has anyway
        ("--skip-done", {"skip_done": True, "out": "out.png"}),
    ],
)
def test_one_image(tmp_path: Path, flag: str, options: dict[str, Any], monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    values = {"source": "a.png", "out": "out", **options}
    with pytest.raises(OptionError, match=f"{flag} has no effect here"):
        infer(InferConfig.make(values), segmenter=FakeSegmenter())


@pytest.mark.parametrize("option", [{"start": 1.0}, {"end": 2.0}])
@pytest.mark.parametrize("source", ["0", "rtsp://camera/1"])
def test_times_of_what_has_no_beginning(
    tmp_path: Path, source: str, option: dict[str, float]
) -> None:
    with pytest.raises(OptionError, match=f"--{next(iter(option))} has no effect here"):
        run(source, tmp_path / "out", connect=lambda _: FakeCamera(), **option)


@pytest.mark.parametrize("conf", [{"shares": "s.jsonl"}, {"save": ("probabilities", "labels")}])
def test_conf_that_something_follows(tmp_path: Path, conf: dict[str, Any], monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    values = {"source": "a.png", "out": "out", "save": ("probabilities",), "conf": 0.5, **conf}
    assert infer(InferConfig.make(values), segmenter=FakeSegmenter()).frames_out == 1


@pytest.mark.parametrize(
    ("flag", "options"),
    [
        ("--mix-share", {"mix_share": 0.3}),
        ("--mix", {"mix": "cutmix", "mix_share": 0.0}),
        ("--label-smoothing", {"label_smoothing": 0.1, "loss": "dice"}),
        ("--class-weights", {"class_weights": "sqrt", "loss": "dice+lovasz"}),
        ("--width", {"width": 32, "fuse": "score"}),
        ("--skips", {"skips": "scaled", "fuse": "feature"}),
        ("--aux", {"aux": 0.2, "decoder": "fcn32s"}),
        ("--backbone-weights", {"backbone_weights": "auto.pth", "finetune": True}),
        ("--backbone-weights", {"backbone_weights": "none", "finetune": True}),
        ("--freeze-norm", {"freeze_norm": True, "backbone": "vgg16", "fuse": "score"}),
        ("--backbone-lr", {"backbone_lr": 0.1, "freeze": 5}),
        ("--accumulate", {"accumulate": 2, "batch": 1}),
    ],
)
def test_train(
    tmp_path: Path, drawn_folder: Path, random_model: Path, flag: str, options: dict[str, Any]
) -> None:
    options = {"fuse": "feature", **TINY, "width": None, **options}
    if options.get("finetune"):
        options |= {"finetune": str(random_model), "backbone": None}
    with pytest.raises(OptionError, match=f"{flag} has no effect here"):
        train(drawn_folder, out=tmp_path / "run", epochs=1, **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"accumulate": 9}, "--accumulate 9: a step is of 8 images"),
        ({"workers": 1000}, "--workers 1000: more than"),
    ],
)
def test_train_with_more_than_there_is(
    tmp_path: Path, drawn_folder: Path, options: dict[str, Any], found: str
) -> None:
    with pytest.raises(OptionError, match=found):
        train(drawn_folder, out=tmp_path / "run", epochs=1, **{**TINY, **options})
    assert not (tmp_path / "run").exists()


def test_a_run_s_own_config_is_no_list_of_requests(tmp_path: Path, drawn_folder: Path) -> None:
    """It has every option, those without effect with their defaults."""
    options = {**TINY, "width": None, "fuse": "score", "loss": "dice", "crop": (32, 32)}
    first = train(drawn_folder, out=tmp_path / "run", epochs=1, **options)
    again = TrainConfig.load(first.run / "config.toml", out=tmp_path / "again")
    assert train(again).epochs == 1


def test_sanity_of_a_run_that_has_begun(tiny_run: Path) -> None:
    with pytest.raises(OptionError, match="--sanity checks a new run"):
        train(tiny_run, resume=True, sanity=True)


def test_batch_of_a_camera(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--batch has no effect here"):
        run("0", tmp_path / "out", batch=2, connect=lambda _: FakeCamera())


@pytest.mark.parametrize(
    "option", [{"rungs": True}, {"engine": "opencv"}, {"precision": "f32"}, {"short_side": 64}]
)
def test_classify(tmp_path: Path, option: dict[str, Any]) -> None:
    values = {"source": str(tmp_path), "classify": True, "out": tmp_path / "out", **option}
    with pytest.raises(OptionError, match="has no effect with --classify"):
        view(VizConfig.make(values))


def test_pages_of_what_has_none(drawn_folder: Path, random_model: Path, tmp_path: Path) -> None:
    frames = np.zeros((2, 32, 32, 3), np.uint8)
    with VideoWriter(tmp_path / "a.mp4", Fraction(10), (32, 32)) as video:
        for frame in frames:
            video.write(frame)
    shown = {"model": (str(random_model),), "page": "1", "out": tmp_path / "out", "device": "cpu"}
    with pytest.raises(OptionError, match="--page has no effect here: a video has no pages"):
        view(VizConfig.make({"source": str(tmp_path / "a.mp4"), **shown}))
    with pytest.raises(OptionError, match="--page has no effect on a dataset"):
        view(VizConfig.make({"source": str(drawn_folder), "show_what": "errors", **shown}))


def test_one_model_by_two_names(random_model: Path, drawn_folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.safetensors"
    link.symlink_to(random_model)
    twice = (str(random_model), str(link))
    with pytest.raises(OptionError, match="was given twice"):
        compare(CompareConfig.make({"data": drawn_folder, "model": twice, "device": "cpu"}))
    with pytest.raises(OptionError, match="was given twice"):
        find_models(twice)


def test_bench_and_export(tmp_path: Path, random_model: Path) -> None:
    with pytest.raises(OptionError, match="--size is that of the synthetic video"):
        bench(BenchConfig.make({"model": str(random_model), "source": "a.mp4", "size": (64, 64)}))
    with pytest.raises(OptionError, match="--web-runtime is for --format web alone"):
        export(ExportConfig.make({"model": str(random_model), "web_runtime": tmp_path}))


def test_images_beside_data(random_model: Path, drawn_folder: Path) -> None:
    values = {"model": str(random_model), "data": drawn_folder, "images": str(drawn_folder)}
    with pytest.raises(OptionError, match="--images has no effect with --data"):
        export(ExportConfig.make(values))


@pytest.mark.parametrize("option", [{"split": "val"}, {"tolerance": 5}, {"fill_boxes": True}])
def test_review_without_labels(tmp_path: Path, option: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="has no effect with --unlabeled"):
        review(ReviewConfig.make({"data": tmp_path, "unlabeled": True, **option}))


@pytest.mark.parametrize(
    ("hint", "command", "shown"),
    [
        ("start: --backbone-weights FILE", "export", "(--backbone-weights is an option of train"),
        ("use --upsample fixed, or --fuse feature", "export", "; --fuse is an option of train"),
        ("can start: --backbone-weights FILE", "train", ""),
        ("fcnseg train --fuse score makes one", "infer", ""),
        ("pip install --upgrade fcnseg", "infer", ""),
        ("omit --engine", "infer", ""),
    ],
)
def test_a_hint_says_whose_option_it_names(hint: str, command: str, shown: str) -> None:
    config = next(each for each in CONFIGS if each.command == command)
    said = with_owners(hint, config)
    assert said == hint if not shown else (said.startswith(hint) and shown in said)


def test_every_option_that_a_message_names_is_one() -> None:
    """Options that were renamed, or never were."""
    known = {"--debug", "--version", "--name", "--no-name", "--no"}  # of the program; placeholders
    foreign = {"--upgrade", "--force-reinstall", "--directory", "--no-deps", "--index-url"}  # pip's
    foreign |= {"--always", "--abbrev", "--dirty", "--data-binary"}  # of Git; of curl
    known |= foreign.union(*map(flags_of, CONFIGS))
    for path in Path(fcnseg.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", node.value))
                assert named <= known, f"{path}:{node.lineno}"
