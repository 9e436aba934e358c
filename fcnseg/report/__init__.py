"""Reports: HTML pages, tables and charts.

Here: the pages. Each is a single HTML file that needs no network; all names are escaped.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fcnseg import __version__
from fcnseg.errors import PARSE_ERRORS, counted, from_bytes, points, printable
from fcnseg.metrics import none_for_nan
from fcnseg.metrics.regions import MEANINGS
from fcnseg.metrics.scores import ImageScore, Scores
from fcnseg.overwriting import TRAINING
from fcnseg.report.gallery import BEST, WORST, Gallery, kinds_legend, legend, png
from fcnseg.report.tables import (
    COLUMNS,
    MEANS,
    bar_chart,
    calibration_chart,
    interval_chart,
    line_chart,
    sentence,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fcnseg.datasets.check import CheckResult

MAX_CLASSES = 40
"""Maximum number of classes of a page's confusion matrix: those with the most labelled pixels."""

IMAGES_PER_CELL = 12
"""Images listed for a cell of the confusion matrix."""

MAX_ROWS = 1000
"""Maximum number of rows of a page's table of images."""


def worst_first(scores: Scores) -> list[int]:
    """Indices into scores.images, by ascending mIoU; images without labels are last."""
    miou = np.nan_to_num([image.report.miou for image in scores.images], nan=2)
    return [int(place) for place in np.argsort(miou, kind="stable")]


def for_gallery(scores: Scores) -> list[int]:
    """Indices of images for the gallery: the worst, the best, then the rest."""
    ranked = [scores.images[place].index for place in worst_first(scores)]
    rest = ranked[WORST:]
    best = rest[len(rest) - min(BEST, len(rest)) :]
    return [*ranked[:WORST], *best, *rest[: len(rest) - len(best)]]


def eval_page(
    scores: Scores,
    protocol: Mapping[str, Any],
    gallery: Gallery,
    *,
    facts: Mapping[str, str],
    findings: Sequence[tuple[str, str]],
    model: Path | None,
) -> str:
    """The report on one model and one split, as HTML.

    facts: rows of the table on model and data. findings: (severity, sentence) of each.
    model: its file; files of its run folder are shown as well.
    """
    values = scores.as_dict()
    for row in values["classes"]:
        row["shown"] = printable(row["name"])
    ranked = [scores.images[place] for place in worst_first(scores)]
    confusion, note = _confusion(scores)
    content = {
        "title": f"mIoU {_percent(values['miou'])} on {counted(len(ranked), 'image')}",
        "summary": f"{printable(protocol['model'])} on {printable(protocol['data'])}, "
        f"split {protocol['split']}",
        "values": values,
        "columns": COLUMNS,
        "means": [values[MEANS.get(key, key)] for key in COLUMNS.values()],
        "legend": legend(gallery.classes),
        "kinds": kinds_legend(),
        "protocol": sentence(protocol),
        "absent": [row["shown"] for row in values["classes"] if row["iou"] is None],
        "meanings": MEANINGS,
        "missing_sum": 100 * (1 - values["miou"]),
        "confusion_note": note,
        "images": _image_rows(ranked[:MAX_ROWS], gallery),
        "images_note": _images_note(len(ranked), gallery),
        "facts": {name: printable(value) for name, value in facts.items()},
        "findings": [(severity, printable(text)) for severity, text in findings],
        "config": _beside(model, TRAINING),
        "made_with": _beside(model, "environment.json"),
        **_charts(scores, values, model),
    }
    data = {
        "views": gallery.views,
        "order": [image.index for image in ranked],
        "names": {image.index: printable(image.name) for image in scores.images},
        "score_names": ["mIoU"],
        "sides": ["labels", "prediction"],
        "confusion": confusion,
    }
    return render("eval.html.j2", content, data)


def _image_rows(images: Sequence[ImageScore], gallery: Gallery) -> list[dict[str, Any]]:
    return [
        {
            "index": image.index,
            "name": printable(image.name),
            "miou": none_for_nan(image.report.miou),
            "f1": none_for_nan(image.outline_f1),
            "size": f"{image.size[1]}x{image.size[0]}",
            "view": image.index in gallery.views,
        }
        for image in images
    ]


