from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from fcnseg.classes import ClassMap
from fcnseg.errors import CheckpointError, FcnsegError
from fcnseg.inference.loading import load
from fcnseg.models.checkpoint import FORMAT, KEY, Checkpoint, find_model
from fcnseg.models.networks import build
from fcnseg.models.spec import LITE, ModelSpec
from fcnseg.models.weights import read_state
from fcnseg.training.run_folder.state import load_state


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    spec = ModelSpec(backbone="tiny", num_classes=3, width=8, upsample="learned")
    network = build(spec).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.train()(torch.rand(2, 3, 64, 64))  # moves the norms' statistics
    classes = ClassMap.of(["Straße", "b", "c"])
    return Checkpoint(spec, LITE, classes, network.state_dict(), {"miou": 0.5}, {"epoch": 3})


@pytest.fixture
def path(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    return checkpoint.save(tmp_path / "deep" / "model.safetensors")


def test_round_trip(checkpoint: Checkpoint, path: Path) -> None:
    again = Checkpoint.load(path)
    assert (again.spec, again.preprocess, again.classes) == (
        checkpoint.spec, checkpoint.preprocess, checkpoint.classes,
    )  # fmt: skip
    assert (again.report, again.extra) == ({"miou": 0.5}, {"epoch": 3})
    assert again.weights.keys() == checkpoint.weights.keys()
    assert all(torch.equal(again.weights[k], checkpoint.weights[k]) for k in again.weights)


@torch.no_grad()
def test_build(checkpoint: Checkpoint, path: Path) -> None:
    network = Checkpoint.load(path).build()
    original = build(checkpoint.spec)
    original.load_state_dict(dict(checkpoint.weights))
    x = torch.rand(1, 3, 50, 70)
    assert not network.training
    torch.testing.assert_close(network(x), original.eval()(x))
    assert not any(tensor.is_meta for tensor in network.state_dict().values())
    assert all(parameter.requires_grad for parameter in network.parameters())


@torch.no_grad()
def test_half_precision_weights_compute_in_full(checkpoint: Checkpoint) -> None:
    small = checkpoint.half()
    assert {value.dtype for value in small.weights.values()} == {torch.float16, torch.int64}
    network = small.build()
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(network(x), checkpoint.build()(x), rtol=0, atol=1e-2)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_no_numbers_give_no_answer(
    checkpoint: Checkpoint, path: Path, value: float
) -> None:
    weights = {name: tensor.clone() for name, tensor in checkpoint.weights.items()}
    name = next(name for name in weights if name.endswith("weight"))
    weights[name][0] = value
    dataclasses.replace(checkpoint, weights=weights).save(path)
    with pytest.raises(CheckpointError, match=f"1 tensor .*{re.escape(name)}.* diverged") as caught:
        load([path])
    assert "--lr" in (caught.value.hint or "")


def test_building_twice_shares_nothing(checkpoint: Checkpoint) -> None:
    one, other = checkpoint.build(), checkpoint.build()
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.zero_()
    assert any(parameter.abs().max() > 0 for parameter in other.parameters())


def test_a_failed_save_leaves_the_old_file(
    checkpoint: Checkpoint, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"safetensors: No space left on device\.$"):
        checkpoint.save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_names_must_match_the_network(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match="3 classes with 2 names"):
        Checkpoint(checkpoint.spec, LITE, ClassMap.of(["a", "b"]), {})


def test_statistics_must_match_the_bands(checkpoint: Checkpoint) -> None:
    spec = dataclasses.replace(checkpoint.spec, in_channels=4)
    with pytest.raises(CheckpointError, match="4 bands with statistics of 3"):
        Checkpoint(spec, LITE, checkpoint.classes, {})


# --- files that are something else ---


def not_written_by_fcnseg(path: Path) -> None:
    safetensors.torch.save_file({"a": torch.ones(1)}, path)


FILES: dict[str, tuple[Any, str]] = {
    "empty": (lambda p: p.write_bytes(b""), "it is empty"),
    "text": (lambda p: p.write_text("hello, I am a text file"), "not a checkpoint"),
    "picture": (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99)), "an image"),
    "pickle": (lambda p: torch.save({"a": torch.ones(1)}, p), "PyTorch file"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-100]), "not a checkpoint"),
    "header cut": (lambda p: p.write_bytes(p.read_bytes()[:500]), "not a checkpoint"),
    "huge header": (lambda p: p.write_bytes((1 << 60).to_bytes(8, "little") + b"{}"), "not a chec"),
    "foreign": (not_written_by_fcnseg, "not written by fcnseg"),
}


