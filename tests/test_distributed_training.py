"""Several processes do one job: started by torchrun, on the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fcnseg import distributed as module
from fcnseg.commands.eval import evaluate
from fcnseg.commands.train import train
from fcnseg.config import EvalConfig, TrainConfig
from fcnseg.distributed import Distributed, init_distributed
from fcnseg.errors import OptionError
from fcnseg.models.checkpoint import Checkpoint
from tests.conftest import TINY

JOB = """
import json, os, signal, sys, torch
torch.set_num_threads(1)
from fcnseg.config import EvalConfig, TrainConfig
from fcnseg.commands.eval import evaluate
from fcnseg.progress import Progress
from fcnseg.distributed import init_distributed
from fcnseg.commands.train import train

options, (model, answer, precision) = json.loads(sys.argv[1]), sys.argv[2:]
steps = 0

def die_once(event):
    global steps
    steps += isinstance(event, Progress) and event.task.startswith("epoch")
    if steps == 5 and precision == "f32" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)

result = train(TrainConfig.make(options), die_once)
scored = evaluate(
    EvalConfig(data=options["data"], model=model, device="cpu", batch=2, precision=precision)
)
if os.environ["RANK"] == "0":
    matrix = scored.report.matrix.tolist()
    told = {"epochs": result.epochs, "steps": steps, "matrix": matrix}
    open(answer, "w").write(json.dumps(told))
"""


def losses(run: Path) -> list[float]:
    lines = (run / "results.csv").read_text().splitlines()
    return [float(line.split(",")[1]) for line in lines[1:]]


@pytest.mark.skipif(sys.platform == "win32", reason="torchrun needs libuv there")
@pytest.mark.parametrize(
    ("precision", "loss_bound", "weight_bound"), [("f32", 1e-4, 1e-6), ("bf16", 5e-3, 2e-2)]
)
def test_two_processes_are_as_good_as_one(
    drawn_folder: Path,
    tiny_run: Path,
    tmp_path: Path,
    precision: str,
    loss_bound: float,
    weight_bound: float,
) -> None:
    """The same losses, the same evaluation, and a killed process is started again (in f32).

    In bf16 the gradients of each half of a batch are rounded to 8 bits before they are added
    (0.4 %). Bounds: of the losses, and of the distance of all weights relative to their norm.
    """
    options = {
        **TINY, "data": str(drawn_folder), "crop": [64, 64], "batch": 7, "epochs": 2, "lr": 0.01,
        "dropout": 0.0, "freeze_norm": True, "save_every": 0, "precision": precision,
    }  # fmt: skip
    single = train(TrainConfig.make({**options, "out": tmp_path / "single"}))
    job, answer = tmp_path / "job.py", tmp_path / "answer.json"
    job.write_text(JOB)
    both = json.dumps({**options, "out": str(tmp_path / "both")})
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
            "--max-restarts=1", str(job), both, str(tiny_run), str(answer), precision,
        ],
        capture_output=True,
        text=True,
        timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(answer.read_text())
    assert told["epochs"] == 2
    if precision == "f32":
        assert 0 < told["steps"] < 8, "the second start went on, it did not begin anew"
    assert losses(tmp_path / "both") == pytest.approx(losses(single.run), abs=loss_bound)
    ours, theirs = (Checkpoint.load(tmp_path / n / "last.safetensors") for n in ("both", "single"))
    learned = [name for name, _ in ours.build().named_parameters()]
    both, alone = (torch.cat([c.weights[name].ravel() for name in learned]) for c in (ours, theirs))
    assert (both - alone).norm() <= weight_bound * alone.norm()
    scored = evaluate(
        EvalConfig(data=drawn_folder, model=str(tiny_run), device="cpu", precision=precision)
    )
    assert (np.array(told["matrix"]) == scored.report.matrix).all()


def test_one_process_exchanges_nothing() -> None:
    ranks = Distributed.single()
    assert ranks.main
    counts = np.arange(4)
    assert ranks.sum_array(counts) is counts
    assert ranks.broadcast("value") == "value"
    assert ranks.any(True)
    assert not ranks.any(False)
    ranks.barrier()
    assert ranks.sum(torch.ones(2)).tolist() == [1, 1]
    assert init_distributed("cpu") == ranks


@pytest.mark.parametrize(
    ("size", "says"),
    [("2", "can't be connected: .*MASTER_ADDR"), ("two", "WORLD_SIZE: expected a whole number")],
)
def test_an_environment_that_torchrun_has_not_made(size, says, monkeypatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(OptionError, match=says) as caught:
        init_distributed("cpu")
    assert "unset RANK and WORLD_SIZE" in caught.value.hint


def test_each_process_takes_a_gpu_of_its_own(monkeypatch) -> None:
    monkeypatch.setattr(module, "resolve_device", torch.device)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert module._device_of_rank("cuda") == torch.device("cuda:1")
    assert module._device_of_rank("cpu") == torch.device("cpu")
    with pytest.raises(OptionError, match="one GPU, but torchrun"):
        module._device_of_rank("cuda:0")
