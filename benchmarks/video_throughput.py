"""Compare the speed of `fcnseg infer` on a video with its bare network's and other programs'.

    python benchmarks/video_throughput.py CLIP --models MODEL ... [--short-sides N ...]
        [--precisions f32 bf16] [--frames N] [--rounds N] [--int8 FILE ...] [--onnx FILE ...]
        [--ultralytics WEIGHTS ...] [--accuracy NAME=MIOU ...] [--plot FILE.svg]

Every round runs each program once, in a process of its own, so that other load on the machine
affects all alike; medians and ranges over the rounds are printed.

    MODEL, ENGINE                  `fcnseg bench`: the bare engine in each of --precisions (f32 is
                                   not named), every stage alone, and
                                   all that `infer` runs, an overlay video written; the
                                   network sees frames at the video's own size, or with their
                                   short side resized to each of --short-sides
    FILE, int8                     the same with a file of `fcnseg export --precision int8`, which
                                   resizes frames as it was exported
    plain loop                     the first model in a loop of torch and OpenCV, one step after the
                                   other; with --onnx the same with other networks in ONNX Runtime
    ultralytics, WEIGHTS           its own prediction of a video, saving, with a checkpoint or a
                                   file that it has exported

Core-milliseconds per megapixel are the CPU time of a frame over all threads, from decoding to the
written file, divided by its pixels. The other programs, and how to make files for --onnx:
video_peers.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

STAGES = ("decode", "preprocess", "network", "scores", "argmax", "draw", "encode", "total")

NONE = {"core_ms": float("nan")}

PEERS = Path(__file__).with_name("video_peers.py")

Rounds = list[dict[str, Any]]


def main() -> None:
    """Run all programs, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="checkpoints")
    parser.add_argument("--engines", nargs="+", default=["torch", "onnxruntime", "openvino"])
    parser.add_argument(
        "--short-sides", type=int, nargs="+", default=[0], help="of the models; 0: the video's"
    )
    parser.add_argument("--precisions", nargs="+", default=["f32"], help="of the models")
    parser.add_argument("--frames", type=int, default=0, help="of the clip; 0: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--int8", type=Path, nargs="+", default=[], help="models as `fcnseg export` rounded them"
    )
    parser.add_argument("--onnx", type=Path, nargs="+", default=[], help="other networks")
    parser.add_argument("--ultralytics", type=Path, nargs="+", default=[], help="its weights")
    parser.add_argument(
        "--accuracy", nargs="+", default=[], type=_accuracy, metavar="NAME=MIOU",
        help="by the names of the table",
    )  # fmt: skip
    parser.add_argument(
        "--plot", type=Path, help="cost of each, with its mIoU, as SVG; needs matplotlib"
    )
    chosen = parser.parse_args()
    found = run_rounds(programs(chosen), chosen.rounds)
    costs = cost_per_megapixel(found)
    accuracy = dict(chosen.accuracy)
    print(table(found, costs, accuracy))
    if chosen.plot:
        plot(costs, accuracy, chosen.plot)


def _accuracy(text: str) -> tuple[str, float]:
    name, equals, miou = text.rpartition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text}: NAME=MIOU is expected")
    return name, float(miou)


def programs(chosen: argparse.Namespace) -> dict[str, Callable[[], dict[str, Any]]]:
    """The programs that are compared, by name."""
    clip, frames = str(chosen.clip), str(chosen.frames)

    def ours(file: Path, *options: str) -> Callable[[], dict[str, Any]]:
        command = [sys.executable, "-m", "fcnseg", "bench", str(file), clip, "--json", *options]
        if chosen.frames:
            command += ["--frames", frames]
        return lambda: run(command)

    def theirs(task: str, file: Path) -> Callable[[], dict[str, Any]]:
        return lambda: run([sys.executable, str(PEERS), task, str(file), clip, frames])

    compared = {
        _named(model.stem, engine, side, precision): ours(
            model, "--short-side", str(side), "--engine", engine, "--precision", precision
        )
        for model in chosen.models
        for engine in chosen.engines
        for side in chosen.short_sides
        for precision in chosen.precisions
    }
    compared |= {f"{_name(file)}, int8": ours(file) for file in chosen.int8}
    compared["plain loop"] = theirs("loop", chosen.models[0])
    compared |= {f"plain loop, {_name(file)}": theirs("loop", file) for file in chosen.onnx}
    for file in chosen.ultralytics:
        compared[f"ultralytics, {file.name}"] = theirs("ultralytics", file)
    return compared


def _named(model: str, engine: str, side: int, precision: str) -> str:
    parts = [model, engine, f"{side} px" if side else "", precision if precision != "f32" else ""]
    return ", ".join(filter(None, parts))


def _name(file: Path) -> str:
    return file.name.partition(".")[0]


