"""Several processes share one job: started by torchrun, on the CPU."""

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from torch._C._distributed_c10d import HashStore

from fcnseg import distributed as module
from fcnseg.commands.demo.scenes import SIZE, draw, make_scene
from fcnseg.commands.infer import infer
from fcnseg.config import InferConfig
from fcnseg.distributed import Distributed, _portable
from fcnseg.errors import FailedElsewhere, MediaError, OptionError
from fcnseg.inference.job import Job, make_plan
from fcnseg.inference.pipeline import InferResult
from fcnseg.io.images import write_image
from fcnseg.io.sources.video import open_video
from fcnseg.io.video_writer import VideoWriter
from fcnseg.progress import no_callback
from tests.inference.test_pipeline import FakeSegmenter
from tests.test_live import FakeCamera

FRAMES = 37

JOB = """
import json, os, sys, torch
torch.set_num_threads(1)
from fcnseg.cli.app import app
from fcnseg.config import InferConfig
from fcnseg.commands.infer import infer
from fcnseg.inference.segmenter import Segmenter

rank, told = os.environ["RANK"], []
predict = Segmenter.predict

def one_fails(self, images, **wanted):
    one_fails.count += 1
    if rank == "1" and one_fails.count == 6:
        raise RuntimeError("out of luck")
    return predict(self, images, **wanted)

for options in json.loads(sys.argv[1]):
    broken = options.pop("broken", False)
    one_fails.count = 0
    Segmenter.predict = one_fails if broken else predict
    events = []
    try:
        result = infer(InferConfig.make({"device": "cpu", **options}), events.append)
        told.append(result.as_dict())
    except Exception as error:
        told.append([type(error).__name__, str(error)])
    told[-1] = [told[-1], len(events)]
for command in json.loads(sys.argv[2]):
    try:
        app(["infer", *command])
    except SystemExit as end:
        told.append(end.code)
with open(f"{sys.argv[3]}-{rank}.json", "w") as file:
    json.dump(told, file, default=str)
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """37 drawn frames: neither two processes nor batches of 8 come out even."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    scene = make_scene(5)
    with VideoWriter(path, Fraction(25, 2), SIZE) as writer:
        for index in range(FRAMES):
            writer.write(draw(scene, index / 12.5)[0])
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven pictures, one of which can't be read."""
    path = tmp_path_factory.mktemp("pictures")
    for index in range(6):
        write_image(path / f"sub{index % 2}" / f"{index}.png", draw(make_scene(index), 0.0)[0])
    (path / "broken.png").write_text("no picture")
    return path


def files(folder: Path) -> dict[str, bytes]:
    """The files in a folder, without those that say what is done."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in found
        if not path.name.startswith("manifest")
    }


@pytest.mark.skipif(sys.platform == "win32", reason="torchrun needs libuv there")
def test_two_processes_write_what_one_writes(
    clip: Path, folder: Path, random_model: Path, tmp_path: Path
) -> None:
    """Also: errors, the command line, and one process that continues; torchrun takes its time."""
    one, two = tmp_path / "one", tmp_path / "two"
    both = {"model": str(random_model), "engine": "torch"}
    jobs: dict[str, dict[str, Any]] = {
        "labels": {"source": str(clip), "save": ["labels"]},
        "part": {"source": str(clip), "save": ["labels"], "start": 0.4, "every": 2, "limit": 9},
        "video": {"source": str(clip), "save": ["overlay", "labels", "coco"], "conf": 0.3},
        "file.mp4": {"source": str(clip)},
        "pictures": {"source": str(folder), "save": ["labels", "color", "coco"]},
        "pictures.mp4": {"source": str(folder)},
    }
    jobs["video"]["shares"] = "shares.jsonl"
    singles = [_alone({**both, **options}, one / name) for name, options in jobs.items()]
    _alone({**both, **jobs["labels"], "batch": 8}, tmp_path / "eight")
    nowhere = tmp_path / "no"
    lists = [_into(two / name, {**both, **options}) for name, options in jobs.items()]
    lists.append(_into(nowhere, {**both, "source": str(tmp_path / "nothing.mp4")}))
    lists.append(_into(nowhere, {**both, "source": "-"}))
    lists.append({**_into(tmp_path / "broken", {**both, **jobs["video"]}), "broken": True})
    commands = [
        [str(clip), "-m", str(random_model), "-o", str(tmp_path / "said.mp4"), "--json"],
        [str(clip), "-m", str(tmp_path / "none.safetensors"), "-o", str(nowhere)],
    ]
    job, answer = tmp_path / "job.py", tmp_path / "answer"
    job.write_text(JOB)
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
            str(job), json.dumps(lists, default=str), json.dumps(commands), str(answer),
        ],
        capture_output=True,
        text=True,
        timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = (json.loads(Path(f"{answer}-{rank}.json").read_text()) for rank in (0, 1))

    assert len(files(one / "labels")) == FRAMES
    assert files(one / "labels") == files(tmp_path / "eight") == files(two / "labels")
    assert files(one) == files(two), "every file is the same, and there is no other"
    for single, (told, _), other in zip(singles, first, second, strict=False):
        for name in ("frames_in", "frames_out", "failed", "dropped", "skipped"):
            assert told[name] == single.as_dict()[name], name
        assert [path.replace(str(two), str(one)) for path in told["outputs"]] == [
            str(path) for path in single.outputs
        ]
        assert other == [told, 0], "the second process hears the result and says nothing"
    with open_video(two / "file.mp4") as reader:
        assert (reader.fps, len(list(reader))) == (Fraction(25, 2), FRAMES)

    (missing, _), (piped, _), (unlucky, _), said, refused = first[len(jobs) :]
    assert missing[0] == "MediaError"
    assert piped[1].startswith("SOURCE - is for one process, but torchrun has started 2.")
    assert unlucky == ["RuntimeError", "out of luck"]
    assert [told[0][0] for told in second[len(jobs) : -2]] == ["FailedElsewhere"] * 3
    assert not nowhere.exists()

    assert (said, refused, second[-2:]) == (0, 1, [0, 0])
    assert json.loads(done.stdout)["frames_out"] == FRAMES
    assert done.stderr.count("said.mp4 is encoded as") == 1
    assert done.stderr.count("error: ") == 1
    assert "none.safetensors" in done.stderr

    begun = [name for name in files(tmp_path / "broken") if name.startswith("labels/")]
    assert 5 <= len(begun) < FRAMES
    again = {**both, **jobs["video"], "skip_done": True}
    result = _alone(again, tmp_path / "broken")
    assert result.skipped >= 5
    assert result.skipped + result.frames_out == FRAMES
    assert files(tmp_path / "broken") == files(one / "video")
    assert len(list((tmp_path / "broken").glob("manifest*"))) == 1


def _into(out: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Options with their outputs in a place, shares included."""
    shares = {"shares": out / options["shares"]} if "shares" in options else {}
    return {**options, **shares, "out": out}


