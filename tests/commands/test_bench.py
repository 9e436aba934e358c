import json
from pathlib import Path

import pytest

from fcnseg.cli.tables import show_bench
from fcnseg.commands import bench as benchmarking
from fcnseg.commands.bench import BenchResult, bench
from fcnseg.config import BenchConfig
from fcnseg.device import Timing
from fcnseg.errors import MediaError, OptionError
from fcnseg.exporting.parity import sample_images
from fcnseg.io.images import write_image
from fcnseg.progress import Progress


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_everything_is_measured(random_model: Path, precision: str):
    heard = []
    config = BenchConfig(
        model=str(random_model), size=(64, 96), frames=6, batch=2, device="cpu", precision=precision
    )
    result = bench(config, heard.append)
    told = json.loads(json.dumps(result.as_dict()))
    assert (told["engine"], told["precision"], told["device"]) == ("torch", precision, "cpu")
    assert (told["size"], told["frames"], told["batch"]) == ([64, 96], 6, 2)
    for name in ("end_to_end_fps", "model_fps", "limit_fps", "ratio"):
        assert told[name] > 0
    assert told["ratio"] == pytest.approx(told["end_to_end_fps"] / told["limit_fps"], rel=0.05)
    assert list(told["stages"]) == [
        *("decode", "preprocess", "network", "scores", "argmax", "draw", "encode", "total")
    ]
    assert all(stage["ms"] > 0 for stage in told["stages"].values())
    latency = told["latency_ms"]
    assert latency["p50"] <= latency["p90"] <= latency["p99"]
    at_a_time = told["batch"] * told["num_parallel"]
    assert latency["p50"] == pytest.approx(at_a_time * 1000 / told["model_fps"], rel=0.05)
    assert told["memory_bytes"]["host"] > 50_000_000
    assert [event.done for event in heard if isinstance(event, Progress)] == list(range(8))


def test_a_video_can_be_given(random_model: Path, drawn_clip: Path):
    result = bench(BenchConfig(model=str(random_model), source=drawn_clip, frames=4, device="cpu"))
    assert (result.size, result.frames, result.model) == ((128, 160), 4, random_model)


def test_an_exported_file_is_timed_in_its_engine(exported_model: Path):
    result = bench(BenchConfig(model=str(exported_model), size=(32, 32), frames=3, device="cpu"))
    assert result.engine == "onnxruntime"


def test_the_limit_is_of_shared_cores_on_a_processor(random_model: Path, monkeypatch):
    monkeypatch.setattr(benchmarking, "usable_cores", lambda: 4)
    result = bench(BenchConfig(model=str(random_model), size=(32, 32), frames=3, device="cpu"))
    costs = [result.stages[name].core_seconds for name in ("decode", "network", "encode")]
    assert result.limit_fps == pytest.approx(4 / sum(costs))


def result(**changes) -> BenchResult:
    stages = {
        name: Timing(laps=(seconds,), total=core_seconds, frames=1)
        for name, (seconds, core_seconds) in changes.pop("stages").items()
    }
    values = {
        "engine": "torch", "precision": "f32", "device": "cpu", "model": None, "size": (64, 96),
        "batch": 1, "num_parallel": 1, "frames": 6, "latency": {}, "memory_bytes": {}, "cores": 4,
    }  # fmt: skip
    return BenchResult(**{**values, "full": next(iter(stages.values())), **changes}, stages=stages)


def test_a_limit_beyond_what_it_limits_is_explained(capsys):
    network = {"network": (0.02, 0.06)}
    below = result(model_fps=50, end_to_end_fps=30, limit_fps=40, stages=network)
    assert [text.split(":")[0] for text in below.remarks] == [
        "The limit is below the network alone"
    ]
    above = result(model_fps=50, end_to_end_fps=60, limit_fps=55, stages=network)
    assert above.remarks[0].endswith("alone it keeps 3.0 of 4 cores busy.")
    assert "the machine was busier" in above.remarks[1]
    scores = {**network, "scores": (0.01, 0.03)}
    cheaper = result(model_fps=50, end_to_end_fps=60, limit_fps=55, stages=scores)
    assert "coarse grid" in cheaper.remarks[1]
    on_gpu = result(model_fps=50, end_to_end_fps=30, limit_fps=40, stages=network, device="cuda:0")
    assert on_gpu.remarks == ()
    show_bench(below)
    printed = capsys.readouterr().out
    for text in ("frames of 96x64", "75 %", *below.remarks, "prepared images in", "4 cores"):
        assert text in " ".join(printed.split()), text


def test_a_image_is_not_timed(random_model: Path, tmp_path: Path):
    write_image(tmp_path / "one.png", sample_images((1, 32, 32), seed=0)[0])
    with pytest.raises(OptionError, match=r"one\.png is no video file"):
        bench(BenchConfig(model=str(random_model), source=tmp_path / "one.png"))
    with pytest.raises(MediaError):
        bench(BenchConfig(model=str(random_model), source=tmp_path / "none.mp4"))