def comparison_page(
    values: Mapping[str, Any],
    protocol: Mapping[str, Any],
    gallery: Gallery,
    indices: Mapping[str, int],
) -> str:
    """The report on several models, as HTML.

    values: CompareResult.as_dict(). indices: image name -> index in the dataset.
    """
    letters = list(values["models"])
    rows = [*values["classes"], {"name": "mean", "iou": values["miou"]}]
    images = [
        {
            "index": indices[row["name"]],
            "name": printable(row["name"]),
            "miou": row["miou"],
            "view": indices[row["name"]] in gallery.views,
        }
        for row in values["images"]
    ]
    content = {
        "title": f"{len(letters)} models on {counted(len(images), 'image')}",
        "summary": f"{printable(protocol['data'])}, split {protocol['split']}",
        "values": values,
        "models": {letter: printable(path) for letter, path in values["models"].items()},
        "others": letters[1:],
        "rows": [
            {
                "name": printable(row["name"]),
                "iou": row["iou"],
                "points": [points(one, row["iou"][0]) for one in row["iou"][1:]],
            }
            for row in rows
        ],
        "interval_chart": Markup(interval_chart(values["differences"])),
        "protocol": sentence(protocol),
        "legend": legend(gallery.classes),
        "kinds": kinds_legend(),
        "images": images[:MAX_ROWS],
        "images_note": _images_note(len(images), gallery),
    }
    data = {
        "views": gallery.views,
        "order": [image["index"] for image in images],
        "score_names": [f"{letter} mIoU" for letter in letters],
        "sides": letters[:2],
    }
    return render("compare.html.j2", content, data)


def _charts(scores: Scores, values: Mapping[str, Any], model: Path | None) -> dict[str, Any]:
    missing = {kind: 100 * (value or 0) for kind, value in values["missing"].items()}
    missing = dict(sorted(missing.items(), key=lambda item: -item[1]))
    curve = scores.calibration.curve
    by_distance = values["ece_by_distance"].items()
    distances = {name: 100 * value for name, value in by_distance if value is not None}
    distance = bar_chart(distances, unit="ECE, %", name="distance") if distances else ""
    return {
        "missing_chart": Markup(bar_chart(missing, unit="points of mIoU", name="missing")),
        "calibration_chart": Markup(calibration_chart(curve)) if curve else "",
        "distance_chart": Markup(distance),
        "curves": _curves(model),
    }


def _curves(model: Path | None) -> list[tuple[Markup, str]]:
    """Curves of loss and mIoU over the epochs, if the model is in a run folder."""
    path = None if model is None else model.with_name("results.csv")
    if path is None or not path.is_file() or not path.with_name(TRAINING).is_file():
        return []

    def column(name: str, factor: float) -> list[float | None]:
        return [factor * float(row[name]) if row.get(name) else None for row in rows]

    try:
        rows = list(csv.DictReader(from_bytes(path.read_bytes()).splitlines()))
        if not rows or not {"epoch", "loss", "miou"} <= rows[0].keys():
            return []
        epochs = [float(row["epoch"]) for row in rows]
        losses, ious = column("loss", 1), column("miou", 100)
    except (OSError, *PARSE_ERRORS):  # a damaged file: omit the curves
        return []
    loss = line_chart({"loss": losses}, x=epochs, x_name="epoch", name="loss")
    miou = line_chart({"mIoU": ious}, x=epochs, x_name="epoch", name="mIoU, %")
    return [(Markup(loss), "Training loss."), (Markup(miou), "mIoU on the validation images.")]


def _beside(model: Path | None, name: str) -> str:
    """A text file beside a model in its run folder; "" if there is none."""
    path = None if model is None else model.with_name(name)
    if path is None or not path.is_file():
        return ""
    return "\n".join(printable(line) for line in from_bytes(path.read_bytes()).splitlines())


