"""Compare f32, f16 and int8 files of a model with its checkpoint, on validation images.

    python benchmarks/export_precisions.py --model camvid.safetensors --data DATA [--images 24]

For each: size, proportion of pixels with the same label as the checkpoint in PyTorch, mIoU, and
milliseconds per image (labels at full size, one image at a time, one core, alternating in one
process; medians). f32 and f16 run in ONNX Runtime, int8 in both runtimes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fcnseg
from fcnseg.commands.export import export
from fcnseg.config import ExportConfig
from fcnseg.datasets.describe import describe
from fcnseg.inference.evaluation import dataset_for
from fcnseg.inference.loading import load
from fcnseg.inference.quantized import spread
from fcnseg.metrics import Confusion, Report

RUNS = (
    ("f32", "onnxruntime"),
    ("f16", "onnxruntime"),
    ("int8", "onnxruntime"),
    ("int8", "openvino"),
)


def main() -> None:
    """Export, run alternately, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=24)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    original = load(chosen.model, engine="torch", precision="f32")
    val = dataset_for(original, describe(chosen.data), "val")
    with tempfile.TemporaryDirectory() as folder:
        files = exported(chosen.model, chosen.data, Path(folder))
        models = {"checkpoint, torch": original}
        for precision, engine in RUNS:
            models[f"{precision}, {engine}"] = load(files[precision], engine=engine)
        sizes = {name: model.path.stat().st_size / 1e6 for name, model in models.items()}
        rows = compared(models, val, spread(len(val), chosen.images))
    print(f"{chosen.model.name}, {min(chosen.images, len(val))} of {len(val)} validation images\n")
    print("| file, engine | MB | equal labels | mIoU | ms per image | times the checkpoint's |")
    print("|---|---|---|---|---|---|")
    base = rows["checkpoint, torch"]["ms"]
    for name, row in rows.items():
        print(
            f"| {name} | {sizes[name]:.2f} | {100 * row['equal']:.3f} % | "
            f"{100 * row['miou']:.2f} | {row['ms']:.0f} | {base / row['ms']:.2f} |"
        )


def exported(model: Path, data: Path, folder: Path) -> dict[str, Path]:
    """Export a file of each precision."""
    files = {}
    for precision in ("f32", "f16", "int8"):
        more: dict[str, Any] = {"data": data} if precision == "int8" else {}
        out = folder / f"{precision}.onnx"
        config = ExportConfig(model=str(model), precision=precision, out=out, **more)
        files[precision] = export(config).path
        print(f"{precision} written, fcnseg {fcnseg.__version__}", flush=True)
    return files


def compared(models: dict[str, Any], val: Any, indices: list[int]) -> dict[str, dict[str, float]]:
    """Equal labels with the first model, mIoU and milliseconds of each."""
    matrices = {name: Confusion(len(val.classes)) for name in models}
    times: dict[str, list[float]] = {name: [] for name in models}
    same, pixels = dict.fromkeys(models, 0), 0
    for index in indices:
        sample, labels = val[index], {}
        for name, model in models.items():
            begin = time.perf_counter()
            labels[name] = model.predict([sample.image])[0].labels
            times[name].append(time.perf_counter() - begin)
            matrices[name].add(sample.labels, labels[name])
        first = next(iter(labels.values()))
        pixels += first.size
        for name, found in labels.items():
            same[name] += int(np.sum(found == first))
    return {
        name: {
            "equal": same[name] / pixels,
            "miou": Report.of(matrices[name].matrix, val.classes, len(indices)).miou,
            "ms": 1000 * statistics.median(times[name]),
        }
        for name in models
    }


if __name__ == "__main__":
    main()
