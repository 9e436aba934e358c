from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from fcnseg.engines import onnx as onnx_engine
from fcnseg.engines.base import Parallelism
from fcnseg.engines.onnx import OnnxEngine, _part_computing
from fcnseg.errors import CheckpointError
from fcnseg.exporting.parity import sample_images


def test_what_an_output_does_not_need_is_left_out(exported_model: Path) -> None:
    whole = onnx.load(exported_model)
    part = onnx.load_from_string(_part_computing("scores", exported_model))
    onnx.checker.check_model(part)
    assert [output.name for output in part.graph.output] == ["scores"]
    left = {node.name for node in whole.graph.node} - {node.name for node in part.graph.node}
    kinds = {node.op_type for node in whole.graph.node if node.name in left}
    assert "Resize" in kinds
    assert "Conv" not in kinds


@pytest.mark.parametrize("packages", [True, False])
def test_scores_come_with_and_without_the_package_onnx(
    exported_model: Path, monkeypatch, packages: bool
) -> None:
    if not packages:
        monkeypatch.setattr(onnx_engine, "find_spec", lambda name: None)
    engine = OnnxEngine(exported_model)
    images = sample_images((1, 70, 90), seed=0)
    labels, _ = engine.labels(images)
    assert (labels != engine.logits(images).argmax(axis=1)).mean() <= 1e-3


def test_a_graph_with_branches_stays_whole(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1])
    other = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1])
    condition = helper.make_tensor_value_info("images", TensorProto.BOOL, [1])
    one = helper.make_node("Identity", ["outside"], ["inside"])
    body = helper.make_graph([one], "body", [], [helper.make_tensor_value_info("inside", 1, [1])])
    nodes = [
        helper.make_node("Constant", [], ["outside"], value_floats=[1.0]),
        helper.make_node("If", ["images"], ["scores"], then_branch=body, else_branch=body),
        helper.make_node("Identity", ["scores"], ["logits"]),
    ]
    path = tmp_path / "branches.onnx"
    graph = helper.make_graph(nodes, "graph", [condition], [value, other])
    onnx.save(helper.make_model(graph), path)
    assert _part_computing("scores", path) == str(path)


def test_parallel_calls_share_a_session_where_each_has_one_thread(
    exported_model: Path, monkeypatch
) -> None:
    monkeypatch.setattr(onnx_engine, "parallelism_on", lambda _: Parallelism(3, 1))
    engine = OnnxEngine(exported_model, parallel=True)
    sessions = [engine._idle["logits"].get() for _ in range(3)]
    assert len(set(map(id, sessions))) == 1
    for session in sessions:
        engine._idle["logits"].put(session)
    assert np.isfinite(engine.scores(sample_images((1, 32, 32), seed=0))).all()


def test_a_file_of_a_fixed_size_says_what_was_found_and_what_is_needed(
    exported_model: Path, tmp_path: Path
) -> None:
    model = onnx.load(exported_model)
    for axis, size in zip(
        model.graph.input[0].type.tensor_type.shape.dim, (1, 64, 64), strict=False
    ):
        axis.dim_value = size
    onnx.save(model, tmp_path / "fixed.onnx")
    with pytest.raises(CheckpointError, match=r"shape \[1, 64, 64, 3\]; expected .*\[N, H, W, 3\]"):
        OnnxEngine(tmp_path / "fixed.onnx")
