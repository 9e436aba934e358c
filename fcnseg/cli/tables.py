"""Results as text within 80 columns; `--json` prints the same as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from fcnseg.classes import is_unnamed
from fcnseg.cli import bars, duration, line, plain_console, program, runnable
from fcnseg.errors import counted, percent, printable, quoted, with_name

BAR = 20
"""Length of a full bar, in characters."""

SEVERITIES = {"error": "bold red", "warning": "yellow", "info": "cyan"}


def show_check(result: Any) -> None:
    """Print what a dataset folder contains, and each finding with its fix."""
    found = result.as_dict()
    unnamed = is_unnamed(found["classes"])
    facts = {
        "layout": found["layout"],
        "pairs": str(found["pairs"]),
        "splits": "  ".join(f"{name} {count}" for name, count in found["splits"].items()),
        "classes": f"{len(found['classes'])}: {', '.join(found['classes'])}"
        + "; to name them, put a classes.txt into the folder, a name a line" * unnamed,
        "ignore": "none" if found["ignore_index"] is None else str(found["ignore_index"]),
    }
    facts |= {f"reason {number}": why for number, why in enumerate(found["why"], 1)}
    _print(printable(found["summary"]))
    _print(_facts(facts))
    _print(_frequencies(found["frequencies"]))
    _print(f"{result.count}." if found["findings"] else "Nothing wrong was found.")
    for finding in found["findings"]:
        _show_finding(finding)
    if found["suggested"]:
        _show_suggestion(found["suggested"])
    if result.training_time:
        _print(result.training_time)


def _frequencies(classes: Sequence[dict[str, Any]]) -> Table:
    """Each class's percentage of the pixels, as a number and a bar; its images in each split."""
    splits = [name for name in ("train", "val", "test") if any(c["images"][name] for c in classes)]
    table = _table("class", "pixels", "", *splits)
    for row in classes:
        images = [f"{row['images'][name]:,}" for name in splits]
        table.add_row(row["name"], percent(row["share"]), _bar(row["share"]), *images)
    return table


def _show_suggestion(suggested: dict[str, Any]) -> None:
    """Print the suggested training options, each with its reason."""
    values = {**suggested, "crop": "{} {}".format(*suggested["crop"])}
    _print("Chosen by train unless given:")
    _print(
        _facts(
            {
                f"--{name.replace('_', '-')} {values[name]}": why
                for name, why in suggested["reasons"].items()
            }
        )
    )


def _show_finding(finding: dict[str, Any]) -> None:
    note = finding["severity"] == "info"
    severity = ("note " if note else f"{finding['severity']} ", SEVERITIES[finding["severity"]])
    _print(line(severity, (finding["code"], "bold"), ": ", finding["message"]))
    files = finding["files"]
    if files:
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        _print(line((f"  {', '.join(str(file) for file in files[:3])}{more}", "dim")))
    if finding["repair"]:
        _print(line("  ", ("hint: " if note else "fix: ", "cyan"), finding["repair"]))


def show_train(result: Any) -> None:
    """Print the best score and the next command; for several runs, the spread of the scores."""
    if hasattr(result, "runs"):
        _show_spread(result.report)
    best = max((one.miou for one in getattr(result, "runs", ())), default=result.miou)
    _print(f"Best mIoU {percent(best)}: {result.best}")
    if (page := result.run / "report.html").exists():
        _print(f"Report: {page}")
    _print(f"Next: {program()} infer IMAGES_OR_VIDEO -m {quoted(result.run)}")


def _show_spread(summary: dict[str, Any]) -> None:
    table = _table(f"{len(summary['runs'])} {summary['kind']}", "mean", "std", "min", "max")
    rows = {"mIoU": summary["miou"], "pixel accuracy": summary["pixel_accuracy"]}
    for name, one in {**rows, **summary["iou"]}.items():
        table.add_row(name, *(percent(one[key]) for key in ("mean", "std", "min", "max")))
    _print(table)