def run(command: Sequence[str]) -> dict[str, Any]:
    """The JSON object that a command prints last."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} ... failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def run_rounds(compared: dict[str, Callable[[], dict[str, Any]]], rounds: int) -> dict[str, Rounds]:
    """The report of each program in each round."""
    found: dict[str, Rounds] = {name: [] for name in compared}
    for number in range(rounds):
        for name, measure in compared.items():
            found[name].append(measure())
            fps = found[name][-1]["end_to_end_fps"]
            print(f"round {number + 1}  {name:12s} {fps:7.2f} frames/s", file=sys.stderr)
    return found


def cost_per_megapixel(found: dict[str, Rounds]) -> dict[str, list[float]]:
    """Core-milliseconds per megapixel of each program and round, for the same frames."""
    height, width = next(one["size"] for [one, *_] in found.values() if "size" in one)
    pixels, costs = height * width, {}
    for name, rounds in found.items():
        whole = [r["stages"]["total"] if "stages" in r else r for r in rounds]
        costs[name] = [1e6 * one["core_ms"] / pixels for one in whole]
    return costs


def table(
    found: dict[str, Rounds], costs: dict[str, list[float]], accuracy: dict[str, float]
) -> str:
    """Markdown: speeds and costs of all, ratios of ours, and the cost of a frame by stages."""
    speeds = {name: [r["end_to_end_fps"] for r in rounds] for name, rounds in found.items()}
    lines = ["| | frames/s | core-ms per megapixel | mIoU |", "|---|---|---|---|"]
    for name, values in speeds.items():
        miou = f"{accuracy[name]:.1f}" if name in accuracy else ""
        lines.append(f"| {name} | {_spread(values, 2)} | {_spread(costs[name], 0)} | {miou} |")
    ours = {name: rounds for name, rounds in found.items() if "stages" in rounds[0]}
    lines += [
        "",
        "| | bare engine | limit | of the limit | of the bare engine | of the limit to scores |",
    ]
    lines.append("|---|---|---|---|---|---|")
    for name, rounds in ours.items():
        cells = [f"{median_of(rounds, key):.2f}" for key in ("model_fps", "limit_fps")]
        of_bare = statistics.median(r["end_to_end_fps"] / r["model_fps"] for r in rounds)
        strict = statistics.median(map(ratio_to_scores, rounds))
        cells += [f"{median_of(rounds, 'ratio'):.3f}", f"{of_bare:.3f}", f"{strict:.3f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", f"| core-ms a frame | {' | '.join(STAGES)} |", "|---" * (len(STAGES) + 1) + "|"]
    for name, rounds in ours.items():
        stages = [
            statistics.median(r["stages"].get(stage, NONE)["core_ms"] for r in rounds)
            for stage in STAGES
        ]
        lines.append(f"| {name} | {' | '.join(f'{stage:.1f}' for stage in stages)} |")
    others = {name: statistics.median(v) for name, v in speeds.items() if name not in ours}
    lines += [
        "",
        f"| times the frames/s of | {' | '.join(others)} |",
        "|---" * (len(others) + 1) + "|",
    ]
    for name in ours:
        speed = statistics.median(speeds[name])
        lines.append(f"| {name} | {' | '.join(f'{speed / o:.2f}' for o in others.values())} |")
    return "\n".join(lines)


def _spread(values: Sequence[float], digits: int) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def plot(costs: dict[str, list[float]], accuracy: dict[str, float], file: Path) -> None:
    """Plot median and range of core-milliseconds per megapixel, with mIoU if known."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    middle = {name: statistics.median(values) for name, values in costs.items()}
    figure, axes = pyplot.subplots(figsize=(8, 0.3 * len(costs) + 0.7), layout="constrained")
    for name in sorted(middle, key=lambda name: -middle[name]):  # the cheapest on top
        color = "C0" if name in accuracy else "0.5"
        axes.plot([min(costs[name]), max(costs[name])], [name, name], color=color)
        axes.plot(middle[name], name, "o", color=color)
        text = f"{middle[name]:.0f}"
        text += f", mIoU {accuracy[name]:.1f} %" if name in accuracy else ""
        axes.annotate(text, (max(costs[name]), name), (7, -3), textcoords="offset points")
    axes.set(xlabel="core-milliseconds per megapixel (less is better)")
    axes.set_xlim(0, 1.15 * max(map(max, costs.values())))  # the last row's text has room
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    figure.savefig(file, metadata={"Date": None})


def ratio_to_scores(reported: dict[str, Any]) -> float:
    """The ratio to a stricter limit: the engine computes scores only, as in `infer`."""
    stages = reported["stages"]
    fixed = stages["decode"]["core_ms"] + stages["encode"]["core_ms"]
    least = stages.get("scores", stages["network"])["core_ms"]
    return float(reported["ratio"] * (least + fixed) / (stages["network"]["core_ms"] + fixed))


def median_of(rounds: Sequence[dict[str, Any]], key: str) -> float:
    """The median over the rounds."""
    return float(statistics.median(one[key] for one in rounds))


if __name__ == "__main__":
    main()