def _confusion(scores: Scores) -> tuple[dict[str, Any], str]:
    """The confusion matrix, with the images that have the most pixels of each cell; and a note."""
    count = len(scores.classes)
    kept = np.arange(count)
    if count > MAX_CLASSES:
        kept = np.sort(np.argsort(-scores.matrix.sum(1), kind="stable")[:MAX_CLASSES])
    places = {int(k): place for place, k in enumerate(kept)}
    behind: dict[str, list[tuple[int, int]]] = {}
    for image in scores.images:
        for cell, pixels in zip(image.cells.tolist(), image.counts.tolist(), strict=True):
            row, column = divmod(cell, count)
            if row in places and column in places:
                key = f"{places[row]},{places[column]}"
                behind.setdefault(key, []).append((image.index, pixels))
    top = {
        key: sorted(rows, key=lambda row: -row[1])[:IMAGES_PER_CELL] for key, rows in behind.items()
    }
    matrix = {
        "names": [printable(scores.classes[k]) for k in kept],
        "counts": scores.matrix[np.ix_(kept, kept)].tolist(),
        "images": top,
    }
    omitted = count - len(kept)
    return matrix, f"{omitted} classes with fewer labeled pixels are omitted" if omitted else ""


def _images_note(count: int, gallery: Gallery) -> str:
    notes = []
    if len(gallery.views) < count:
        notes.append(f"{len(gallery.views)} of {count} images can be opened here.")
    if count > MAX_ROWS:
        notes.append(f"The table has {MAX_ROWS} of them; --csv writes all.")
    return " ".join(notes)


def multi_run_page(run: str, summary: Mapping[str, Any]) -> str:
    """The report on several trainings, as HTML: mean and spread of their scores.

    run: their folder. summary: as in its report.json.
    """
    rows = {"mIoU": summary["miou"], "pixel accuracy": summary["pixel_accuracy"]}
    rows |= {f"IoU {printable(name)}": values for name, values in summary["iou"].items()}
    content = {
        "title": f"mIoU {_percent(summary['miou']['mean'])}, mean of {len(summary['runs'])} runs",
        "summary": f"{printable(run)}: {summary['kind']}",
        "rows": rows,
        "runs": [{**each, "name": printable(each["name"])} for each in summary["runs"]],
    }
    return render("several.html.j2", content)


def check_page(
    title: str,
    result: CheckResult,
    views: Sequence[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]],
) -> str:
    """The report of `check`, as HTML. views: (name, image, drawn labels) of some images, RGB."""
    found = result.as_dict()
    splits = [name for name in ("train", "val", "test") if name in found["parts"]]
    looks = legend(result.description.classes)
    content = {
        "title": printable(title),
        "summary": printable(result.summary),
        "splits": splits,
        "classes": [
            {
                **look,
                "share": one["share"],
                "images": [one["images"].get(split, 0) for split in splits],
            }
            for look, one in zip(looks, found["frequencies"], strict=True)
        ],
        "findings": [
            {
                **one,
                "message": printable(one["message"]),
                "repair": printable(one["repair"]),
                "files": [printable(name) for name in one["files"]],
            }
            for one in found["findings"]
        ],
        "views": [
            {"name": printable(name), "image": png(image), "labels": png(labels)}
            for name, image, labels in views
        ],
        "count": result.count,
        "time": result.training_time,
    }
    return render("check.html.j2", content)


NO_IMAGES: Mapping[str, Any] = {"views": {}, "order": []}


def render(template: str, content: Mapping[str, Any], data: Mapping[str, Any] = NO_IMAGES) -> str:
    """Render a page. content: the template's variables; data: for the page's script.

    The script is placed after the first image, so that it is shown while the others are loading.
    """
    pages = _templates()
    assert pages.loader is not None
    sources = (pages.loader.get_source(pages, name)[0] for name in ("report.css", "report.js"))
    style, script = map(Markup, sources)
    stored = [(index, data["views"][index]) for index in data["order"] if index in data["views"]]
    data = {**data, "views": {index: view["name"] for index, view in stored}}
    return pages.get_template(template).render(
        **content, data=data, stored=stored, style=style, script=script, version=__version__
    )


@functools.cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("fcnseg.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f} %"
