from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from fcnseg.concurrency import map_ordered, usable_cores
from fcnseg.engines import base as num_parallel
from fcnseg.engines.base import SEQUENTIAL, Parallelism, parallelism_on
from fcnseg.exporting.parity import sample_images
from fcnseg.inference.loading import EngineOptions, load, open_engine
from tests.conftest import skip_without


@pytest.mark.parametrize(
    ("cores", "threads", "expected"),
    [
        (1, 1, SEQUENTIAL),
        (2, 2, Parallelism(2, 1)),
        (4, 4, Parallelism(4, 1)),
        (16, 16, Parallelism(4, 4)),
        (16, 1, SEQUENTIAL),
        (6, 6, Parallelism(4, 1)),
    ],
)
def test_cores_are_dealt_out(monkeypatch, cores: int, threads: int, expected: Parallelism) -> None:
    monkeypatch.setattr(num_parallel, "usable_cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert parallelism_on("cpu") == expected


def test_a_gpu_is_one() -> None:
    assert parallelism_on("cuda:0") == SEQUENTIAL
    assert usable_cores() >= 1


def test_an_opened_checkpoint_uses_all_cores(monkeypatch, random_model: Path) -> None:
    """Opening runs in one thread (a fork may follow); that is no limit for what is opened."""
    monkeypatch.setattr(num_parallel, "usable_cores", lambda: 2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        options = EngineOptions(engine="torch", precision="f32", parallel=True)
        engine, _ = open_engine(random_model, options, lambda _: None)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert engine.parallelism == Parallelism(2, 1)


def test_a_thread_is_kept_to_its_share() -> None:
    before, seen = torch.get_num_threads(), []

    def enter() -> None:
        Parallelism(2, 3).enter()
        Parallelism(2, 3).enter()
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    SEQUENTIAL.enter()
    assert seen == [3]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "openvino"])
@pytest.mark.parametrize("deal", [Parallelism(3, 1), Parallelism(2, 2)], ids=str)
def test_outputs_are_the_same_in_parallel(
    monkeypatch, random_model: Path, exported_model: Path, engine: str, deal: Parallelism
) -> None:
    skip_without(engine)
    model = random_model if engine == "torch" else exported_model
    for module in ("base", "pytorch", "onnx", "openvino"):
        monkeypatch.setattr(
            f"fcnseg.engines.{module}.parallelism_on", lambda _: deal, raising=False
        )
    one, several = (
        load(model, engine=engine, device="cpu", parallel=parallel) for parallel in (False, True)
    )
    assert (one.num_parallel, several.num_parallel) == (1, deal.count)
    images = [sample_images((1, 48, 64), seed=seed)[0] for seed in range(8)]
    outputs = map_ordered(several.logits, images, several.num_parallel)
    for image, found in outputs:
        np.testing.assert_allclose(found, one.logits(image), atol=1e-4)