@pytest.mark.parametrize("kind", FILES)
def test_what_is_no_checkpoint(kind: str, path: Path) -> None:
    change, says = FILES[kind]
    change(path)
    with pytest.raises(CheckpointError, match=says) as caught:
        Checkpoint.load(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".bin"])
def test_a_checkpoint_is_known_by_its_content(suffix: str, path: Path) -> None:
    assert len(Checkpoint.load(path.rename(path.with_suffix(suffix))).classes) == 3
    assert read_state(path.with_suffix(suffix))


def test_what_a_pt_file_is_instead(path: Path) -> None:
    path.with_suffix(".pt").write_text("<!DOCTYPE html>")
    with pytest.raises(CheckpointError, match="is a web page"):
        Checkpoint.load(path.with_suffix(".pt"))


def rewritten(path: Path, **changes: Any) -> Path:
    """The file with parts of its header replaced (None: left out)."""
    old = Checkpoint.load(path)
    header = {**json.loads(old.header_json()), **changes}
    header = {name: value for name, value in header.items() if value is not None}
    weights = {name: value.contiguous() for name, value in old.weights.items()}
    safetensors.torch.save_file(weights, path, {KEY: json.dumps(header)})
    return path


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": FORMAT + 1}, "newer fcnseg"),
        ({"format": "one"}, "broken header"),
        ({"format": None}, "KeyError"),
        ({"spec": None}, "KeyError: 'spec'"),
        ({"spec": {"backbone": "tiny"}}, "must name backbone and num_classes"),
        ({"spec": {"backbone": "tiny", "num_classes": 3, "flux": 1}}, "unknown 'flux'"),
        ({"spec": {"backbone": "tiny", "num_classes": 99}}, "99 classes with 3 names"),
        ({"spec": {"backbone": "tiny", "num_classes": 3, "fuse": "sum"}}, "No fuse 'sum'"),
        ({"spec": [1, 2]}, "Not a model description"),
        ({"preprocess": {"mean": [0, 0, 0], "std": [0, 0, 0]}}, "above zero"),
        ({"classes": {"names": ["a", "a", "b"], "colors": [[0, 0, 0]] * 3}}, "must differ"),
        ({"classes": 7}, "Not a class map"),
        ({"report": 5}, "broken header"),
    ],
    ids=str,
)
def test_broken_headers(path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        Checkpoint.load(rewritten(path, **changes))


def test_a_deeply_nested_header(path: Path) -> None:
    safetensors.torch.save_file({"a": torch.ones(1)}, path, {KEY: "[" * 100_000})
    with pytest.raises(CheckpointError, match="broken header"):
        Checkpoint.load(path)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"width": 9}, r"network: \S+ is \([^)]*\), not \([^)]*\)\.$"),
        ({"width": 10**6}, "is .* not"),  # and no memory is asked for
        ({"decoder": "fcn2s"}, r"missing \(decoder\.rungs\.2\.lateral\.0\.weight "),
        ({"decoder": "fcn32s"}, r"too many \(decoder\.rungs\.16\.lateral\.0\.weight "),
        ({"backbone": "resnet18"}, "missing"),
    ],
    ids=str,
)
def test_weights_of_another_network(path: Path, spec: dict[str, Any], says: str) -> None:
    old = Checkpoint.load(path).spec.as_dict()
    checkpoint = Checkpoint.load(rewritten(path, spec={**old, **spec}))
    with pytest.raises(CheckpointError, match=f"do not fit the .*{says}"):
        checkpoint.build()


def test_an_unknown_backbone(path: Path) -> None:
    spec = Checkpoint.load(path).spec.as_dict() | {"backbone": "resnet19"}
    with pytest.raises(CheckpointError, match="No backbone 'resnet19'"):
        Checkpoint.load(rewritten(path, spec=spec)).build()