def _alone(options: dict[str, Any], out: Path) -> InferResult:
    return infer(InferConfig.make({"device": "cpu", **_into(out, options)}))


def test_one_process_exchanges_nothing() -> None:
    group = Distributed.single()
    assert (group.rank, group.size, group.main) == (0, 1, True)
    assert group.run_on_main(lambda: 3) == 3
    assert group.gather(lambda: 3) == [3]
    assert list(group.check_peers(range(3))) == [0, 1, 2]


def side_by_side(monkeypatch: pytest.MonkeyPatch, work: Callable[[Distributed], Any]) -> list[Any]:
    """What `work` gives, or raises, in each of two threads that stand for processes."""
    store = HashStore()
    monkeypatch.setattr(module, "shared_store", lambda name: store)
    both = [Distributed("cpu", rank, 2) for rank in (0, 1)]

    def outcome(group: Distributed) -> Any:
        try:
            return work(group)
        except BaseException as error:  # noqa: BLE001 (looked at by the test)
            return error

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(outcome, both))


def test_results_reach_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(group: Distributed) -> Any:
        told = group.run_on_main(lambda: f"from {group.rank}")
        return told, group.gather(lambda: group.rank * 10)

    answers = side_by_side(monkeypatch, work)
    assert answers == [("from 0", [0, 10])] * 2


@pytest.mark.parametrize("unlucky", [0, 1])
def test_where_one_fails_all_end(monkeypatch: pytest.MonkeyPatch, unlucky: int) -> None:
    """The other one stops in the middle of its work, which would not end by itself."""
    monkeypatch.setattr(module, "_CHECK_SECONDS", 0.0)

    def endless(group: Distributed) -> None:
        for number in group.check_peers(itertools.count()):
            if group.rank == unlucky and number == 3:
                raise MediaError("The disk is full.", hint="empty it")

    first, second = side_by_side(monkeypatch, lambda t: t.gather(lambda: endless(t)))
    assert isinstance(first, MediaError)
    assert (first.message, first.hint) == ("The disk is full.", "empty it")
    assert isinstance(second, FailedElsewhere)


def test_a_camera_is_not_shared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = InferConfig(source="0", out=tmp_path / "out.mp4")
    network: Any = FakeSegmenter
    camera: Any = FakeCamera

    def work(group: Distributed) -> Any:
        with ExitStack() as stack:
            job = Job(config, no_callback, group, stack, network(), lambda address: camera())
            return group.run_on_main(lambda: make_plan(job).decided)

    first, second = side_by_side(monkeypatch, work)
    assert isinstance(first, OptionError)
    assert first.message == "A camera is for one process, but torchrun has started 2."
    assert isinstance(second, FailedElsewhere)


def test_errors_travel() -> None:
    class Odd(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} {two}")

    told = _portable(MediaError("It is cut.", hint="take another"), 1)
    assert isinstance(told, MediaError)
    assert (told.message, told.hint) == ("It is cut.", "take another")
    assert str(_portable(Odd(1, 2), 1)) == "Odd in process 1: 1 2"
