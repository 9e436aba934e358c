"""Compare the speed of `fcnseg infer` on a video with its bare network's and other programs'.

    python benchmarks/video_throughput.py MODEL CLIP [--frames N] [--rounds N]
        [--int8 FILE ...] [--ultralytics PYTHON]

Every round runs each program once, in a process of its own, so that other load on the machine
affects all alike; medians and ranges over the rounds are printed.

    torch, onnxruntime, openvino   `fcnseg bench`: the bare engine, every stage alone, and all
                                   that `infer` runs, an overlay video written; the
                                   network sees frames at the video's own size
    int8, NAME                     the same with a file of `fcnseg export --precision int8`
    plain loop                     the same network in a loop of torch and OpenCV: read, convert,
                                   forward, argmax, colour, blend, write, one after the other
    ultralytics                    its own prediction of a video with yolo26n-sem, saving; with
                                   random weights when its own can't be had, which take as long
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

STAGES = ("decode", "preprocess", "network", "scores", "argmax", "draw", "encode", "total")

NONE = {"core_ms": float("nan")}

ULTRALYTICS = """
import json, sys, time
import cv2
from ultralytics import YOLO
clip, frames, weights, out = sys.argv[1:]
model = YOLO(weights)
options = {"save": True, "stream": True, "device": "cpu", "verbose": False, "project": out}
capture = cv2.VideoCapture(clip)
for _ in range(3):
    list(model.predict(capture.read()[1], **options))
began = time.perf_counter()
done = 0
for _ in model.predict(clip, **options):
    done += 1
    if done == int(frames):
        break
print(json.dumps({"end_to_end_fps": done / (time.perf_counter() - began)}))
"""


def main() -> None:
    """Run all programs, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="a checkpoint")
    parser.add_argument("clip", type=Path)
    parser.add_argument("--engines", nargs="+", default=["torch", "onnxruntime", "openvino"])
    parser.add_argument("--frames", type=int, default=0, help="of the clip; 0: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--int8", type=Path, nargs="+", default=[], help="models as `fcnseg export` rounded them"
    )
    parser.add_argument("--ultralytics", help="a Python that has ultralytics")
    parser.add_argument("--weights", default="yolo26n-sem.pt", help="of ultralytics")
    parser.add_argument("--plain", action="store_true", help="only the plain loop, as JSON")
    chosen = parser.parse_args()
    if chosen.plain:
        fps = plain_loop(chosen.model, chosen.clip, chosen.frames)
        print(json.dumps({"end_to_end_fps": fps}))
        return
    found = run_rounds(programs(chosen), chosen.rounds)
    print(table(found))


def programs(chosen: argparse.Namespace) -> dict[str, Callable[[], dict[str, Any]]]:
    """The programs that are compared, by name."""
    model, clip, frames = str(chosen.model), str(chosen.clip), str(chosen.frames)

    def ours(file: str, *options: str) -> Callable[[], dict[str, Any]]:
        command = [sys.executable, "-m", "fcnseg", "bench", file, clip, *options]
        command += ["--short-side", "0", "--json"]
        if chosen.frames:
            command += ["--frames", frames]
        return lambda: run(command)

    compared = {
        engine: ours(model, "--engine", engine, "--precision", "f32") for engine in chosen.engines
    }
    for file in chosen.int8:
        compared[f"int8, {file.name.partition('.')[0]}"] = ours(str(file))
    itself = [sys.executable, __file__, model, clip, "--frames", frames, "--plain"]
    compared["plain loop"] = lambda: run(itself)
    if chosen.ultralytics:
        python, weights = chosen.ultralytics, chosen.weights

        def theirs() -> dict[str, Any]:
            with tempfile.TemporaryDirectory() as out:
                return run([python, "-c", ULTRALYTICS, clip, frames, weights, out])

        compared["ultralytics"] = theirs
    return compared


def run(command: Sequence[str]) -> dict[str, Any]:
    """The JSON object that a command prints last."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} ... failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def run_rounds(
    compared: dict[str, Callable[[], dict[str, Any]]], rounds: int
) -> dict[str, list[dict[str, Any]]]:
    """What each reported in each round."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in compared}
    for number in range(rounds):
        for name, measure in compared.items():
            found[name].append(measure())
            fps = found[name][-1]["end_to_end_fps"]
            print(f"round {number + 1}  {name:12s} {fps:7.2f} frames/s", file=sys.stderr)
    return found


