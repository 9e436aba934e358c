"""Results printed for people, within 80 columns. `--json` prints the same as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from fcnseg.cli.console import duration
from fcnseg.cli.terminal import bars, console, line

BAR = 20
"""Characters of a full bar."""

SEVERITIES = {"error": "bold red", "warning": "yellow", "info": "cyan"}


def show_check(result: Any) -> None:
    """What a folder is, and each finding with its repair."""
    found = result.as_dict()
    facts = {
        "layout": found["layout"],
        "pairs": str(found["pairs"]),
        "splits": "  ".join(f"{name} {count}" for name, count in found["splits"].items()),
        "classes": f"{len(found['classes'])}: {', '.join(found['classes'])}",
        "ignore": "none" if found["ignore_index"] is None else str(found["ignore_index"]),
    }
    facts |= {f"because {number}": why for number, why in enumerate(found["why"], 1)}
    _print(_facts(facts))
    _print(_frequencies(found["frequencies"]))
    if not found["findings"]:
        _print("Nothing wrong was found.")
    for finding in found["findings"]:
        _show_finding(finding)
    if found["suggested"]:
        _show_suggestion(found["suggested"])


def _frequencies(classes: Sequence[dict[str, Any]]) -> Table:
    """Each class's share of the pixels with a bar, and in how many pictures of each split it is."""
    splits = [name for name in ("train", "val", "test") if any(c["images"][name] for c in classes)]
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    table.add_column("pixels", justify="right")
    table.add_column("")
    for name in splits:
        table.add_column(name, justify="right")
    most = max((row["share"] for row in classes), default=0) or 1
    for row in classes:
        pictures = [f"{row['images'][name]:,}" for name in splits]
        share = f"{100 * row['share']:.2f} %"
        table.add_row(row["name"], share, _bar(row["share"] / most), *pictures)
    return table


def _show_suggestion(suggested: dict[str, Any]) -> None:
    """What to train with, each option with its reason."""
    height, width = suggested["crop"]
    values = {
        "crop": f"--crop {height} {width}",
        "batch": f"--batch {suggested['batch']}",
        "epochs": f"--epochs {suggested['epochs']}",
        "class_weights": f"--class-weights {suggested['class_weights']}",
        "upsample": f"--upsample {suggested['upsample']}",
    }
    reasons = suggested["reasons"]
    _print(_facts({flag: reasons[name] for name, flag in values.items() if name in reasons}))


def _show_finding(finding: dict[str, Any]) -> None:
    severity = (f"{finding['severity']} ", SEVERITIES[finding["severity"]])
    _print(line(severity, (finding["code"], "bold"), ": ", finding["message"]))
    files = finding["files"]
    if files:
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        _print(line((f"  {', '.join(str(file) for file in files[:3])}{more}", "dim")))
    if finding["repair"]:
        _print(line("  ", ("repair: ", "cyan"), finding["repair"]))


def show_train(result: Any) -> None:
    """Where the run is and what to do with it."""
    _print(f"Best mIoU {result.miou:.4f}: {result.best}")
    _print(f"Next: fcnseg infer IMAGES_OR_VIDEO -m {result.run}")


