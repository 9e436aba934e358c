"""Messages name the way out, in our own words; what a hint says can be done."""

from __future__ import annotations

import argparse
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fcnseg.cli.tables import show_export
from fcnseg.commands.export import export
from fcnseg.commands.train import train
from fcnseg.config import ExportConfig, TrainConfig
from fcnseg.datasets.dataset import SegmentationDataset
from fcnseg.datasets.describe import describe
from fcnseg.errors import (
    CheckpointError,
    DatasetError,
    FcnsegError,
    MediaError,
    OptionError,
    quoted,
)
from fcnseg.inference.parts import choose_target
from fcnseg.io.sources import open_source
from fcnseg.io.sources.base import Kind
from fcnseg.models.weights import read_state
from fcnseg.training.run_folder.state import load_state


class Stranger:
    """Something of another program."""


WEIGHTS = {"a.weight": torch.zeros(2)}


def packed(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.onnx", b"")


def script(path: Path) -> None:
    torch.jit.script(torch.nn.ReLU()).save(str(path))


def cut(path: Path) -> None:
    torch.save(WEIGHTS, path)
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.filterwarnings("ignore")  # torch's own, about what it is given
@pytest.mark.parametrize(
    ("write", "why"),
    [
        (lambda p: torch.save({"model": Stranger()}, p), "objects of another program (tests.test_"),
        (
            lambda p: torch.save({"meta": Stranger(), "state_dict": WEIGHTS}, p),
            "objects of another program (tests.test_ways_out.Stranger)",
        ),
        (lambda p: p.write_bytes(b""), "the file is empty"),
        (cut, "cut off or damaged"),
        (lambda p: p.write_text("hello world"), "not written by torch.save, or is damaged"),
        (script, "TorchScript program"),
        (packed, "an archive of other files (model.onnx ...)"),
        (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n"), "it looks like an image"),
    ],
)
@pytest.mark.parametrize("read", [read_state, load_state])
def test_a_file_of_another_program_is_told_in_a_sentence(
    tmp_path: Path, write: Callable[[Path], object], why: str, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "state.pt"
    write(path)
    with pytest.raises(CheckpointError) as caught:
        read(path)
    said = f"{caught.value.message} {caught.value.hint}"
    assert why in said
    assert len(said) < 400
    assert not any(word in said for word in ("\x1b", "weights_only", "PyTorch 2.6", ": ."))


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_what_lies_beside_weights_is_no_hindrance_where_it_is_plain(
    tmp_path: Path, key: str
) -> None:
    """As torchvision's reference scripts and mmsegmentation write them."""
    content = {key: WEIGHTS, "args": argparse.Namespace(lr=1), "meta": {"epoch": 3}}
    torch.save(content, tmp_path / "theirs.pth")
    assert set(read_state(tmp_path / "theirs.pth")) == {"a.weight"}


@pytest.mark.parametrize("pattern", ["*.png", "**/*.png"])
def test_nobody_is_told_to_quote_a_quoted_pattern(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(MediaError, match="No image matches") as caught:
        open_source(str(tmp_path / pattern))
    assert "quote" not in caught.value.hint


@pytest.mark.parametrize("named", [False, True])
def test_a_run_whose_data_was_moved_resumes_by_the_command_that_is_named(
    tmp_path: Path, tiny_run: Path, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = TrainConfig.load(tiny_run / "config.toml")
    assert stored.data is not None
    here = Path(shutil.copytree(stored.data, tmp_path / "here"))
    run = Path(shutil.copytree(tiny_run, tmp_path / "runs" / "train1"))
    toml = (run / "config.toml").read_text().replace(str(stored.data), str(tmp_path / "gone"))
    (run / "config.toml").write_text(toml)
    monkeypatch.chdir(tmp_path)
    given: dict[str, object] = {"data": here if named else run, "resume": True, "device": "cpu"}
    with pytest.raises(FcnsegError) as caught:
        train(TrainConfig.make(given))
    assert isinstance(caught.value, OptionError if named else DatasetError)
    assert "--out" in caught.value.hint
    assert "--resume" in caught.value.hint
    done = train(TrainConfig.make({**given, "data": here, "out": run}))
    assert done.epochs == stored.epochs


@pytest.mark.parametrize(
    ("kind", "given", "save", "there", "instead"),
    [
        ("image", "a b.mp4", (), "a b.png", "a b_out.png"),
        ("image", "a.jpg", ("labels",), "a.png", "a_out.png"),
        ("video", "c.png", (), "c.mp4", "c_out.mp4"),
        ("folder", "in.png", (), "in", "in_out"),
        ("folder", "out.png", (), "in", "out"),
    ],
)
def test_an_output_that_a_hint_names_can_be_typed_and_is_not_the_source(
    tmp_path: Path, kind: Kind, given: str, save: tuple[str, ...], there: str, instead: str
) -> None:
    (tmp_path / there).touch()
    with pytest.raises(OptionError) as caught:
        choose_target(kind, tmp_path / given, save)
    assert f"-o {quoted(tmp_path / instead)}" in caught.value.hint
    assert quoted("a b") in ("'a b'", '"a b"')


@pytest.mark.parametrize(
    ("form", "use"),
    [
        ("torchscript", "torch.jit.load("),
        ("torch-export", "torch.export.load("),
        ("onnx", "infer"),
        ("bundle", "unpack"),
    ],
)
def test_an_exported_file_is_used_as_the_hint_says(
    tmp_path: Path, random_model: Path, form: str, use: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if form in ("onnx", "bundle"):
        pytest.importorskip("onnxscript")
    what = {"bundle": True} if form == "bundle" else {"format": form, "out": tmp_path}
    options = {"model": str(shutil.copy(random_model, tmp_path)), "size": (48, 64), **what}
    result = export(ExportConfig.make(options))
    show_export(result)
    said = capsys.readouterr().out
    assert use in said
    assert ("fcnseg infer" in said) == (form == "onnx")


def test_a_part_that_is_not_there_is_no_matter_of_split_alone(drawn_folder: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        SegmentationDataset(describe(drawn_folder), "test")
    assert caught.value.hint.startswith("--split names another one; or")