@pytest.mark.parametrize("seed", range(20))
def test_damaged_bytes_raise_nothing_else(path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    data = bytearray(path.read_bytes())
    for place in random.integers(0, 3000, size=8):
        data[place] = random.integers(256)
    path.write_bytes(data)
    with contextlib.suppress(CheckpointError):
        Checkpoint.load(path).build()


def test_a_network_beyond_any_memory(path: Path) -> None:
    spec = Checkpoint.load(path).spec.as_dict() | {"width": 10**9}
    with pytest.raises(CheckpointError, match="can't be built"):
        Checkpoint.load(rewritten(path, spec=spec)).build()


# --- which file is meant ---


def test_find_model(checkpoint: Checkpoint, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    first, second = (checkpoint.save(runs / name / "best.safetensors") for name in ("b", "a"))
    os.utime(first, ns=(1, 1))
    assert find_model(None, runs) == second
    assert find_model(str(first), runs) == first
    assert find_model(str(runs / "b"), runs) == first


@pytest.mark.parametrize(
    ("model", "says"),
    [(None, "No model was given"), ("nowhere", "No model 'nowhere'"), (".", "No best")],
)
def test_find_nothing(
    model: str | None, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=says) as caught:
        find_model(model)
    assert "fcnseg train" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("m.safetensors", b"version https://git-lfs.github.com/spec/v1\noid 1\n", "git lfs pull"),
        ("m.bin", b"<!DOCTYPE html><html>404</html>", "a web page"),
        ("m.h5", b"\x89HDF\r\n\x1a\n" + bytes(90), "a model of TensorFlow"),
        ("m.tflite", b"\x1c\0\0\0TFL3" + bytes(90), "a model of TensorFlow"),
        ("m.safetensors", b"", "it is empty"),
        ("m.bin", b"\x08\x0a\x12\x07pytorch" + bytes(90), "an ONNX file"),
        ("m.bin", b"\x08\x0a\x00" + bytes(90), "it is damaged"),
        ("m.bin", b'<?xml version="1.0"?>\n<net name="m" version="11">', "a model for OpenVINO"),
    ],
)
def test_what_it_is_instead_is_told(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=says) as caught:
        Checkpoint.load(tmp_path / name)
    assert "deserializ" not in caught.value.message, "another program's words"


def test_a_damaged_files_name_is_said_and_the_models_of_a_folder(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    name = next(name for name, value in checkpoint.weights.items() if value.is_floating_point())
    weights = {**checkpoint.weights, name: torch.full_like(checkpoint.weights[name], torch.nan)}
    path = dataclasses.replace(checkpoint, weights=weights).save(tmp_path / "spoilt.safetensors")
    with pytest.raises(CheckpointError, match=r"spoilt.safetensors: NaN or infinite values in 1"):
        load([path])
    with pytest.raises(CheckpointError, match="in the folder") as caught:
        find_model(str(tmp_path))
    assert caught.value.hint == f"models there: {path}"


def test_a_file_that_is_not_there_or_not_to_be_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match=r"No checkpoint .*nowhere"):
        Checkpoint.load(path.parent / "nowhere.safetensors")
    (run := path.parent / "run").mkdir()
    (run / "last.safetensors").touch()
    for missing in (run, run / "best.safetensors"):
        with pytest.raises(CheckpointError) as caught:
            find_model(str(missing))
        assert f"other checkpoint is there: {run / 'last.safetensors'}" in caught.value.hint
    (run / "best.safetensors").touch()
    (run / "config.toml").touch()
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.load(run / "config.toml")
    assert f"best checkpoint is there: {run / 'best.safetensors'}" in caught.value.hint

    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(CheckpointError, match="Permission denied"):
        Checkpoint.load(path)


@pytest.mark.parametrize("suffix", [".ckpt", ".bin", ".pkl"])
def test_a_file_of_torch_is_known_by_its_content(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"epoch{suffix}"
    torch.save({"state_dict": {"model.a": torch.zeros(2)}, "callbacks": {}}, path)
    with pytest.raises(CheckpointError, match="holds weights of an unknown network"):
        Checkpoint.load(path)
    torch.save(torch.nn.Conv2d(1, 1, 1), path)
    with pytest.raises(CheckpointError, match="objects of another program") as caught:
        Checkpoint.load(path)
    assert "copy it again" not in caught.value.hint, "it is not damaged"


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["best.pt", "best.pth", "state.pt"])
def test_nothing_in_a_pickle_is_executed(name: str, tmp_path: Path) -> None:
    mark, path = tmp_path / "executed", tmp_path / name
    torch.save({"format": 1, "model": Hostile(mark)}, path)
    for read in (load, load_state):
        with pytest.raises(FcnsegError):
            read(path)
    assert not mark.exists()
    torch.load(io.BytesIO(path.read_bytes()), weights_only=False)
    assert mark.exists(), "the file is hostile"
