"""Model files of other programs, or changed ones: what was found and what is needed is said."""

import warnings
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

from fcnseg.cli.app import app
from fcnseg.cli.console import run

onnx = pytest.importorskip("onnx")

FLOAT, INT64, UINT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.UINT8
FREE = ["n", 3, "h", "w"]


def network(path, nodes, inputs, outputs, *, channels=3, opset=17, header=None):
    """An ONNX file whose "w" are the weights of a convolution to four channels."""
    helper = onnx.helper
    weights = onnx.numpy_helper.from_array(np.ones((4, channels, 3, 3), np.float32), "w")
    values = ([helper.make_tensor_value_info(*one) for one in some] for some in (inputs, outputs))
    graph = helper.make_graph(nodes, "g", *values, [weights])
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    if header is not None:
        helper.set_model_props(model, {"fcnseg": header})
    onnx.save(model, path)
    return path


def needs(engine):
    """Skip where it is missing; it is imported by fcnseg alone, which keeps its telemetry off."""
    if find_spec(engine) is None:
        pytest.skip(f"{engine} is not installed")


def node(kind, inputs, outputs, **attributes):
    return onnx.helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


CONV = node("Conv", "x w", "y", pads=[1, 1, 1, 1])
POOL = [CONV, node("GlobalAveragePool", "y", "z"), node("Flatten", "z", "o")]
TURNED = [node("Transpose", "i", "x", perm=[0, 3, 1, 2]), CONV]
SEEN = [CONV, node("ArgMax", "y", "o", axis=1, keepdims=0)]
MAPS = [("y", FLOAT, ["n", 4, "h", "w"])]

OTHERS = {
    "batch of four": ([CONV], [("x", FLOAT, [4, 3, 64, 64])], [("y", FLOAT, [4, 4, 64, 64])], {}),
    "classifier": (POOL, [("x", FLOAT, FREE)], [("o", FLOAT, ["n", 4])], {}),
    "detector": (POOL, [("x", FLOAT, FREE)], [("o", FLOAT, ["n", 4]), *MAPS], {}),
    "NHWC": (TURNED, [("i", FLOAT, ["n", "h", "w", 3])], MAPS, {}),
    "int64 labels": (SEEN, [("x", FLOAT, FREE)], [("o", INT64, ["n", "h", "w"])], {}),
    "six channels": ([CONV], [("x", FLOAT, ["n", 6, "h", "w"])], MAPS, {"channels": 6}),
    "old opset": ([CONV], [("x", FLOAT, FREE)], MAPS, {"opset": 7}),
}


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "a.png"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(path)
    return path


def complaint(model, image, capsys, *more):
    """What infer says on standard error."""
    needs("onnxruntime")
    out = str(image.with_name("out.png"))
    assert run(app, ["infer", str(image), "-m", str(model), "-o", out, *more]) == 1
    said = capsys.readouterr().err
    assert said.count("error: ") == 1
    assert "hint: " in said
    assert "bug" not in said
    return said


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_network_of_another_program(kind, engine, tmp_path, image, capsys):
    needs(engine)
    nodes, inputs, outputs, options = OTHERS[kind]
    model = network(tmp_path / "a.onnx", nodes, inputs, outputs, **options)
    said = complaint(model, image, capsys, "--engine", engine)
    assert "not one written by fcnseg" in said
    takes, gives = said.split("It takes ")[1].split(" and gives ")
    assert takes.startswith(f"{inputs[0][0]} (")
    assert all(f"{name} (" in gives for name, _, _ in outputs)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_own_header_on_a_network_without_logits(engine, tmp_path, image, capsys):
    needs(engine)
    nodes = [node("Cast", "images", "i", to=FLOAT), *TURNED, *SEEN[1:]]
    ports = [("images", UINT8, ["n", "h", "w", 3])], [("o", INT64, ["n", "h", "w"])]
    model = network(tmp_path / "a.onnx", nodes, *ports, header="{}")
    said = complaint(model, image, capsys, "--engine", engine)
    assert "gives o (" in said
    assert "expected logits" in said


def test_weights_in_a_file_that_is_gone(tmp_path, image, capsys):
    model = network(tmp_path / "a.onnx", [CONV], [("x", FLOAT, FREE)], MAPS)
    loaded = onnx.load(model)
    onnx.save(loaded, model, save_as_external_data=True, location="a.data", size_threshold=0)
    (tmp_path / "a.data").unlink()
    assert "has to be in the same folder" in complaint(model, image, capsys)


@pytest.mark.parametrize("content", [b"", b"hello\n", None])
def test_what_is_no_onnx_file(content, tmp_path, image, capsys):
    model = network(tmp_path / "a.onnx", [CONV], [("x", FLOAT, FREE)], MAPS)
    data = model.read_bytes()
    model.write_bytes(data[: len(data) // 2] if content is None else content)
    assert "can't be loaded as an ONNX file" in complaint(model, image, capsys)


def test_torchscript_named_pt_gives_one_error_and_no_warning(tmp_path, image, capsys):
    path = tmp_path / "a.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls the tracer deprecated
        traced = torch.jit.trace(torch.nn.Conv2d(3, 4, 1), torch.zeros(1, 3, 8, 8))
        torch.jit.save(traced, path)
    said = complaint(path, image, capsys)
    assert "TorchScript program" in said
    assert "Warning" not in said
