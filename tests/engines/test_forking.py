"""Models in other processes: forked, spawned, pickled, copied."""

import copy
import json
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import fcnseg
from fcnseg import device as processes
from fcnseg.concurrency import usable_cores
from fcnseg.device import OpenedIn
from fcnseg.engines import fuse, openvino
from fcnseg.errors import CheckpointError, OptionError
from fcnseg.exporting.parity import sample_images
from tests.conftest import skip_without

RGB = sample_images((1, 160, 200), seed=3)[0]  # large enough for torch to use its threads

JOB = """
import json, multiprocessing, pickle, sys, fcnseg
from fcnseg.exporting.parity import sample_images

class Pickled:
    def __init__(self, data):
        self.data = data

    def __call__(self, image):
        return pickle.loads(self.data)(image)

def child(model, results):
    try:
        results.put(model(image).confidence.tolist())
    except Exception as error:
        results.put(repr(error))

def in_a_child(method, model):
    context = multiprocessing.get_context(method)
    results = context.Queue()
    process = context.Process(target=child, args=(model, results), daemon=True)
    process.start()
    found = results.get(timeout=60)
    process.join(20)
    assert process.exitcode == 0, process.exitcode
    return found

image = sample_images((1, 160, 200), seed=3)[0]  # torch has computed in the parent
if __name__ == "__main__":
    path, engine, *ways = sys.argv[1:]
    model = fcnseg.load(path, engine=engine, precision="f32")
    for way in ways:
        method, state = way.split()
        if state == "used":
            model(image, probabilities=True)
        if state == "closed":
            model(image)
            again = pickle.loads(pickle.dumps(model))
            again(image)
            del again
            model = Pickled(pickle.dumps(model))
        print(json.dumps(in_a_child(method, model)), flush=True)
"""


def in_children(folder: Path, path: Path, engine: str, *ways: str) -> list[np.ndarray]:
    """The confidence that a child computes in each way: "METHOD STATE" one after the other."""
    job = folder / "job.py"
    job.write_text(JOB)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(job), str(path), engine, *ways],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("[", '"'))]
    assert len(found) == len(ways), done.stdout
    return [np.array(each) for each in found]


@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "openvino", "opencv"])
def test_a_child_computes(random_model, exported_model, tmp_path, engine):
    """Forked before the model was used, and after it; or spawned."""
    skip_without(engine)
    path = random_model if engine == "torch" else exported_model
    ways = ["fork fresh", "fork used"] if hasattr(os, "fork") else []
    if engine in ("torch", "onnxruntime"):
        ways.append("spawn used")
    if not ways:
        pytest.skip("the system has no fork")
    expected = fcnseg.load(path, engine=engine, precision="f32")(RGB).confidence
    for way, confidence in zip(ways, in_children(tmp_path, path, engine, *ways), strict=True):
        np.testing.assert_allclose(confidence, expected, atol=1e-4, err_msg=way)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not fork")
def test_a_forked_child_computes_after_a_model_was_closed(exported_model, tmp_path, monkeypatch):
    """OpenVINO would give the child the closed model's threads, which it does not have."""
    skip_without("openvino")
    if usable_cores() == 1:
        pytest.skip("with one core the child is told that it can't")
    [found] = in_children(tmp_path, exported_model, "openvino", "fork closed")
    assert found.shape == RGB.shape[:2]
    engine = fcnseg.load(exported_model, engine="openvino").engine
    monkeypatch.setattr(openvino, "_first_process", lambda: os.getpid() + 1)
    monkeypatch.setattr(openvino, "usable_cores", lambda: 1)
    monkeypatch.setattr(openvino, "_engine_closed", threading.Event())
    copy.copy(engine)
    openvino._engine_closed.set()
    with pytest.raises(OptionError, match="forked"):
        copy.copy(engine)


@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "openvino", "opencv"])
def test_engines_pickle_and_copy(random_model, exported_model, engine):
    skip_without(engine)
    path = random_model if engine == "torch" else exported_model
    model = fcnseg.load(path, engine=engine, precision="f32")
    expected = model.logits(RGB)
    for same in (pickle.loads(pickle.dumps(model)), copy.copy(model), copy.deepcopy(model)):
        np.testing.assert_array_equal(same.logits(RGB), expected)
        assert (same.engine.precision, same.engine.device) == ("f32", "cpu")
        assert same.classes == model.classes


def test_an_exported_file_that_is_gone_is_an_error(exported_model, tmp_path):
    path = tmp_path / "gone.onnx"
    path.write_bytes(exported_model.read_bytes())
    pickled = pickle.dumps(fcnseg.load(path))
    path.unlink()
    with pytest.raises(CheckpointError, match=r"gone\.onnx"):
        pickle.loads(pickled)


def test_a_gpu_can_not_be_used_across_a_fork(monkeypatch):
    opened_in = OpenedIn()
    opened_in.check_device("cuda")
    monkeypatch.setattr(os, "getpid", lambda: -1)
    opened_in.check_device("cpu")
    with pytest.raises(OptionError, match="load the model in each worker"):
        opened_in.check_device("cuda:0")


def test_loading_computes_nothing_that_starts_threads(random_model, monkeypatch):
    """What is computed while a model is loaded is computed in the thread that loads it."""
    import torch

    seen = []
    fuse_for_inference = fuse.fuse_for_inference
    monkeypatch.setattr(
        "fcnseg.engines.fuse.fuse_for_inference",
        lambda *given, **more: (
            seen.append(torch.get_num_threads()) or fuse_for_inference(*given, **more)
        ),
    )
    monkeypatch.setattr(processes, "_computed_in", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        fcnseg.load(random_model, engine="torch")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1]
    assert not processes._computed_in


AT_A_FORK = """
import os
import numpy as np

counts = []
threads = lambda: counts.append(len(os.listdir("/proc/self/task")))
os.register_at_fork(before=threads)  # run after what is registered later
from fcnseg.io import cv2

cv2.setNumThreads(2)
image = np.zeros((2000, 2000, 3), np.uint8)
threads()
cv2.GaussianBlur(image, (9, 9), 2)
threads()
if os.fork() == 0:
    cv2.GaussianBlur(image, (9, 9), 2)
    os._exit(cv2.getNumThreads())
print(*counts, cv2.getNumThreads(), os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="lists its threads on Linux only")
def test_opencv_has_no_threads_at_a_fork():
    """A thread that holds a lock of OpenCV's at that moment would block the child."""
    if usable_cores() == 1:
        pytest.skip("on one core OpenCV starts no thread")
    done = subprocess.run(
        [sys.executable, "-c", AT_A_FORK], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    fresh, used, forking, parent, child = map(int, done.stdout.split())
    assert used == fresh + 1
    assert forking == fresh
    assert parent == child == 2
