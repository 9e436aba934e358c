"""Scores as tables and charts.

Tables: CSV for spreadsheets (fractions), LaTeX and Markdown for papers (percent). Charts: inline
SVG, in which text is text, in the page's color.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fcnseg.errors import MissingExtra, cannot_write, printable, to_bytes
from fcnseg.files import is_stdout
from fcnseg.inference.review import Suspect
from fcnseg.io.images import write_bytes
from fcnseg.metrics.scores import Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = {
    "IoU": "iou",
    "Dice": "dice",
    "Precision": "precision",
    "Recall": "recall",
    "Boundary IoU": "boundary_iou",
    "Boundary F1": "boundary_f1",
}
"""Headings of the table of classes, and the keys of Scores.as_dict()["classes"]."""

MEANS = {
    "iou": "miou",
    "dice": "mean_dice",
    "precision": "mean_precision",
    "recall": "mean_accuracy",
}
"""Keys of a class -> keys of the mean, where the names differ."""

Cell = str | int | float | None


def image_table(scores: Scores) -> str:
    """CSV: a line per image, worst mIoU first; empty cells for classes without pixels.

    Scores are of the single image, as fractions.
    """
    heading = ["image", "height", "width", "ignored", "miou", "pixel_accuracy", "boundary_f1"]
    rows: list[tuple[float, list[Cell]]] = []
    for image in scores.images:
        report = image.report
        means = (report.miou, report.pixel_accuracy, image.outline_f1)
        cells: list[Cell] = [printable(image.name), *image.size, image.ignored, *means]
        cells += [one.iou for one in report.classes]
        rows.append((float(np.nan_to_num(report.miou, nan=2)), cells))  # unlabelled: last
    rows.sort(key=lambda row: row[0])
    heading += [f"iou {printable(name)}" for name in scores.classes]
    return _csv(heading, (cells for _, cells in rows))


def comparison_table(
    models: Mapping[str, str], images: Iterable[tuple[str, Sequence[float]]]
) -> str:
    """CSV: a line per image with the mIoU of each model, as fractions."""
    heading = [f"{letter} {printable(path)}" for letter, path in models.items()]
    return _csv(["image", *heading], ([printable(name), *values] for name, values in images))


def suspects_table(
    suspects: Sequence[Suspect], classes: Sequence[str], files: Mapping[str, str]
) -> str:
    """CSV: a line per region whose labels may be wrong. files: label files by image name."""
    heading = ["image", "labels", "labelled", "predicted", "score", "area"]
    heading += ["left", "top", "width", "height", "p_predicted", "p_labelled"]
    rows: list[list[Cell]] = []
    for one in suspects:
        names = (one.name, files[one.name], classes[one.labelled], classes[one.predicted])
        numbers = (one.score, one.area, *one.box, one.p_predicted, one.p_labelled)
        rows.append([*map(printable, names), *numbers])
    return _csv(heading, rows)


def to_label_table(images: Iterable[tuple[str, float]]) -> str:
    """CSV: images and the model's uncertainty, in the order in which to label them."""
    return _csv(["image", "uncertainty"], ([printable(name), value] for name, value in images))


def confusion_table(scores: Scores) -> str:
    """CSV: pixels, a row for each true class and a column for each predicted one."""
    names = [printable(name) for name in scores.classes]
    rows = [[name, *row] for name, row in zip(names, scores.matrix.tolist(), strict=True)]
    return _csv(["true \\ predicted", *names], rows)


def latex_table(scores: Scores, protocol: Mapping[str, Any]) -> str:
    """A LaTeX table of the classes and their means, in percent; needs booktabs."""
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "  \\centering",
        f"  \\begin{{tabular}}{{l{'r' * len(COLUMNS)}}}",
        "    \\toprule",
        f"    {' & '.join(['Class', *COLUMNS])} \\\\",
        "    \\midrule",
    ]
    *classes, mean = _rows(scores, _latex)
    lines += [f"    {' & '.join(row)} \\\\" for row in classes]
    lines += ["    \\midrule", f"    {' & '.join(mean)} \\\\", "    \\bottomrule"]
    lines += ["  \\end{tabular}", f"  \\caption{{{_latex(sentence(protocol))}}}", "\\end{table}"]
    return "\n".join(lines) + "\n"


def markdown_table(scores: Scores, protocol: Mapping[str, Any]) -> str:
    """A Markdown table of the classes and their means, in percent."""
    rows = [["Class", *COLUMNS], ["---", *("---:" for _ in COLUMNS)], *_rows(scores, _markdown)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{table}\n\n{_markdown(sentence(protocol))}\n"


def sentence(protocol: Mapping[str, Any]) -> str:
    """The evaluation protocol as text."""
    tta = f"test-time augmentation ({protocol['tta_views']})" if protocol["tta"] else "one view"
    return (
        f"In percent. {protocol['images']} images, split {protocol['split']}, at the labels' own "
        f"resolution; {tta}; means over the classes that the labels contain; "
        f"{100 * protocol['ignored']:.2f} % of the pixels ignored; boundary IoU within "
        f"{100 * protocol['boundary_iou_band']:.0f} % of the image diagonal, boundary F1 with a "
        f"tolerance of {protocol['tolerance']} px."
    )


def _rows(scores: Scores, escape: Callable[[str], str]) -> list[list[str]]:
    """A row for each class, and one of the means."""
    values = scores.as_dict()
    rows = [
        [escape(row["name"]), *(_number(row[key]) for key in COLUMNS.values())]
        for row in values["classes"]
    ]
    means = [_number(values[MEANS.get(key, key)]) for key in COLUMNS.values()]
    return [*rows, ["Mean", *means]]


def _number(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.2f}"


_LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": "\\textbackslash{}",
        "~": "\\textasciitilde{}",
        "^": "\\textasciicircum{}",
        "<": "\\textless{}",
        ">": "\\textgreater{}",
    }
)


