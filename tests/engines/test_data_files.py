"""Weights in files of their own (ONNX's external data): read inside the model's folder only."""

import os
import struct
import sys

import numpy as np
import pytest

import fcnseg
from fcnseg.cli.app import app
from fcnseg.cli.console import run
from fcnseg.engines import ENGINES
from fcnseg.engines.model_files import check_data_files, data_files
from fcnseg.errors import CheckpointError, FcnsegError, MissingExtra
from fcnseg.io.images import write_image


def field(number, content):
    """A field of a protobuf message, of bytes or of the fields inside it."""
    content = b"".join(content) if isinstance(content, list) else content
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value):
    groups = [value & 127]
    while value := value >> 7:
        groups.append(value & 127)
    return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])


def tensor(location):
    entry = [field(1, b"location"), field(2, os.fsencode(location))]
    return [field(8, b"w"), field(13, entry), b"\x70\x01"]  # data_location = EXTERNAL


def attribute(number, content):
    return field(1, [field(5, field(number, content))])


PLACES = {
    "an initializer": lambda t: field(7, field(5, t)),
    "a sparse one": lambda t: field(7, field(15, field(1, t))),
    "its indices": lambda t: field(7, field(15, field(2, t))),
    "a constant": lambda t: field(7, attribute(5, t)),
    "constants": lambda t: field(7, attribute(10, t)),
    "a sparse constant": lambda t: field(7, attribute(22, field(1, t))),
    "a branch": lambda t: field(7, attribute(6, field(5, t))),
    "branches": lambda t: field(7, attribute(11, attribute(5, t))),
    "a function": lambda t: field(25, field(7, field(5, field(5, t)))),
    "a default": lambda t: field(25, field(11, field(5, t))),
    "training": lambda t: field(20, field(1, field(5, t))),
    "the second graph": lambda t: field(7, field(2, b"g")) + field(7, field(5, t)),
}


@pytest.mark.parametrize("place", PLACES)
def test_wherever_a_tensor_is(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)  # the default installation has none
    model = b"\x08\x0a" + PLACES[place](b"".join(tensor("../w")))
    assert data_files(model) == {"../w"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "secret").write_bytes(b"s")
    (inside := tmp_path / "model" / "weights").mkdir(parents=True)
    (inside / "w").write_bytes(b"w")
    (tmp_path / "model" / "out").symlink_to("../secret")
    (tmp_path / "model" / "up").symlink_to("..")
    (tmp_path / "model" / "round").symlink_to("round")
    (tmp_path / "model" / "here").symlink_to("weights/w")
    os.mkfifo(tmp_path / "model" / "pipe")
    return tmp_path / "model"


def model_at(path, location):
    path.write_bytes(PLACES["an initializer"](b"".join(tensor(location))))
    return path


LEAVING = ["../secret", "weights/../../secret", "{}/../secret", "/etc/hostname", "out", "up/secret",
           "*/w", "w\0", "..", "/"]  # fmt: skip


@pytest.mark.parametrize("location", LEAVING)
def test_files_outside_the_folder_are_not_opened(location, folder):
    model = model_at(folder / "a.onnx", location.format(folder))
    with pytest.raises(CheckpointError, match="outside its folder"):
        check_data_files(model)


@pytest.mark.parametrize("location", ["pipe", "round", "weights", "gone", ""])
def test_nor_is_what_is_no_file(location, folder):
    with pytest.raises(CheckpointError):
        check_data_files(model_at(folder / "a.onnx", location))


@pytest.mark.parametrize("location", ["weights/w", "./weights/w", "here", "up/model/weights/w"])
def test_files_inside_are(location, folder):
    check_data_files(model_at(folder / "a.onnx", location))


def test_so_are_those_of_a_download_cache(folder):
    """Links to blobs that lie side by side elsewhere."""
    blob = model_at(folder / "weights" / "8f00", "w.data")
    (cached := folder.parent / "snapshot").mkdir()
    (cached / "model.onnx").symlink_to(blob)
    (cached / "w.data").symlink_to(folder / "weights" / "w")
    check_data_files(cached / "model.onnx")


