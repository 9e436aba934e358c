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
