import json
import os
import sys
from pathlib import Path

import pytest

from fcnseg.engines import EngineOptions
from fcnseg.engines.onnx import OnnxEngine
from fcnseg.engines.pytorch import TorchEngine
from fcnseg.errors import CheckpointError, MediaError, OptionError
from fcnseg.inference import loading as opening
from fcnseg.inference.loading import WORTH_CONVERTING, open_engine
from fcnseg.inference.loading import fastest as fastest_engine
from fcnseg.progress import Message


@pytest.fixture
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("FCNSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "engines"


@pytest.fixture
def quick(exported_model: Path, monkeypatch) -> list[str]:
    """The conversion is replaced by one made before; what was asked for is listed."""
    asked = []

    def convert(checkpoint: object, path: Path, format: str, **_options: object) -> None:
        asked.append(format)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(exported_model.read_bytes())

    monkeypatch.setattr("fcnseg.exporting.convert", convert)
    monkeypatch.setattr(fastest_engine, "SECONDS", 0.0)
    return asked


def test_a_few_frames_are_not_worth_a_conversion(random_model, cache, quick):
    engine, _ = open_engine(random_model, EngineOptions(precision="f32", frames=10), [].append)
    assert isinstance(engine, TorchEngine)
    assert not quick


def test_the_conversion_is_made_once_and_kept(random_model, cache, quick):
    notes: list[Message] = []
    for _ in range(2):
        engine, header = open_engine(
            random_model, EngineOptions(engine="onnxruntime"), notes.append
        )
        assert isinstance(engine, OnnxEngine)
        assert len(header.classes) == 4
    assert quick == ["onnx"]
    assert len(list(cache.glob("*.onnx"))) == 1
    assert len(notes) == 1
    assert "Converting" in notes[0].text


def test_old_conversions_are_deleted(random_model, cache, quick, monkeypatch):
    monkeypatch.setattr(opening, "MAX_CACHED", 2)
    cache.mkdir(parents=True)
    for age, name in enumerate(["newer", "older", "oldest"]):
        for suffix in (".onnx", ".json"):
            (cache / f"{name}{suffix}").touch()
            os.utime(cache / f"{name}{suffix}", (1000 - age, 1000 - age))
    open_engine(random_model, EngineOptions(engine="onnxruntime"), [].append)
    left = {path.name for path in cache.iterdir()}
    assert {"newer.onnx", "newer.json"} < left
    assert len(left) == 3


@pytest.mark.parametrize(("speeds", "expected"), [([1, 2, 3], "not torch"), ([3, 2, 1], "torch")])
def test_the_fastest_wins_and_is_remembered(
    random_model, cache, quick, monkeypatch, speeds, expected
):
    left = iter(speeds)
    monkeypatch.setattr(fastest_engine, "_frames_per_second", lambda *_: next(left))
    notes: list[Message] = []
    first, _ = open_engine(
        random_model, EngineOptions(precision="f32", frames=WORTH_CONVERTING), notes.append
    )
    assert (first.name == "torch") == (expected == "torch")
    assert (
        f"fastest engine for random.safetensors on this machine is {first.name}" in notes[-1].text
    )
    again, _ = open_engine(
        random_model, EngineOptions(precision="f32"), notes.append
    )  # a few frames now: no new race
    assert again.name == first.name
    assert len(notes) == 2


@pytest.mark.parametrize("error", [CheckpointError("no layer"), MediaError("no space")])
def test_torch_runs_what_can_not_be_converted(random_model, cache, monkeypatch, error):
    def convert(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("fcnseg.exporting.convert", convert)
    monkeypatch.setattr(fastest_engine, "can_compare_engines", lambda: True)
    notes: list[Message] = []
    options = EngineOptions(precision="f32", frames=WORTH_CONVERTING)
    engine, _ = open_engine(random_model, options, notes.append)
    assert engine.name == "torch"
    assert notes[-1].text == (
        f"random.safetensors runs in torch, not in a faster engine. {error.message}"
    )


def test_the_engine_for_an_int8_file_is_measured_for_many_frames(tmp_path, monkeypatch):
    speeds, record = {"onnxruntime": 1.0, "openvino": 2.0}, tmp_path / "engines/record.json"
    opened = lambda _file, name, device: (name, None)  # noqa: E731
    monkeypatch.setattr(fastest_engine, "_installed", lambda: dict.fromkeys(speeds, "1"))
    monkeypatch.setattr(fastest_engine, "open_exported", opened)
    monkeypatch.setattr(fastest_engine, "_frames_per_second", lambda engine, _bands: speeds[engine])
    choose = fastest_engine.fastest_for_file
    assert choose(tmp_path / "a.onnx", record, 1) == "onnxruntime"
    assert choose(tmp_path / "a.onnx", record, 1000) == "openvino"
    assert choose(tmp_path / "a.onnx", record, 1) == "openvino"
    speeds["onnxruntime"] = 3.0
    assert choose(tmp_path / "b.onnx", record.with_name("b.json"), 1000) == "onnxruntime"
    assert choose(tmp_path / "b.onnx", record / "can not be written", 1000) == "onnxruntime"


def test_an_engine_with_other_outputs_can_not_win(random_model, cache, quick, monkeypatch):
    class Wrong(OnnxEngine):
        def forward(self, images):
            return -super().forward(images)

    monkeypatch.setitem(opening.ENGINES, "onnxruntime", Wrong)
    monkeypatch.setattr(fastest_engine, "OTHERS", ("onnxruntime",))
    engine, _ = open_engine(
        random_model, EngineOptions(precision="f32", frames=WORTH_CONVERTING), [].append
    )
    assert engine.name == "torch"


@pytest.mark.parametrize("record", ["", "{}", '{"fastest": "hare", "installed": {}}', "[1]"])
def test_a_broken_record_is_no_record(tmp_path, record, monkeypatch):
    monkeypatch.setattr(fastest_engine, "OTHERS", ())
    path = tmp_path / "record.json"
    path.write_text(record, encoding="utf-8")
    assert fastest_engine.recorded_fastest(path) is None
    path.write_text(json.dumps({"fastest": "torch", "installed": {}}), encoding="utf-8")
    assert fastest_engine.recorded_fastest(path) == "torch"
    path.write_text(json.dumps({"fastest": "torch", "installed": {"openvino": "1"}}))
    assert fastest_engine.recorded_fastest(path) is None


def test_without_other_engines_there_is_no_race(random_model, cache, monkeypatch):
    for module in ("onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, module, None)
    engine, _ = open_engine(random_model, EngineOptions(precision="f32", frames=10**6), [].append)
    assert engine.name == "torch"


@pytest.mark.parametrize(
    "requested",
    [
        EngineOptions(engine="torch"),
        EngineOptions(precision="bf16"),
        EngineOptions(engine="onnxruntime", precision="f16"),
    ],
)
def test_an_exported_file_says_what_it_can_not_do(exported_model, requested):
    with pytest.raises(OptionError):
        open_engine(exported_model, requested, [].append)


def test_onnx_runtime_does_not_take_openvinos_files(tmp_path):
    with pytest.raises(OptionError, match="onnxruntime does not run"):
        open_engine(tmp_path / "any.xml", EngineOptions(engine="onnxruntime"), [].append)


@pytest.mark.parametrize("suffix", [".pt2", ".torchscript", ".PT2"])
def test_files_that_can_hold_code_are_not_run(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError, match="code"):
        open_engine(path, EngineOptions(), [].append)


def test_an_unknown_engine_lists_the_known(random_model):
    with pytest.raises(OptionError, match="No engine 'tensorrt'; known: auto, torch, onnxruntime"):
        open_engine(random_model, EngineOptions(engine="tensorrt"), [].append)