def test_what_a_runtime_might_read_otherwise_is_no_onnx_file(folder):
    """Groups, numbers of more than 32 bits, and a text before XML that is protobuf."""
    outside = PLACES["an initializer"](b"".join(tensor("../secret")))
    wide = varint((1 << 32) | (7 << 3) | 2)
    for content in (
        b"\x0b\x0c" + outside,
        wide + outside[1:],
        b"\n<" + bytes(59) + outside,
        outside + b"\x08",
        struct.pack("<I", 0xFFFFFFFF) + outside,
    ):
        (folder / "a.xml").write_bytes(content)
        with pytest.raises(CheckpointError):
            check_data_files(folder / "a.xml")


def test_the_weights_of_an_openvino_model(folder):
    model = folder / "a.xml"
    model.write_bytes(b"\xef\xbb\xbf<?xml version='1.0'?><net/>")
    check_data_files(model)
    model.with_suffix(".bin").symlink_to("weights/w")
    check_data_files(model)
    model.with_suffix(".bin").unlink()
    model.with_suffix(".bin").symlink_to("../secret")
    with pytest.raises(CheckpointError, match="outside its folder"):
        check_data_files(model)


@pytest.fixture(scope="module")
def split_model(exported_model, tmp_path_factory):
    """Writes an exported file whose weights are in a file at `place`, called `location` in it."""
    onnx = pytest.importorskip("onnx")

    def write(location, place):
        folder = tmp_path_factory.mktemp("split") / "model"
        folder.mkdir()
        model, content = onnx.load(exported_model), b""
        for weights in model.graph.initializer:
            if len(raw := weights.raw_data) < 64:
                continue
            weights.ClearField("raw_data")
            weights.data_location = onnx.TensorProto.EXTERNAL
            where = {"location": location, "offset": len(content), "length": len(raw)}
            for key, value in where.items():
                weights.external_data.add(key=key, value=str(value).format(folder))
            content += raw
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).write_bytes(content)
        (folder / "a.onnx").write_bytes(model.SerializeToString())
        return folder / "a.onnx"

    return write


OF_ONNX = [name for name, kind in ENGINES.items() if ".onnx" in kind.suffixes]


def opened(model, engine):
    try:
        return fcnseg.load(model, engine=engine)
    except MissingExtra as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("engine", OF_ONNX)
def test_engines_read_weights_inside_the_folder(engine, split_model, exported_model):
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    expected = opened(exported_model, engine).predict([image])[0].labels
    found = opened(split_model("weights/w.bin", "weights/w.bin"), engine).predict([image])[0]
    assert np.array_equal(found.labels, expected)


@pytest.mark.parametrize("engine", OF_ONNX)
@pytest.mark.parametrize("location", ["../w.bin", "{}/../w.bin"])
def test_engines_read_none_outside_it(engine, location, split_model, monkeypatch):
    model = split_model(location, "../w.bin")
    with pytest.raises(CheckpointError, match="outside its folder"):
        opened(model, engine)
    monkeypatch.chdir(model.parent / "..")
    with pytest.raises(FcnsegError):  # nor in the folder that the command runs in
        opened(split_model("w.bin", "../w.bin"), engine)


COMMANDS = {
    "infer": ["infer", "a.png", "-m", "a.onnx", "-o", "o.png"],
    "viz": ["viz", "a.png", "-m", "a.onnx"],
    "bench": ["bench", "a.onnx"],
    "compare": ["compare", "a.png", "-m", "a.onnx", "-m", "a.onnx"],
    "serve": ["serve", "a.onnx", "--port", "0"],
    "export": ["export", "a.onnx"],
    "eval": ["eval", "DATA", "-m", "a.onnx"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_so_once(command, folder, drawn_folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    write_image(folder / "a.png", np.zeros((32, 32, 3), np.uint8))
    model_at(folder / "a.onnx", "../secret")
    before = set(folder.rglob("*"))
    words = [str(drawn_folder) if one == "DATA" else one for one in COMMANDS[command]]
    assert run(app, words) == 1
    said = capsys.readouterr().err
    assert said.count("error: ") == 1
    if command != "export":  # which opens checkpoints only
        assert "outside its folder" in " ".join(said.split())
    assert set(folder.rglob("*")) == before