def show_eval(result: Any) -> None:
    """IoU and accuracy per class, then the means."""
    report = result.as_dict()
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    for heading in ("IoU", "accuracy", "pixels"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for row in report["classes"]:
        table.add_row(
            row["name"],
            _share(row["iou"]),
            _share(row["accuracy"]),
            f"{row['pixels']:,}",
            _bar(row["iou"] or 0.0),
        )
    _print(table)
    _print(
        f"mIoU {report['miou']:.4f}   pixel accuracy {report['pixel_accuracy']:.4f}   "
        f"mean accuracy {report['mean_accuracy']:.4f}"
    )
    _print(f"frequency-weighted IoU {report['fw_iou']:.4f}   images {report['images']}")
    _print(f"mIoU is {report['miou_rule']}.")
    for name, pixels in report["absent_predicted"].items():
        _print(f"{name} is predicted on {pixels:,} pixels, but has no labels.")
    if report["absent_predicted"]:
        _print(f"With such classes counted as 0, mIoU would be {report['miou_with_absent']:.4f}.")
    for problem in report["problems"]:
        _print(line(("error in the dataset: ", "bold red"), problem))


def show_infer(result: Any) -> None:
    """How many frames, how fast, and where they are: on stderr, for stdout may carry the shares."""
    _tell(
        f"{result.frames_out} of {result.frames_in} frames in {duration(result.seconds)}, "
        f"{result.fps:.1f} frames/s"
    )
    if result.flicker is not None:
        _tell(
            f"flicker {100 * result.flicker:.2f} % of pixels a frame, "
            f"{100 * result.flicker_raw:.2f} % before --smooth"
        )
    _show_failed(result.failed)
    for path in result.outputs:
        _tell(str(path))


def show_viz(result: Any) -> None:
    """Where the pictures are."""
    _show_failed(result.failed)
    _show_outputs(result.outputs)


_USES = {
    **dict.fromkeys(("onnx", "openvino"), "Use it: fcnseg infer IMAGES_OR_VIDEO -m {path}"),
    "torchscript": "Use it in your own program: torch.jit.load({path!r})",
    "torch-export": "Use it in your own program: torch.export.load({path!r}).module()",
}
"""What can be done with an exported file; fcnseg runs none that can hold code."""


def show_export(result: Any) -> None:
    """The file and the proof that it says the same."""
    report = result.as_dict()
    parity, cost = report["parity"], report["int8"]
    kind = report["format"] if cost is None else f"{report['format']}, int8"
    _print(f"{report['path']}  ({report['size_bytes'] / 1e6:.1f} MB, {kind})")
    if parity is not None:
        _print(
            f"Same labels as the original on {100 * parity['label_agreement']:.3f} % of pixels, "
            f"largest score difference {parity['max_abs_diff']:.2g}."
        )
    if cost is not None:
        _print(
            f"On {cost['images']} validation images: mIoU {cost['miou']:.4f}, the original's "
            f"{cost['miou_before']:.4f}; same labels on {100 * cost['label_agreement']:.2f} % of "
            "pixels."
        )
    _print(_USES[report["format"]].format(path=report["path"]))


def show_bench(result: Any) -> None:
    """Speeds, and how near the machine's limit they are."""
    report = result.as_dict()
    _print(f"{report['engine']}, {report['precision']}, {report['device']}")
    _print(
        _facts(
            {
                "network alone": f"{report['model_fps']:.1f} frames/s",
                "end to end": f"{report['end_to_end_fps']:.1f} frames/s",
                "limit here": f"{report['limit_fps']:.1f} frames/s",
                "end to end / limit": f"{report['ratio']:.2f}",
            }
        )
    )


def show_demo(result: Any) -> None:
    """Five lines: what is where, and how to do it with one's own folder."""
    _print(f"1. A data set was drawn: {result.data}  ({result.pairs} pairs, {result.classes})")
    _print(f"2. A network was trained on it: {result.model}  (val mIoU {result.miou:.3f})")
    _print(f"3. A clip was segmented: {result.video}  ({result.frames} frames)")
    _print(f"4. Its heatmaps show where it saw what: {result.heatmaps}")
    _print("5. Yours: fcnseg train FOLDER, then fcnseg infer VIDEO; FOLDER has images/ and labels/")


def show_doctor(rows: Sequence[Any]) -> None:
    """One line a part, and what to do where something is missing."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for row in rows:
        mark = line(("ok", "green") if row.ok else ("--", "yellow"))
        table.add_row(mark, row.part, row.found)
        if row.advice:
            table.add_row("", "", line((row.advice, "dim")))
    _print(table)


def _show_outputs(outputs: Sequence[Any]) -> None:
    for path in outputs[:4]:
        _print(str(path))
    if len(outputs) > 4:
        _print(f"... {len(outputs) - 4} more")


def _show_failed(failed: Sequence[Any]) -> None:
    for failure in failed:
        name, reason = failure if isinstance(failure, tuple) else (failure["name"], failure["why"])
        _tell(line(("failed: ", "red"), f"{name}: {reason}"))


def _facts(facts: dict[str, str]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, value)
    return table


def _share(value: float | None) -> str:
    """A dash for a class that does not occur in the labels."""
    return "-" if value is None else f"{100 * value:.2f}"


def _bar(share: float) -> Text:
    full, rest = bars()
    return line((full * round(share * BAR) + rest * (BAR - round(share * BAR)), "dim"))


def _print(what: RenderableType) -> None:
    console().print(what, soft_wrap=isinstance(what, str))


def _tell(what: str | Text) -> None:
    """On standard error, as long as it is."""
    console(stderr=True).print(what, soft_wrap=True)
