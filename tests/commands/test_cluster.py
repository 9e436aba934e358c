"""infer --ray: several workers give what one process gives, also when one is lost."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fcnseg.commands.cluster import run_on_ray
from fcnseg.commands.infer import infer, join, run_shard
from fcnseg.config import InferConfig
from fcnseg.errors import CheckpointError, MissingExtra, OptionError
from fcnseg.inference.job import InferPlan
from fcnseg.inference.pipeline import InferResult
from fcnseg.io.images import write_image
from fcnseg.progress import Message

COUNT = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(COUNT):
        image = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        write_image(folder / f"image_{number}.png", image)
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path, random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "out"
    infer(folder, model=str(random_model), out=out, precision="f32", save=("labels", "coco"))
    return out


@pytest.fixture
def ray() -> Iterator[object]:
    ray = pytest.importorskip("ray", reason="needs ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield ray
    ray.shutdown()


def config_of(folder: Path, model: Path, out: Path, **options: object) -> InferConfig:
    given = {"model": str(model), "precision": "f32", "save": ("labels", "coco"), **options}
    return InferConfig.make({"source": str(folder), "out": out, "ray": "local", **given})


def outputs(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".jsonl")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def die_half_way(plan: InferPlan) -> list[InferResult]:
    """The second worker is killed once some of its images are done."""
    out, rank = plan.job.config.out, plan.job.distributed.rank
    assert out is not None
    flag = out / ".killed"
    if rank == 1 and not flag.exists():
        flag.touch()

        def kill() -> None:
            while not (out / "labels/image_1.png").exists():
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=kill, daemon=True).start()
    return run_shard(plan)


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_two_workers_give_what_one_process_gives(ray, folder, alone, random_model, tmp_path):
    result = infer(config_of(folder, random_model, tmp_path / "out"))
    assert (result.frames_in, result.frames_out, result.failed) == (COUNT, COUNT, ())
    assert outputs(tmp_path / "out") == outputs(alone)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


@pytest.mark.filterwarnings("ignore")
def test_a_lost_worker_s_share_is_done_again(ray, folder, alone, random_model, tmp_path):
    events = []
    config = config_of(folder, random_model, tmp_path / "out")
    result = run_on_ray(config, events.append, die_half_way, join)
    assert "A Ray worker was lost; part 2 of 2 is repeated" in [
        event.text for event in events if isinstance(event, Message)
    ]
    assert (result.frames_in, result.frames_out) == (COUNT, COUNT)
    (tmp_path / "out/.killed").unlink()
    assert outputs(tmp_path / "out") == outputs(alone)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"watch": True}, "--watch is for one process"),
        ({"source": "-"}, "SOURCE - is for one process"),
        ({"smooth": 0.5}, "--smooth is for one process"),
        ({"out": None}, "--ray needs --out"),
    ],
)
def test_what_can_not_be_divided_is_refused(folder, random_model, tmp_path, options, says):
    given = {"source": str(folder), "out": tmp_path, "ray": "local", **options}
    with pytest.raises(OptionError, match=says):
        infer(InferConfig.make(given))


def test_errors_are_those_of_one_process(ray, folder, tmp_path):
    with pytest.raises(CheckpointError):
        infer(config_of(folder, tmp_path / "none.safetensors", tmp_path / "out"))


def test_without_ray_the_extra_is_named(folder, random_model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match="--ray needs the extra 'ray'"):
        infer(config_of(folder, random_model, tmp_path / "out"))


def test_ray_that_does_not_start_is_one_clear_error(folder, random_model, tmp_path, monkeypatch):
    def init(**_: object) -> None:
        raise Exception("The current node timed out")

    fake = SimpleNamespace(is_initialized=lambda: False, init=init)
    monkeypatch.setitem(sys.modules, "ray", fake)
    with pytest.raises(OptionError, match=r"--ray local: Ray did not start.*timed out"):
        infer(config_of(folder, random_model, tmp_path / "out"))
