"""Markdown tables of results.jsonl, with the conditions of the results.

Several seeds of a training are shown as their mean ± half of their range.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from trainings import DEFAULTS, LABELS, PARTS, UNLABELED

Record = dict[str, Any]
Table = Sequence[Sequence[str]]


def write_table(part: str, rows: Iterable[Record], path: Path) -> str:
    """The tables of a part, one for each budget; also written to a file."""
    budgets: dict[str, list[Record]] = {}
    for row in rows:
        if row["part"] == part:
            budget = json.dumps([row["budget"], row["options"]], sort_keys=True)
            budgets.setdefault(budget, []).append(row)
    if not budgets:
        return f"No training of {part} is done."
    text = "\n".join(_section(part, some) for some in budgets.values())
    path.write_text(text, encoding="utf-8")
    return text


def _section(part: str, rows: Sequence[Record]) -> str:
    done = [row for row in rows if "failed" not in row]
    body = "".join(f"\n{text}\n" for text in TABLES[part](done)) if done else ""
    failed = "".join(
        f"\n{r['cell']}, seed {r['seed']}: {r['failed']}\n" for r in rows if r not in done
    )
    return f"{TITLES[part]}\n\n{_circumstances(rows)}\n{body}{failed}"


TITLES = {
    "skips": "## Decoders and fusions on CamVid",
    "others": "## Other networks, trained in the same way",
    "ablation": "## Ablation of the defaults",
    "drives": "## Ablation of the defaults on recordings not trained on",
    "few": "## Few labels: the gain from unlabeled images",
    "minutes": "## A given time: `--minutes` compared with settings chosen by hand",
}


def _circumstances(rows: Sequence[Record]) -> str:
    """Commands, machines, versions, dates and budget, without duplicates."""
    first = rows[0]
    options = [f"{name}={json.dumps(value)}" for name, value in first["options"].items()]
    seeds = ", ".join(map(str, sorted({row["seed"] for row in rows})))
    lines = [f"    {command}" for command in _distinct(rows, "command")]
    made = [_distinct(rows, name) for name in ("machine", "precision", "date")]
    versions = _distinct(rows, "torch")
    budget = f"{first['budget']}, seed {seeds}, batch {'/'.join(_distinct(rows, 'batch'))}"
    if options:
        budget += f", {' '.join(options)}"
    parts = [
        " / ".join(made[0]),
        f"torch {' / '.join(versions)}",
        *(" / ".join(m) for m in made[1:]),
    ]
    return "\n".join(
        [*lines, "", f"{', '.join(filter(None, parts))}; {budget}. IoU and accuracy in %."]
    )


def _skips(rows: Sequence[Record]) -> list[str]:
    """The columns of the paper's table 2, and parameters."""
    names = ["miou", "pixel_accuracy", "mean_accuracy", "fw_iou", "best"]
    head = ["decoder", "fuse", "mIoU", "pixel acc.", "mean acc.", "f.w. IoU", "best mIoU"]
    table = [[*head, "parameters (M)", "minutes"]]
    for training, some in _by_training("skips", rows):
        decoder, _, fuse = training.partition("/")[2].partition("-")
        scores = [_percent([row[name] for row in some]) for name in names]
        table.append([decoder, fuse, *scores, _millions(some), _minutes(some)])
    return [_markdown(table)]


def _others(rows: Sequence[Record]) -> list[str]:
    """A table for each dataset: IoU of each class."""
    texts = []
    for data in dict.fromkeys(training.dataset for training in PARTS["others"]):
        here = [row for row in rows if row["cell"].startswith(f"{data}/")]
        if not here:
            continue
        classes = list(here[0]["class_iou"])
        near = [f"F1 of {classes[-1]}, 2 px"] if len(classes) == 2 else []
        head = ["network", "backbone weights", *classes, "mIoU", "best mIoU", *near]
        table = [[*head, "parameters (M)", "epochs", "minutes"]]
        for training, some in _by_training("others", here):
            ious = [_percent([row["class_iou"][name] for row in some]) for name in classes]
            means = [_percent([row[name] for row in some]) for name in ("miou", "best")]
            if near:
                means.append(_percent([row.get("near_f1", {}).get(classes[-1]) for row in some]))
            start = " / ".join(_distinct(some, "start"))
            epochs = "/".join(_distinct(some, "epochs_done"))
            size = [_millions(some), epochs, _minutes(some)]
            table.append([training.partition("/")[2], start, *ious, *means, *size])
        texts.append(f"**{data}**: {_data(here)}\n\n{_markdown(table)}")
    return texts


