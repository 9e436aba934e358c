"""Scores as text: CSV for spreadsheets (fractions), LaTeX and Markdown for papers (percent)."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fcnseg.errors import cannot_write, shown, to_bytes
from fcnseg.files import is_stdout
from fcnseg.inference.review import Suspect
from fcnseg.io.images import write_bytes
from fcnseg.metrics.scores import Scores

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
"""Keys of a class, and those of its mean where that has another name."""

Cell = str | int | float | None


def image_table(scores: Scores) -> str:
    """CSV: a line for each image, worst mIoU first; empty where an image has nothing of a class.

    Scores are those of the image alone, as fractions.
    """
    heading = ["image", "height", "width", "ignored", "miou", "pixel_accuracy", "boundary_f1"]
    rows: list[tuple[float, list[Cell]]] = []
    for image in scores.images:
        report = image.report
        means = (report.miou, report.pixel_accuracy, image.outline_f1)
        cells: list[Cell] = [shown(image.name), *image.size, image.ignored, *means]
        cells += [one.iou for one in report.classes]
        rows.append((float(np.nan_to_num(report.miou, nan=2)), cells))  # unlabelled: last
    rows.sort(key=lambda row: row[0])
    return _csv([heading + [f"iou {shown(name)}" for name in scores.classes]], (r for _, r in rows))


def comparison_table(
    models: Mapping[str, str], images: Iterable[tuple[str, Sequence[float]]]
) -> str:
    """CSV: a line for each image, the mIoU that each model reached on it, as fractions."""
    heading = [f"{letter} {shown(path)}" for letter, path in models.items()]
    return _csv([["image", *heading]], ([shown(name), *values] for name, values in images))


def suspects_table(
    suspects: Sequence[Suspect], classes: Sequence[str], files: Mapping[str, str]
) -> str:
    """CSV: a line for each region whose labels may be wrong. files: label files by image name."""
    heading = ["image", "labels", "labelled", "predicted", "score", "area"]
    heading += ["left", "top", "width", "height", "p_predicted", "p_labelled"]
    rows: list[list[Cell]] = []
    for one in suspects:
        names = (one.name, files[one.name], classes[one.labelled], classes[one.predicted])
        numbers = (one.score, one.area, *one.box, one.p_predicted, one.p_labelled)
        rows.append([*map(shown, names), *numbers])
    return _csv([heading], rows)


def to_label_table(images: Iterable[tuple[str, float]]) -> str:
    """CSV: images and how unsure the model is of them, those to label first."""
    return _csv([["image", "uncertainty"]], ([shown(name), value] for name, value in images))


def confusion_table(scores: Scores) -> str:
    """CSV: pixels, a row for each true class and a column for each predicted one."""
    names = [shown(name) for name in scores.classes]
    rows = [[name, *row] for name, row in zip(names, scores.matrix.tolist(), strict=True)]
    return _csv([["true \\ predicted", *names]], rows)


def latex_table(scores: Scores, protocol: Mapping[str, Any]) -> str:
    """A LaTeX table of the classes and their means, in percent; needs booktabs."""
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "  \\centering",
        f"  \\begin{{tabular}}{{l{'r' * len(COLUMNS)}}}",
        "    \\toprule",
        *(f"    {' & '.join(row)} \\\\" for row in [["Class", *COLUMNS]]),
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
    """How the numbers were made."""
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
    return shown(text).translate(_LATEX)


def _markdown(text: str) -> str:
    return "".join(f"\\{c}" if c in "\\|*_`<>[]" else c for c in shown(text))


def _csv(heading: Sequence[Sequence[Cell]], rows: Iterable[Sequence[Cell]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for row in (*heading, *rows):
        writer.writerow([_in_csv(cell) for cell in row])
    return out.getvalue()


def _in_csv(cell: Cell) -> str | int:
    """A cell: text that a spreadsheet would run as a formula gets an apostrophe, as it wants it."""
    if cell is None or cell != cell:
        return ""
    if isinstance(cell, float):
        return f"{cell:.6f}"
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


_FORMULA = ("=", "+", "-", "@")


def write_table(path: Path, text: str) -> None:
    """Write text to a file or, for -, to standard output; MediaError where that can't be."""
    if not is_stdout(path):
        write_bytes(path, to_bytes(text))
        return
    binary = getattr(sys.stdout, "buffer", None)  # a notebook's has none
    try:
        binary.write(to_bytes(text)) if binary else sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        raise cannot_write("to standard output", error) from None
