"""Time of labels at full size with many classes, of which only those that can win are upsampled.

    python benchmarks/many_classes.py [--size 480 640] [--rounds 5]

With smooth random scores at stride 8 and 2 to 150 classes, alternating: fcnseg's method; all logits
with argmax; the graph of exported files from `scores` to `labels`, and all logits with ArgMax, in
ONNX Runtime; and the former in OpenVINO if it is installed. Then the same for logits of two thirds
of that size. One thread. Prints CPU milliseconds (minimum of the rounds), and the minimum
proportion of labels that equal those of all logits.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F

from fcnseg.engines.base import ScoreGrid, argmax_labels, enlarged_labels, resized
from fcnseg.engines.openvino import import_openvino
from fcnseg.exporting.labels import labels_model
from fcnseg.models.backbones import upsample

FACTOR, SHIFT = 8, 3.5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640))
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    size = (chosen.size[0], chosen.size[1])
    smaller = (size[0] * 2 // 3, size[1] * 2 // 3)
    compare({**WAYS, **in_files()}, (size[0] // FACTOR, size[1] // FACTOR), size, chosen.rounds)
    compare(ENLARGING, smaller, size, chosen.rounds)


def compare(ways: dict[str, Way], given: Size, size: Size, rounds: int) -> None:
    """Print a table of the times of methods for labels of `size` of scores of the size `given`."""
    print(f"| classes | {' | '.join(ways)} | labels equal to those of all logits |")
    print("|---" * (len(ways) + 2) + "|")
    for classes in (2, 11, 21, 60, 150):
        make = torch.Generator().manual_seed(classes)
        coarse = torch.randn(1, classes, 12, 16, generator=make) * 4
        scores = F.interpolate(coarse, given, mode="bicubic")
        runs = [[timed(way, scores, size) for way in ways.values()] for _ in range(rounds)]
        times = np.array([[seconds for seconds, _ in run] for run in runs])
        labels = dict(zip(ways, (found for _, found in runs[0]), strict=True))
        least = " | ".join(f"{1000 * one:.1f}" for one in times.min(axis=0))
        same = min((found == labels[ALL]).mean() for found in labels.values())
        print(f"| {classes} | {least} | {100 * same:.3f} % |")
    print()


Size = tuple[int, int]


Way = Callable[[torch.Tensor, Size], np.ndarray]

ALL = "all logits"

WAYS: dict[str, Way] = {
    "fcnseg": lambda scores, size: ScoreGrid(FACTOR, SHIFT).labels(scores[0].numpy(), size),
    ALL: lambda scores, size: argmax_labels(upsample(scores, FACTOR, SHIFT, size))[0][0],
}

ENLARGING: dict[str, Way] = {
    "fcnseg": lambda logits, size: enlarged_labels(logits[0].numpy(), size),
    ALL: lambda logits, size: argmax_labels(resized(logits, size))[0][0],
}

EVERY_CLASS = """
labels (float[N, K, h, w] scores, uint8[batch, height, width, C] images)
    => (uint8[batch, height, width] labels)
{
    start = Shape <start = 0, end = 2> (scores)
    size = Shape <start = 1, end = 3> (images)
    sizes = Concat <axis = 0> (start, size)
    logits = Resize <mode = "linear"> (scores, , , sizes)
    best = ArgMax <axis = 1, keepdims = 0> (logits)
    labels = Cast <to = 2> (best)
}
"""


def in_files() -> dict[str, Way]:
    """The methods of exported files, with the installed engines."""
    opset = [onnx.helper.make_opsetid("", 20)]
    every = onnx.helper.make_model(onnx.parser.parse_graph(EVERY_CLASS), opset_imports=opset)
    some = labels_model(ScoreGrid(FACTOR, SHIFT), every)
    for model in (every, some):
        model.ir_version = 10
    files = {"file": some, "file, all logits": every}
    ways = {f"{name}, ONNX Runtime": in_onnxruntime(model) for name, model in files.items()}
    if find_spec("openvino") is not None:
        ways["file, OpenVINO"] = in_openvino(some)
    return ways


def in_onnxruntime(model: onnx.ModelProto) -> Way:
    """A model's labels, in one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda scores, size: session.run(None, inputs(scores, size))[0][0]


def in_openvino(model: onnx.ModelProto) -> Way:
    """The same in OpenVINO."""
    core = import_openvino().Core()
    part = core.read_model(model.SerializeToString())
    options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(part, "CPU", options)
    return lambda scores, size: np.array(compiled(inputs(scores, size))[0][0])


def inputs(scores: torch.Tensor, size: Size) -> dict[str, np.ndarray]:
    """The inputs of the graphs; only the size of the images is used."""
    return {"scores": scores.numpy(), "images": np.zeros((1, *size, 3), np.uint8)}


def timed(way: Way, scores: torch.Tensor, size: Size) -> tuple[float, np.ndarray]:
    """CPU seconds, and labels."""
    begin = time.process_time()
    labels = way(scores, size)
    return time.process_time() - begin, labels


if __name__ == "__main__":
    main()
