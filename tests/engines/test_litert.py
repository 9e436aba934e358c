import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fcnseg.commands.export import export
from fcnseg.config import ExportConfig
from fcnseg.engines import open_exported
from fcnseg.engines.model_files import header_in
from fcnseg.engines.pytorch import TorchEngine
from fcnseg.errors import CheckpointError, MissingExtra, OptionError
from fcnseg.exporting.mobile import attach
from fcnseg.exporting.parity import sample_images
from fcnseg.inference.loading import load
from fcnseg.models.checkpoint import Checkpoint

SIZE = (40, 56)


def litert_model(path: Path, *, fields: int = 8, external: int = 0) -> None:
    """A FlatBuffer with a Model of so many fields and nothing in it; `external`: of the ninth."""
    ends = [0] * min(fields, 8) + [external] * (fields > 8)
    table = struct.pack(f"<HH{len(ends)}H", 4 + 2 * len(ends), 4, *ends)
    path.write_bytes(
        struct.pack("<I4s", 8 + len(table), b"TFL3") + table + struct.pack("<i", len(table))
    )


@pytest.fixture(scope="module")
def header(random_model: Path) -> str:
    return Checkpoint.load(random_model).header_json()


def test_weights_elsewhere_are_not_read(header: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tflite"
    litert_model(path, fields=9, external=4)
    attach(path, {"fcnseg.json": header})
    with pytest.raises(CheckpointError, match="names other files for its weights"):
        open_exported(path, "litert")


@pytest.mark.parametrize("fields", [3, 8, 9])
def test_the_extra_is_named(fields: int, header: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    path = tmp_path / "a.tflite"
    litert_model(path, fields=fields)
    with pytest.raises(CheckpointError, match="not one written by fcnseg"):
        open_exported(path, "litert")
    attach(path, {"fcnseg.json": header})
    with pytest.raises(MissingExtra, match="'litert'"):
        load(path)
    path.write_bytes(path.read_bytes()[:7])
    with pytest.raises(CheckpointError, match="truncated or not one"):
        load(path)


def test_the_extra_of_executorch_is_named(header: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "executorch", None)
    path = tmp_path / "a.pte"
    path.write_bytes(b"\0\0\0\0ET12")
    with pytest.raises(CheckpointError, match="not one written by fcnseg"):
        load(path)
    attach(path, {"fcnseg.json": header})
    assert header_in(path) == header
    with pytest.raises(MissingExtra, match="'executorch'"):
        load(path)
    path.write_bytes(b"\0\0\0\0ET")
    with pytest.raises(CheckpointError, match="truncated or not one"):
        load(path)


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({}, OptionError, "LiteRT files take images of one size"),
        ({"size": SIZE, "precision": "f16"}, OptionError, "written in f32; f16"),
        ({"size": SIZE, "include": ("argmax-only",)}, OptionError, "saves nothing here"),
        ({"size": SIZE}, MissingExtra, "'litert'"),
        ({"size": SIZE, "format": "executorch"}, MissingExtra, "'executorch'"),
    ],
)
def test_what_an_export_needs(options, kind, said, random_model, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    monkeypatch.setitem(sys.modules, "executorch", None)
    options = {"model": str(random_model), "format": "litert", "out": tmp_path, **options}
    told: list[object] = []
    with pytest.raises(kind, match=said):
        export(ExportConfig.make(options), told.append)
    assert told == [], "not that it is being written"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("format", "module", "suffix"),
    [("litert", "litert_torch", "tflite"), ("executorch", "executorch", "pte")],
)
def test_it_gives_the_same(format, module, suffix, random_model, tmp_path, capfd) -> None:
    pytest.importorskip(module)
    options = {"format": format, "size": SIZE, "include": ("argmax",), "out": tmp_path}
    result = export(ExportConfig.make({"model": str(random_model), **options}))
    assert {path.name for path in tmp_path.iterdir()} == {f"random.{suffix}", "random.parity.json"}
    assert result.parity.batches == (1, 3)
    checkpoint = Checkpoint.load(random_model)
    with zipfile.ZipFile(result.path) as archive:
        names = archive.read("labels.txt").decode().splitlines()
    assert tuple(names) == tuple(checkpoint.classes.names)
    segmenter = load(result.path)
    assert segmenter.engine.name == format
    assert segmenter.classes == checkpoint.classes
    images = sample_images((2, *SIZE), seed=1)
    expected = TorchEngine(checkpoint.build(), checkpoint.preprocess).logits(images)
    np.testing.assert_allclose(segmenter.engine.logits(images), expected, atol=1e-3)
    assert (segmenter.engine.just_labels(images) == expected.argmax(axis=1)).mean() > 0.999
    with pytest.raises(OptionError, match="takes images of 56 x 40 pixels only"):
        segmenter.engine.logits(images[:, :32])
    assert capfd.readouterr().out == ""