def _latex(text: str) -> str:
    return printable(text).translate(_LATEX)


def _markdown(text: str) -> str:
    return "".join(f"\\{c}" if c in "\\|*_`<>[]" else c for c in printable(text))


def _csv(heading: Sequence[Cell], rows: Iterable[Sequence[Cell]]) -> str:
    out = io.StringIO()
    cells = ([_in_csv(cell) for cell in row] for row in (heading, *rows))
    csv.writer(out, lineterminator="\n").writerows(cells)
    return out.getvalue()


def _in_csv(cell: Cell) -> str | int:
    """A cell; text that a spreadsheet would evaluate as a formula is escaped by an apostrophe."""
    if cell is None or cell != cell:
        return ""
    if isinstance(cell, float):
        return f"{cell:.6f}"
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


_FORMULA = ("=", "+", "-", "@")


def write_table(path: Path, text: str) -> None:
    """Write text to a file or, for -, to standard output; MediaError when it can't be written."""
    if not is_stdout(path):
        write_bytes(path, to_bytes(text))
        return
    binary = getattr(sys.stdout, "buffer", None)  # a notebook's has none
    try:
        binary.write(to_bytes(text)) if binary else sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        raise cannot_write("to standard output", error) from None


_INK = "#010203"  # replaced by the page's own color
BLUE, ORANGE, GREEN = "#3b7dd8", "#d9822b", "#2f9e63"
MARKS = (BLUE, ORANGE, GREEN, "#b0549c", "#7a7a7a")


def has_charts() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def require_charts() -> None:
    """MissingExtra without matplotlib; called before the work, not after it."""
    if not has_charts():
        raise MissingExtra("A report", "report")


def line_chart(
    series: Mapping[str, Sequence[float | None]], *, x: Sequence[float], x_name: str, name: str
) -> str:
    """Line chart of values over x, with a legend if there are several."""
    figure, axes = _figure(5.2, 2.6)
    for (label, values), color in zip(series.items(), MARKS * 9, strict=False):
        heights = [float("nan") if value is None else value for value in values]
        axes.plot(
            x, heights, label=printable(label), color=color, marker="o" if len(x) < 30 else None
        )
    axes.set_xlabel(x_name)
    axes.set_ylabel(name)
    if len(series) > 1:
        axes.legend(frameon=False, labelcolor=_INK)
    axes.locator_params("x", integer=True)  # epochs are integers
    return _svg(figure, f"lines-{name}")


def bar_chart(values: Mapping[str, float], *, unit: str, name: str) -> str:
    """Horizontal bars with their values, from the top down."""
    figure, axes = _figure(5.2, 0.5 + 0.32 * len(values))
    drawn = axes.barh([printable(key) for key in values], list(values.values()), color=BLUE)
    axes.bar_label(drawn, fmt="%.2f", padding=3, color=_INK)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel(unit)
    return _svg(figure, f"bars-{name}")


def calibration_chart(curve: Sequence[tuple[float, float, int]]) -> str:
    """Accuracy over the probability of the predicted class, and the pixels of each bin."""
    figure, axes = _figure(3.6, 3.6)
    total = sum(pixels for *_, pixels in curve) or 1
    sure = [row[0] for row in curve]
    axes.plot([0, 1], [0, 1], color="#8a8a8a", linestyle="--", linewidth=1, label="calibrated")
    axes.plot(sure, [row[1] for row in curve], color=BLUE, marker="o", label="accuracy")
    heights = [row[2] / total for row in curve]
    axes.bar(sure, heights, width=0.05, color=ORANGE, alpha=0.5, label="proportion of pixels")
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="probability of the predicted class")
    axes.legend(frameon=False, labelcolor=_INK, loc="upper left")
    return _svg(figure, "calibration")


def interval_chart(rows: Sequence[Mapping[str, Any]]) -> str:
    """Differences with their intervals, in points of mIoU, beside a line at 0."""
    figure, axes = _figure(5.2, 0.7 + 0.4 * len(rows))
    axes.axvline(0, color="#8a8a8a", linewidth=1, linestyle="--")
    for place, row in enumerate(rows):
        value, (low, high) = 100 * row["miou"], row["interval"]
        axes.plot([value], [place], "o", color=BLUE)
        if low is not None:
            axes.plot([100 * low, 100 * high], [place, place], color=BLUE, linewidth=2)
    axes.set_yticks(range(len(rows)), [row["models"] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("points of mIoU")
    return _svg(figure, "intervals")


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK)
    for part in axes.spines.values():
        part.set_color(_INK)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    return figure, axes


def _svg(figure: Figure, name: str) -> str:
    """The figure as an <svg> element with ids that are unique in a page."""
    import matplotlib as mpl

    out = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = text.replace(_INK, "currentColor").replace("DejaVu Sans", "system-ui")
    own = re.sub(r"\W", "-", name)
    text = re.sub(r'\bid="', f'id="{own}-', text)
    text = text.replace("url(#", f"url(#{own}-").replace('xlink:href="#', f'xlink:href="#{own}-')
    return text.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
