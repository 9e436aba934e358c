"""The library leaves the process as it found it: only the command line changes it for good."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import gc, logging, os, random, signal, sys, threading
import cv2  # sets what it wants itself
import numpy as np, torch
from PIL import Image

os.environ.pop("OMP_WAIT_POLICY")  # torch has read it

def state():
    umask = os.umask(0)
    os.umask(umask)
    threads = []
    other = threading.Thread(target=lambda: threads.append(torch.get_num_threads()))
    other.start(); other.join()
    return {
        "environment": dict(os.environ), "umask": umask, "folder": os.getcwd(),
        "threads": [torch.get_num_threads(), *threads],
        "interop": torch.get_num_interop_threads(),
        "logging": (logging.getLogger().level, logging.getLogger().handlers[:]),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul": torch.get_float32_matmul_precision(),
        "random": [str(random.getstate()), str(np.random.get_state())],
        "torch": torch.get_rng_state().tolist(),
        "cudnn": [torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark],
        "modes": [torch.is_grad_enabled(), str(torch.get_default_dtype()), gc.isenabled()],
        "pillow": [Image.MAX_IMAGE_PIXELS],
        "signals": [str(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM)],
        "recursion": sys.getrecursionlimit(),
    }

def unchanged(what, before):
    after = state()
    changed = [name for name in before if before[name] != after[name]]
    names = set(before["environment"].items()) ^ set(after["environment"].items())
    assert not changed, (what, changed, sorted(names), before["threads"], after["threads"])

data, model, image = sys.argv[1:]
torch.set_num_threads(2)
before = state()
import fcnseg
for name in fcnseg.__all__:
    getattr(fcnseg, name)
import fcnseg.progress
import fcnseg.engines.onnx, fcnseg.engines.openvino
def never():
    raise AssertionError("the allocator was set")
fcnseg.progress.keep_freed_memory = never
unchanged("import", before)
segmenter = fcnseg.load(model, device="cpu")
unchanged("load", before)
segmenter(image).confidence
unchanged("model(x)", before)
list(segmenter.stream(image))
unchanged("stream", before)
assert fcnseg.evaluate(model, data, device="cpu", workers=0).miou >= 0
unchanged("evaluate", before)
assert fcnseg.evaluate(segmenter, data, workers=0).miou >= 0
unchanged("evaluate a segmenter", before)
tiny = {"backbone": "tiny", "backbone_weights": "none", "width": 16, "crop": (64, 64)}
fcnseg.train(data, out="run", epochs=1, workers=0, device="cpu", precision="f32", **tiny)
unchanged("train", before)
print("unchanged")
"""


def test_import_load_call_evaluate_and_train_change_nothing(
    data: Path, random_model: Path, tmp_path: Path
) -> None:
    image = data / "images/val/0000.png"
    kept = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, data, random_model, image],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**kept, "OMP_WAIT_POLICY": "PASSIVE"},
    )
    assert done.stdout.strip() == "unchanged", done.stderr


def test_opencv_that_a_program_loaded_before_says_nothing():
    code = "import cv2, fcnseg.io"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
