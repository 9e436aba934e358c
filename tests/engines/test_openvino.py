import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fcnseg import exporting as formats
from fcnseg.commands.export import export
from fcnseg.config import ExportConfig
from fcnseg.engines import openvino as openvino_engine
from fcnseg.engines.openvino import OpenVinoEngine, import_openvino
from fcnseg.engines.pytorch import TorchEngine
from fcnseg.errors import CheckpointError, MissingExtra, OptionError
from fcnseg.exporting.parity import sample_images
from fcnseg.inference.loading import load
from fcnseg.models.checkpoint import Checkpoint


@pytest.fixture
def installed() -> None:
    try:
        import_openvino()
    except MissingExtra:
        pytest.skip("the extra openvino is not installed")


@pytest.mark.parametrize("size", [(33, 47), (64, 96)])
def test_it_gives_the_same(installed, random_model, exported_model, size):
    checkpoint = Checkpoint.load(random_model)
    reference = TorchEngine(checkpoint.build(), checkpoint.preprocess)
    engine = OpenVinoEngine(exported_model)
    images = sample_images((2, *size), seed=1)
    np.testing.assert_allclose(engine.logits(images), reference.logits(images), atol=1e-4)
    assert engine.precision == "f32"
    assert sys.modules["openvino_telemetry"] is None


def test_its_own_format_is_written_and_read(
    installed, random_model, exported_model, tmp_path, monkeypatch
):
    # The way there is over ONNX, which takes its time and was gone before.
    ready = exported_model.read_bytes()
    monkeypatch.setattr(
        formats, "write_onnx", lambda checkpoint, path, _options: path.write_bytes(ready)
    )
    result = export(ExportConfig(model=str(random_model), format="openvino", out=tmp_path))
    assert result.path == tmp_path / "random.xml"
    assert result.path.with_suffix(".bin").is_file()
    parts = [result.path.with_suffix(".bin"), result.path]
    assert sorted(tmp_path.iterdir()) == sorted([*parts, result.report])
    assert result.size_bytes == sum(path.stat().st_size for path in parts)
    segmenter = load(result.path)
    assert segmenter.engine.name == "openvino"
    assert segmenter.classes == Checkpoint.load(random_model).classes


LAYER = b'<layer id="0" name="x" type="Result" version="opset%s"/>'


@pytest.mark.parametrize("layer", [b"", LAYER % b"\xff"])
def test_what_it_cannot_read_is_refused(layer, installed, tmp_path):
    path = tmp_path / "broken.xml"
    path.write_bytes(b'<net name="a" version="11"><layers>%s</layers></net>' % layer)
    with pytest.raises(CheckpointError, match=r"broken\.xml"):
        OpenVinoEngine(path)


@pytest.mark.parametrize("wrong", [{"device": "cuda"}, {"precision": "int8"}])
def test_it_says_what_it_cannot_do(wrong, exported_model):
    with pytest.raises(OptionError, match="OpenVINO"):
        OpenVinoEngine(exported_model, **wrong)


def test_without_it_the_extra_is_named(monkeypatch, exported_model: Path):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match="'openvino'"):
        OpenVinoEngine(exported_model)


def test_a_signal_is_survived_when_the_engine_is_gone(installed, exported_model):
    # In a process of its own: what OpenVINO leaves behind is for the life of the process.
    program = f"""
import gc, signal, threading
from pathlib import Path
from types import SimpleNamespace
from fcnseg.engines.openvino import OpenVinoEngine
held = [OpenVinoEngine(Path({str(exported_model)!r}))]
thread = threading.Thread(target=held.clear)
thread.start()
thread.join()
gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("heard"))
signal.raise_signal(signal.SIGUSR1)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr


def test_arrays_are_known_before_threads_compute(monkeypatch) -> None:
    looked_at = []

    class Tensor:
        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        @property
        def data(self) -> np.ndarray:
            looked_at.append(self.array)
            return self.array

    runtime = SimpleNamespace(Tensor=Tensor, Core=object)
    monkeypatch.setattr(openvino_engine, "import_openvino", lambda: runtime)
    openvino_engine._core.__wrapped__()
    assert looked_at
