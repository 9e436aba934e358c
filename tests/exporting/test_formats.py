import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import fcnseg
from fcnseg.engines.pytorch import TorchEngine
from fcnseg.exporting.graph import Graph, quiet
from fcnseg.exporting.parity import sample_images
from fcnseg.models.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def checkpoint(random_model: Path) -> Checkpoint:
    return Checkpoint.load(random_model)


def test_the_graph_is_the_network(checkpoint):
    images = sample_images((2, 40, 50), seed=0)
    expected = TorchEngine(checkpoint.build(), checkpoint.preprocess).logits(images)
    graph = Graph(checkpoint.build(), checkpoint.preprocess)
    with torch.no_grad():
        np.testing.assert_allclose(graph(torch.from_numpy(images))[0].numpy(), expected, atol=1e-4)


def test_quiet_is_quiet(caplog):
    with quiet():
        warnings.warn("an exporter's", FutureWarning, stacklevel=1)
        logging.getLogger("torch.onnx").warning("chatter")
    assert not caplog.records
    logging.getLogger("torch.onnx").warning("heard again")
    assert len(caplog.records) == 1


def test_an_exported_file_holds_no_path_of_this_machine(exported_model):
    data = exported_model.read_bytes()
    for place in (Path(torch.__file__).parent, Path(fcnseg.__file__).parent):
        assert str(place).encode() not in data
    assert b"stack_trace" not in data
