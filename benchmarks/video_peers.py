"""Other programs that segment a video, for video_throughput.py: each prints its speed as JSON.

    python benchmarks/video_peers.py loop MODEL CLIP FRAMES            torch and OpenCV
    python benchmarks/video_peers.py loop FILE.onnx CLIP FRAMES        ONNX Runtime and OpenCV
    python benchmarks/video_peers.py ultralytics WEIGHTS CLIP FRAMES   its own prediction, saving
    python benchmarks/video_peers.py export NAME CLIP FILE.onnx        another network as ONNX

The loop is a straightforward implementation: read, convert, forward, argmax, color, blend, write,
one after the other. `export` writes a network of accuracy/peers.py by torch.onnx, at the clip's
size, with random weights, which take the same time. FRAMES: 0 is all. The first frame (kernel
selection) is not timed; core-milliseconds are the CPU time of all threads.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from fcnseg.models.backbones.torchvision import import_torchvision
from fcnseg.models.checkpoint import Checkpoint

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of networks with ImageNet weights; the values do not affect the time."""

Labels = np.ndarray[Any, np.dtype[np.uint8]]


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=("loop", "ultralytics", "export"))
    parser.add_argument("file", help="a model; for export the network's name")
    parser.add_argument("clip")
    parser.add_argument("last", metavar="FRAMES|FILE.onnx")
    chosen = parser.parse_args()
    if chosen.task == "export":
        sys.path.insert(0, str(Path(__file__).parent / "accuracy"))
        export(chosen.file, chosen.clip, Path(chosen.last))
    else:
        run = ultralytics if chosen.task == "ultralytics" else loop
        print(json.dumps(timed(run(chosen.file, chosen.clip, int(chosen.last)))))


def timed(run: Iterable[object]) -> dict[str, float]:
    """Frames per second and core-milliseconds per frame, without the first one."""
    done = began = core = 0.0
    for done, _ in enumerate(run):
        if done == 0:
            began, core = time.perf_counter(), time.process_time()
    seconds, core = time.perf_counter() - began, time.process_time() - core
    return {"end_to_end_fps": done / seconds, "core_ms": 1000 * core / done}


def loop(file: str, clip: str, frames: int) -> Iterator[None]:
    """Write an overlay of each frame."""
    labels_of = onnx(file) if file.endswith(".onnx") else checkpoint(file)
    colors = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
    capture = cv2.VideoCapture(clip)
    with tempfile.TemporaryDirectory() as folder:
        code = cv2.VideoWriter.fourcc(*"mp4v")
        width, height = size_of(capture)
        writer = cv2.VideoWriter(str(Path(folder) / "out.mp4"), code, 25.0, (width, height))
        done = 0
        while done < (frames or float("inf")) and (frame := capture.read()[1]) is not None:
            image = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).astype(np.float32) / 255
            batch = ((image - MEAN) / STD).astype(np.float32).transpose(2, 0, 1)[None]
            labels = labels_of(np.ascontiguousarray(batch))
            writer.write(cv2.addWeighted(frame, 0.5, colors[labels], 0.5, 0))
            done += 1
            yield
        writer.release()


def checkpoint(file: str) -> Callable[[Any], Labels]:
    """Normalized float (1, 3, H, W) -> labels (H, W), in torch."""
    network = Checkpoint.load(Path(file)).build().eval()

    def labels_of(batch: Any) -> Labels:
        with torch.inference_mode():
            labels: Labels = network(torch.from_numpy(batch))[0].argmax(0).byte().numpy()
            return labels

    return labels_of


def onnx(file: str) -> Callable[[Any], Labels]:
    """The same in ONNX Runtime; the file's output is the logits."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})[0][0].argmax(0).astype(np.uint8)


def ultralytics(weights: str, clip: str, frames: int) -> Iterator[None]:
    """Ultralytics' prediction of a video, saving an overlay, at the clip's size (rounded to 32)."""
    import_torchvision()  # works with a CPU torch as well
    from ultralytics import YOLO

    width, height = size_of(cv2.VideoCapture(clip))
    size = [-(-side // 32) * 32 for side in (height, width)]
    with tempfile.TemporaryDirectory() as out:
        found = YOLO(weights, task="semantic").predict(
            clip, save=True, stream=True, device="cpu", verbose=False, project=out, imgsz=size
        )
        for done, _ in enumerate(found, start=1):
            yield
            if done == frames:
                break


def export(name: str, clip: str, file: Path) -> None:
    """Export a network of accuracy/peers.py for 11 classes, at the clip's size, as ONNX."""
    from peers import PEERS

    width, height = size_of(cv2.VideoCapture(clip))
    network: nn.Module = PEERS[name](11, "none", print).eval()
    image = torch.zeros(1, 3, height, width)
    torch.onnx.export(network, (image,), file, dynamo=True, external_data=False)


def size_of(capture: cv2.VideoCapture) -> tuple[int, int]:
    """Width and height of its frames."""
    width, height = cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT
    return int(capture.get(width)), int(capture.get(height))


if __name__ == "__main__":
    main()
