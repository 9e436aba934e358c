"""What a file is, by its content and not by its name."""

import json
import zipfile

import numpy as np
import pytest

from fcnseg.cli.app import app
from fcnseg.cli.console import run
from fcnseg.engines.model_files import check_data_files, header_in
from fcnseg.errors import CheckpointError
from fcnseg.exporting.mobile import attach
from fcnseg.io.images import write_image
from fcnseg.models.checkpoint import Checkpoint
from tests.engines.test_litert import litert_model

HEADER = json.dumps({"format": 1, "note": 'a "quoted" & <odd> one'})


def in_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/extra/fcnseg", HEADER)


def in_xml(path):
    escaped = HEADER.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    path.write_text(f'<?xml version="1.0"?>\n<net name="a">\n<fcnseg value="{escaped}"/></net>')


def in_litert(path):
    litert_model(path)
    attach(path, {"fcnseg.json": HEADER, "labels.txt": "background\n"})


@pytest.mark.parametrize("write", [in_zip, in_xml, in_litert])
def test_the_header_is_read_without_a_runtime(write, tmp_path):
    write(tmp_path / "a.file")
    assert header_in(tmp_path / "a.file") == HEADER


def test_of_an_onnx_file_too_whatever_its_name(exported_model, tmp_path):
    copy = tmp_path / "renamed.safetensors"
    copy.write_bytes(exported_model.read_bytes())
    assert Checkpoint.from_header(header_in(copy)).extra["export"]["layout"] == "NHWC"


OTHERS = {
    "empty": (b"", "it is empty"),
    "text": (b"hello fcnseg\n", "something else"),
    "page": (b"<!DOCTYPE html><p>fcnseg", "web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "image": (b"\x89PNG\r\n\x1a\n", "looks like an image"),
    "foreign": (b"\x08\x0a\x12\x07pytorch", "looks like an ONNX file"),
    "cut zip": (b"PK\x03\x04\x00\x00", ""),
}


@pytest.mark.parametrize("name", ["a.onnx", "a.xml", "a.pt2", "a.torchscript"])
@pytest.mark.parametrize("kind", OTHERS)
def test_export_says_what_a_file_is(kind, name, tmp_path, capsys):
    content, words = OTHERS[kind]
    path = tmp_path / name
    path.write_bytes(content)
    assert header_in(path) is None
    assert run(app, ["export", str(path)]) == 1
    said = capsys.readouterr().err
    assert words in said
    assert "exported file already" not in said
    assert "bug" not in said


@pytest.mark.parametrize(("name", "what"), [("a.onnx", "an ONNX"), ("a.xml", "an OpenVINO")])
def test_infer_says_what_an_exported_file_is_instead(name, what, tmp_path):
    for content, words in (OTHERS["page"], OTHERS["lfs"], (bytes(8) + b'{"a":', "safetensors")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=f"as {what} file: .*{words}"):
            check_data_files(tmp_path / name)


def test_an_exported_file_is_not_exported_again(exported_model, tmp_path, capsys):
    in_zip(tmp_path / "a.pt2")
    for path in (exported_model, tmp_path / "a.pt2"):
        assert run(app, ["export", str(path)]) == 1
        assert "is an exported file already" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["torchscript", "pt2"])
def test_infer_runs_no_program(suffix, tmp_path, capsys):
    path, image = tmp_path / f"a.{suffix}", tmp_path / "a.png"
    write_image(image, np.zeros((32, 32, 3), np.uint8))
    in_zip(path)
    assert run(app, ["infer", str(image), "-m", str(path)]) == 1
    assert "for other programs" in capsys.readouterr().err
    path.write_text("a text")
    assert run(app, ["infer", str(image), "-m", str(path)]) == 1
    assert "is not a checkpoint" in capsys.readouterr().err