def show_eval(result: Any) -> None:
    """Print each class's scores, their means, and the errors that reduce the mIoU."""
    report = result.as_dict()
    table = _table("class", "IoU", "", "precision", "recall", "boundary F1", "pixels")
    for row in report["classes"]:
        scores = (percent(row[key]) for key in ("precision", "recall", "boundary_f1"))
        bar = _bar(row["iou"] or 0.0, BAR // 2)
        table.add_row(row["name"], percent(row["iou"]), bar, *scores, f"{row['pixels']:,}")
    _print(table)
    _print(
        f"mIoU {percent(report['miou'])}   pixel accuracy {percent(report['pixel_accuracy'])}   "
        f"mean accuracy {percent(report['mean_accuracy'])}"
    )
    more = f", {len(result.unusable)} more can't be read" if result.unusable else ""
    _print(f"frequency-weighted IoU {percent(report['fw_iou'])}   images {report['images']}{more}")
    _print(
        f"mean Dice {percent(report['mean_dice'])}   boundary IoU "
        f"{percent(report['boundary_iou'])}   boundary F1 {percent(report['boundary_f1'])} "
        f"({report['protocol']['tolerance']} px)   ECE {percent(report['ece'])}"
    )
    missing = sorted(report["missing"].items(), key=lambda item: -(item[1] or 0))
    parts = ", ".join(f"{kind} {100 * (value or 0):.2f}" for kind, value in missing)
    _print(f"Missing to an mIoU of 100: {parts}")
    _print(f"mIoU is {report['miou_rule']}.")
    for name, pixels in report["absent_predicted"].items():
        _print(f"{name} is predicted on {pixels:,} pixels, but has no labels.")
    if report["absent_predicted"]:
        counted = percent(report["miou_with_absent"])
        _print(f"With such classes counted as 0, mIoU would be {counted}.")
    for problem in report["problems"]:
        _print(line(("error in the dataset: ", "bold red"), problem))
    _show_outputs(result.outputs)


def show_compare(result: Any) -> None:
    """Print each class's IoU by model, the differences, and the images that differ most."""
    found = result.as_dict()
    letters = list(found["models"])
    _print(_facts(found["models"]))
    differences = (f"{letter} - A" for letter in letters[1:])
    table = _table("class", *(f"{letter} IoU" for letter in letters), *differences)
    for row in result.rows:
        table.add_row(*row)
    _print(table)
    for one in found["differences"]:
        _print(one["verdict"])
    _print("Images where they differ most, in mIoU of each alone:")
    table = Table(box=None, pad_edge=False, show_header=False)
    for row in found["images"][:5]:
        table.add_row(row["name"], *map(percent, row["miou"]))
    _print(table)
    _show_outputs(result.outputs)


def show_review(result: Any) -> None:
    """Print the first regions or images, and the paths of the outputs."""
    found = result.as_dict()
    rows: list[tuple[str, ...]]
    if found["to_label"]:
        rows = [(row["name"], f"{row['uncertainty']:.3f}") for row in found["to_label"]]
        table = _table("image", "uncertainty", left=2)
        _print(f"Of {counted(found['images'], 'image')}, most worth labeling first:")
    else:
        table = _table("image", "labeled", "predicted", "pixels", "score", left=3)
        rows = [
            (row["name"], row["labelled"], row["predicted"], f"{row['area']:,}",
             f"{row['score']:.3f}")
            for row in found["suspects"]
        ]  # fmt: skip
        images = counted(found["images"], "image")
        _print(f"{counted(len(rows), 'region')} with labels that may be wrong, in {images}:")
    for row in rows[:10]:
        table.add_row(*row)
    _print(table)
    _show_outputs(result.outputs)


def show_infer(result: Any) -> None:
    """Print frame count, speed and outputs to stderr, as --shares may write to stdout."""
    _print_stderr(
        f"{result.frames_out} of {counted(result.frames_in, 'frame')} in "
        f"{duration(result.seconds)}, {result.fps:.1f} frames/s"
    )
    if result.flicker is not None:
        _print_stderr(
            f"flicker {percent(result.flicker)} of pixels per frame, "
            f"{percent(result.flicker_raw)} before --smooth"
        )
    _show_failed(result.failed)
    for path in result.outputs:
        _print_stderr(str(path))


def show_viz(result: Any) -> None:
    """Print the paths of the images."""
    _show_failed(result.failed)
    _show_outputs(result.outputs)


_USES = {
    **dict.fromkeys(
        ("onnx", "openvino", "litert", "executorch"),
        "Use it: fcnseg infer IMAGES_OR_VIDEO -m {quoted}",
    ),
    "torchscript": "Use it in your own program: torch.jit.load({path!r})",
    "bundle": "For other programs: unpack {quoted} and read contract.md in it",
    "web": "Serve it: python3 -m http.server --directory {quoted}",
    "torch-export": "Use it in your own program: torch.export.load({path!r}).module()",
}
"""How to use an exported file; fcnseg itself does not run formats that can contain code."""


def show_export(result: Any) -> None:
    """Print the file's path, and how its predictions compare with the checkpoint's."""
    report = result.as_dict()
    parity, cost = report["parity"], report["int8"]
    kind = report["format"] if cost is None else f"{report['format']}, int8"
    _print(f"{report['path']}  ({report['size_bytes'] / 1e6:.1f} MB, {kind})")
    if parity is not None:
        _print(
            f"Same labels as the original on {100 * parity['label_agreement']:.3f} % of pixels, "
            f"largest score difference {parity['max_abs_diff']:.2g}."
        )
        if parity["miou"] is not None:
            scaled = ", each scaled to several sizes" if len(parity["sizes"]) > 1 else ""
            _print(
                f"On {counted(parity['images'], 'validation image')}{scaled}: mIoU "
                f"{percent(parity['miou'])}, the original's {percent(parity['miou_before'])}."
            )
    if cost is not None:
        _print(
            f"On {counted(cost['images'], 'validation image')}: mIoU {percent(cost['miou'])}, "
            f"the original's {percent(cost['miou_before'])}; same labels on "
            f"{percent(cost['label_agreement'])} of pixels; "
            f"{cost['ms']:.1f} ms per image, in f32 {cost['ms_before']:.1f} ms."
        )
    path = report["path"]
    kind = "bundle" if path.endswith(".zip") else report["format"]
    _print(runnable(_USES[kind].format(path=path, quoted=quoted(path))))


def show_bench(result: Any) -> None:
    """Print the speeds, their definitions, and their ratio to the machine's limit."""
    report = result.as_dict()
    height, width = report["size"]
    _print(f"{report['engine']}, {report['precision']}, {report['device']}")
    _print(f"{counted(report['frames'], 'frame')} of {width}x{height}, batch {report['batch']}")
    speeds = {"network alone": "model_fps", "end to end": "end_to_end_fps", "limit": "limit_fps"}
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for name, key in speeds.items():
        table.add_row(name, f"{report[key]:.1f} frames/s", report["definitions"][key])
    table.add_row("end to end / limit", f"{100 * report['ratio']:.0f} %", "")
    _print(table)
    for remark in report["remarks"]:
        _print(remark)


def show_serve(result: Any) -> None:
    """Print the number of responses by HTTP status."""
    counts = result.as_dict()["requests"]
    _print(_facts({f"status {status}": f"{count:,}" for status, count in sorted(counts.items())}))


def show_demo(result: Any) -> None:
    """Print the scores, the paths of the outputs, and the commands for the user's own data."""
    if hasattr(result, "sections"):
        _show_paper(result)
        return
    _print("Scores of the model on the validation images:")
    show_eval(result.scores)
    facts = {
        "dataset": f"{result.data}  ({result.pairs} images; {result.classes})",
        "model": str(result.model),
        "video": f"{result.video}  ({result.frames} frames)",
        "heatmaps": str(result.heatmaps),
    }
    _print(_facts(facts))
    _print("Next, your own data: a folder with images/ and labels/")
    _print(f"  {program()} check FOLDER")
    _print(f"  {program()} train FOLDER")
    _print(f"  {program()} infer IMAGES_OR_VIDEO")


def _show_paper(result: Any) -> None:
    """Print the figures of each topic, and the path of the page with the images."""
    for number, section in enumerate(result.sections, start=1):
        _print(f"{number}. {section.title} ({section.place})")
        _print(_facts({f"   {name}": value for name, value in section.facts.items()}))
    _print(_facts({"page": str(result.index), "dataset": str(result.data)}))


def show_doctor(rows: Sequence[Any]) -> None:
    """Print one line per component, with advice for those that are missing."""
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


def _show_failed(failed: Sequence[tuple[str, str]]) -> None:
    for name, reason in failed:
        _print_stderr(line(("failed: ", "red"), with_name(name, reason)))


def _table(*headings: str, left: int = 1) -> Table:
    """An empty table; the first `left` columns are aligned left, the others right."""
    table = Table(box=None, pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number < left else "right")
    return table


def _facts(facts: dict[str, str]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, value)
    return table


def _bar(fraction: float, length: int = BAR) -> Text:
    """A bar of `length` characters, filled to a fraction in 0..1."""
    full, rest = bars()
    filled = round(fraction * length)
    return line((full * filled + rest * (length - filled), "dim"))


def _print(what: RenderableType) -> None:
    plain_console().print(what, soft_wrap=isinstance(what, str))


def _print_stderr(what: str | Text) -> None:
    """Print to standard error, without wrapping."""
    plain_console(stderr=True).print(what, soft_wrap=True)
