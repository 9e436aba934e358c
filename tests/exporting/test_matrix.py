"""The table of formats and networks: what the gate says of a file, and of one that it refuses."""

import importlib.util
from pathlib import Path

import pytest

from fcnseg.exporting import graph

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "export_matrix.py"
SPEC = importlib.util.spec_from_file_location("export_matrix", SCRIPT)
assert SPEC is not None
assert SPEC.loader is not None
matrix = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(matrix)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_slice_of_the_table(monkeypatch):
    results = {}
    for decoder in ("fcn8s score", "fcn2s concat"):
        found = matrix.measure("tiny", decoder, "torchscript")
        assert found["label_agreement"] >= 0.9999
        assert found["sizes"] == [[33, 47], [64, 96], [97, 131]]
        assert found["batches"] == [1, 3]
        results[f"tiny / {decoder} / torchscript"] = found
    right = graph.Graph.forward
    wrong = lambda self, images: tuple(-maps for maps in right(self, images))  # noqa: E731
    monkeypatch.setattr(graph.Graph, "forward", wrong)
    found = matrix.measure("tiny", "fcn8s score", "torchscript")
    assert "do not match" in found["failed"]
    results["tiny / broken / torchscript"] = found
    page = matrix.page(results, "a machine")
    assert "2 of 3 hold parity. a machine." in page
    assert page.count("| tiny, ") == 3
    assert "100.000 %" in page
    assert "refused: The outputs of the torchscript file do not match" in page


def test_files_of_several_sizes_are_told_of_as_one():
    sizes = [(33, 47), (64, 96)]
    found = [
        {"label_agreement": equal, "pixels": 10 * pixels, "max_abs_diff": far, "largest_logit": 2.0,
         "sizes": [size], "seconds": 1.0}
        for equal, pixels, far, size in [(1.0, 3, 1e-6, (64, 96)), (0.9, 1, 2e-6, (33, 47))]
    ]  # fmt: skip
    both = matrix.merged(found)
    assert both["label_agreement"] == pytest.approx(0.975)
    assert both["max_abs_diff"] == 2e-6
    assert both["sizes"] == sizes
    assert matrix.missing(both, "litert", matrix.SIZES) == [[(97, 131)]]
    assert matrix.missing(both, "onnx", matrix.SIZES) == []
    assert "97.500 %, 1.0e-06, 33 x 47, 64 x 96 |" in matrix.page({"a / b / litert": both}, "")
    refused = matrix.merged([*found, {"failed": "why"}])
    assert refused == {"failed": "why"}
    assert matrix.missing(refused, "litert", matrix.SIZES) == []