def _changes(part: str, rows: Sequence[Record]) -> list[str]:
    """Differences from the defaults with the same seed."""
    trainings = PARTS[part]
    sets = list(dict.fromkeys(training.dataset for training in trainings))
    found = {(row["cell"], row["seed"]): row["miou"] for row in rows}
    seeds = sorted({row["seed"] for row in rows})
    table = [["change", *sets]]
    for change in dict.fromkeys(training.row for training in trainings):
        texts = []
        for data in sets:
            one, base = f"{data}/{change}", f"{data}/{DEFAULTS}"
            if change == DEFAULTS:
                texts.append(_percent([found[one, s] for s in seeds if (one, s) in found]))
            else:
                both = [s for s in seeds if (one, s) in found and (base, s) in found]
                texts.append(_percent([found[one, s] - found[base, s] for s in both], sign=True))
        if set(texts) != {"-"}:
            table.append([change, *texts])
    text = "mIoU of the defaults; below, the effect of each change, in points."
    known = [[r for r in rows if r["cell"].startswith(f"{data}/")] for data in sets]
    about = "; ".join(
        f"{data}: {_data(some)}" for data, some in zip(sets, known, strict=True) if some
    )
    return [f"{text} {about}.", _markdown(table)]


def _few(rows: Sequence[Record]) -> list[str]:
    """A row for each dataset and number of labels; the gain is between equal seeds."""
    found = {(row["cell"], row["seed"]): row for row in rows}
    table = [["data set", "labeled images", LABELS, UNLABELED, "gain", "seeds"]]
    for data in dict.fromkeys(training.dataset for training in PARTS["few"]):
        both = [
            (found[f"{data}/{LABELS}", seed], found[f"{data}/{UNLABELED}", seed])
            for seed in sorted({row["seed"] for row in rows})
            if (f"{data}/{LABELS}", seed) in found and (f"{data}/{UNLABELED}", seed) in found
        ]
        if both:
            alone, more = ([pair[i]["miou"] for pair in both] for i in (0, 1))
            gains = [one["miou"] - other["miou"] for other, one in both]
            name, _, every = data.partition("-")
            images = "/".join(dict.fromkeys(str(p[0]["images"] // int(every)) for p in both))
            scores = [_percent(alone), _percent(more), _percent(gains, sign=True)]
            table.append([name, f"{images} (1/{every})", *scores, str(len(both))])
    return ["mIoU on the validation images, last epoch's averaged weights.", _markdown(table)]


def _given_time(rows: Sequence[Record]) -> list[str]:
    """A row for each setting: scores, and the total time of the command."""
    table = [["data set", "setting", "mIoU", "best mIoU", "epochs", "minutes in all"]]
    for training, some in _by_training("minutes", rows):
        data, _, setting = training.partition("/")
        scores = [_percent([row[name] for row in some]) for name in ("miou", "best")]
        took = "/".join(f"{row['took'] / 60:.1f}" if row["took"] else "-" for row in some)
        table.append([data, setting, *scores, "/".join(_distinct(some, "epochs_done")), took])
    return ["mIoU on the validation images, last epoch's averaged weights.", _markdown(table)]


TABLES: dict[str, Callable[[Sequence[Record]], list[str]]] = {
    "skips": _skips,
    "others": _others,
    "ablation": partial(_changes, "ablation"),
    "drives": partial(_changes, "drives"),
    "few": _few,
    "minutes": _given_time,
}


def _data(rows: Sequence[Record]) -> str:
    """The number of images and the split; results with several splits are not comparable."""
    seen = dict.fromkeys((r["images"], r["held_out"], r["split"], tuple(r["crop"])) for r in rows)
    return " / ".join(
        f"{images} images to train on in crops of {'x'.join(map(str, crop))}, "
        f"{held_out} held out (split {split})"
        for images, held_out, split, crop in seen
    )


def _by_training(part: str, rows: Sequence[Record]) -> list[tuple[str, list[Record]]]:
    """The rows of each training, in the order of the part."""
    found = [(c.name, [row for row in rows if row["cell"] == c.name]) for c in PARTS[part]]
    return [(name, some) for name, some in found if some]


def _percent(values: Sequence[float | None], *, sign: bool = False) -> str:
    """The mean ± half of the range; a dash for no values."""
    here = [100 * value for value in values if value is not None]
    if not here:
        return "-"
    mean = statistics.mean(here)
    text = f"{mean:+.1f}" if sign else f"{mean:.1f}"
    return f"{text} ± {(max(here) - min(here)) / 2:.1f}" if len(here) > 1 else text


def _millions(rows: Sequence[Record]) -> str:
    return f"{rows[0]['parameters'] / 1e6:.2f}"


def _minutes(rows: Sequence[Record]) -> str:
    return f"{statistics.mean(row['seconds'] for row in rows) / 60:.1f}"


def _distinct(rows: Sequence[Record], name: str) -> list[str]:
    return [str(value) for value in dict.fromkeys(row[name] for row in rows if name in row)]


def _markdown(table: Table) -> str:
    lines = [f"| {' | '.join(row)} |" for row in table]
    return "\n".join([lines[0], "|" + "---|" * len(table[0]), *lines[1:]])