def plain_loop(model: Path, clip: Path, frames: int) -> float:
    """Frames per second of the loop that most would write first; a video is written."""
    import cv2
    import numpy as np
    import torch

    from fcnseg.classes import ClassMap
    from fcnseg.models.checkpoint import Checkpoint

    checkpoint = Checkpoint.load(model)
    network, classes = checkpoint.build().eval(), checkpoint.classes
    assert isinstance(classes, ClassMap)
    colors = np.array(classes.colors, np.uint8)[:, ::-1]
    preprocess = checkpoint.preprocess
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (preprocess.mean, preprocess.std))
    capture = cv2.VideoCapture(str(clip))
    size = (int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
    done, began = 0, 0.0
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        code = cv2.VideoWriter.fourcc(*"mp4v")
        writer = cv2.VideoWriter(str(Path(folder) / "out.mp4"), code, 25.0, size)
        while True:
            there, frame = capture.read()
            if not there or done == frames > 0:
                break
            rgb = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            image = torch.from_numpy(rgb).permute(2, 0, 1).float() / 255
            labels = network(((image - mean) / std)[None])[0].argmax(0).byte().numpy()
            writer.write(cv2.addWeighted(frame, 0.5, colors[labels], 0.5, 0))
            done += 1
            if done == 1:  # the first one chooses kernels
                began = time.perf_counter()
        writer.release()
    return (done - 1) / (time.perf_counter() - began)


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: speeds and ratios, then what a frame costs, stage by stage."""
    lines = [
        "| | frames/s | range | bare engine | limit | of the limit | of the bare engine "
        "| of the limit to scores |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, rounds in found.items():
        speeds = [one["end_to_end_fps"] for one in rounds]
        cells = [f"{statistics.median(speeds):.2f}", f"{min(speeds):.2f} to {max(speeds):.2f}"]
        if "model_fps" in rounds[0]:
            cells += [f"{median_of(rounds, key):.2f}" for key in ("model_fps", "limit_fps")]
            of_bare = statistics.median(r["end_to_end_fps"] / r["model_fps"] for r in rounds)
            strict = statistics.median(map(ratio_to_scores, rounds))
            cells += [f"{median_of(rounds, 'ratio'):.3f}", f"{of_bare:.3f}", f"{strict:.3f}"]
        else:
            cells += [""] * 5
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", f"| core-ms a frame | {' | '.join(STAGES)} |", "|---" * (len(STAGES) + 1) + "|"]
    for name, rounds in found.items():
        if "stages" in rounds[0]:
            costs = [
                statistics.median(r["stages"].get(stage, NONE)["core_ms"] for r in rounds)
                for stage in STAGES
            ]
            lines.append(f"| {name} | {' | '.join(f'{cost:.1f}' for cost in costs)} |")
    speeds = {name: median_of(rounds, "end_to_end_fps") for name, rounds in found.items()}
    best = max((name for name in speeds if "model_fps" in found[name][0]), key=speeds.__getitem__)
    lines += ["", f"The fastest here is {best}."]
    for name in ("plain loop", "ultralytics"):
        if name in speeds:
            factors = ", ".join(
                f"{engine} {speeds[engine] / speeds[name]:.2f}"
                for engine in speeds
                if "model_fps" in found[engine][0]
            )
            lines.append(f"Times the frames/s of {name}: {factors}.")
    return "\n".join(lines)


def ratio_to_scores(reported: dict[str, Any]) -> float:
    """Of a stricter limit: the engine stops where `infer` lets it stop, before most logits."""
    stages = reported["stages"]
    fixed = stages["decode"]["core_ms"] + stages["encode"]["core_ms"]
    least = stages.get("scores", stages["network"])["core_ms"]
    return float(reported["ratio"] * (least + fixed) / (stages["network"]["core_ms"] + fixed))


def median_of(rounds: Sequence[dict[str, Any]], key: str) -> float:
    """The median over the rounds."""
    return float(statistics.median(one[key] for one in rounds))


if __name__ == "__main__":
    main()
