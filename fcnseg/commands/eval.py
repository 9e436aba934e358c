"""The command `eval`: score a model on a dataset folder, per class."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fcnseg import notebook
from fcnseg.config import CompareConfig, EvalConfig
from fcnseg.config.options import spelled
from fcnseg.datasets import Description
from fcnseg.datasets.check import CheckResult, examine
from fcnseg.datasets.check.findings import ABOUT_VALUES
from fcnseg.datasets.dataset import SegmentationDataset
from fcnseg.datasets.describe import files_read
from fcnseg.datasets.loader import choose_workers
from fcnseg.distributed import Distributed, init_distributed
from fcnseg.errors import MediaError, OptionError, counted, to_bytes
from fcnseg.files import is_stdout
from fcnseg.inference.evaluation import (
    MIOU_RULE,
    dataset_for,
    is_own,
    measure,
    on_split,
    protocol_of,
    refuse_meaningless,
    seen_in_folds,
    skipped_image,
    split_of,
)
from fcnseg.inference.loading import averaged, load_as
from fcnseg.inference.segmenter import Segmenter
from fcnseg.inference.tiling import arrays_of
from fcnseg.io.images import write_bytes
from fcnseg.metrics import ClassScore, Report
from fcnseg.metrics.scores import Scores
from fcnseg.models.checkpoint import model_files
from fcnseg.overwriting import refuse_overwriting, refuse_unwritable
from fcnseg.progress import Callback, Message, no_callback
from fcnseg.remote.listing import copied
from fcnseg.report import eval_page, for_gallery
from fcnseg.report.gallery import Gallery, Predict, fill
from fcnseg.report.tables import (
    confusion_table,
    image_table,
    latex_table,
    markdown_table,
    require_charts,
    write_table,
)

AVERAGED = "Their probabilities are averaged; to compare models: fcnseg compare DATA -m A -m B"


@dataclass(frozen=True)
class EvalResult:
    """The scores of a model on a dataset.

    scores: all counts, also per image. protocol: how they were computed, as plain values. split:
    the scored split. model: the file of a single model. left_out: pair counts of other splits.
    problems: errors found by `check`, one sentence each. outputs: the files written; failed: those
    that could not be written. findings: all findings of `check`, (severity, sentence).
    unusable: images of the split that could not be read and are not scored: (name, reason).
    """

    scores: Scores
    protocol: Mapping[str, Any]
    split: str
    model: Path | None
    seconds: float
    left_out: dict[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    outputs: tuple[Path, ...] = ()
    findings: tuple[tuple[str, str], ...] = ()
    failed: tuple[Path, ...] = ()
    unusable: tuple[tuple[str, str], ...] = ()

    @property
    def report(self) -> Report:
        """The confusion matrix and the scores computed from it."""
        return self.scores.report

    @property
    def miou(self) -> float:
        """Mean IoU of the classes in the labels, 0..1."""
        return self.report.miou

    @property
    def classes(self) -> tuple[ClassScore, ...]:
        """The score of each class."""
        return self.report.classes

    def _repr_html_(self) -> str:
        """For notebooks: the model, the split, and the scores of each class."""
        about = {"model": self.model, "split": self.split, "problems": "; ".join(self.problems)}
        given = {name: value for name, value in about.items() if value}
        return notebook.facts("Evaluation", given) + self.report._repr_html_()

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for --json: all numbers, with their protocol."""
        return {
            **self.scores.as_dict(),
            "miou_rule": MIOU_RULE,
            "miou_with_absent": self.report.miou_with_absent,
            "absent_predicted": self.report.absent_predicted,
            "split": self.split,
            "left_out": self.left_out,
            "unusable": [{"name": name, "why": why} for name, why in self.unusable],
            "problems": list(self.problems),
            "protocol": dict(self.protocol),
            "outputs": [str(path) for path in self.outputs],
            "failed": [str(path) for path in self.failed],
        }


def evaluate(
    model: EvalConfig | Segmenter | Path | str | Sequence[Path | str] | None,
    data: Path | str | None = None,
    callback: Callback = no_callback,
    **options: Any,
) -> EvalResult:
    """Score a model on one split of a dataset folder, at the labels' own resolution.

    model: what `fcnseg.load` takes or returns, or an EvalConfig with all of the following.
    The probabilities of several models are averaged.
    data: the folder. options: those of EvalConfig, by name (split, tta, batch, ...).
    callback: called with a Progress after each batch, and with messages.

    Scores are fractions, 0..1: `.miou`, `.classes` (a ClassScore each), `.report`. Under torchrun
    the processes divide the images; the result is the same. Raises DatasetError if the classes of
    model and folder can't be matched, OptionError for an invalid option.

        report = fcnseg.evaluate("nuclei", "photos")
        print(report.miou)
    """
    loaded = model if isinstance(model, Segmenter) else None
    given = options if data is None else {"data": data, **options}
    if isinstance(model, EvalConfig):
        config = dataclasses.replace(model, **given)
    else:
        files: Any = loaded.files if loaded else model
        named = {} if isinstance(files, tuple | None) and not files else {"model": files}
        config = EvalConfig.make({**named, **given})
    config = dataclasses.replace(config, data=copied(config.data, callback))
    if loaded is not None:
        useless = sorted({"engine", "device", "precision", "short_side"} & set(options))
        if useless:
            raise OptionError(
                f"{useless[0]} has no effect on a model that is loaded already.",
                hint=f"give it to fcnseg.load: fcnseg.load(..., {useless[0]}=...)",
            )
        if config.tta:
            loaded = averaged(loaded.networks, tta=True)
        return _evaluate(config, loaded, Distributed.single(), callback)
    ranks = init_distributed(config.device)
    callback = callback if ranks.main else no_callback
    segmenter = load_as(config, callback, device=str(ranks.device))
    return _evaluate(config, segmenter, ranks, callback)


def _evaluate(
    config: EvalConfig, segmenter: Segmenter, ranks: Distributed, callback: Callback
) -> EvalResult:
    checked = examine(config.data, callback, boxes=config.fill_boxes)
    outputs = check_outputs(config, ("html", *WRITERS), checked.description, [segmenter])
    result, dataset = evaluate_split(config, segmenter, checked, callback, ranks)
    if not ranks.main:
        return result
    writers: dict[str, Callable[[Path], None]] = {
        **{name: functools.partial(write, result) for name, write in WRITERS.items()},
        "html": lambda path: write_report(path, result, segmenter, dataset, callback),
    }
    written, failed = write_outputs(outputs, writers, callback)
    return dataclasses.replace(result, outputs=written, failed=failed)


def evaluate_split(
    config: EvalConfig,
    segmenter: Segmenter,
    checked: CheckResult,
    callback: Callback = no_callback,
    ranks: Distributed | None = None,
) -> tuple[EvalResult, SegmentationDataset]:
    """Score a model on one split of a checked folder; return the result and the split's dataset.

    config: the split, batch size etc.; its model and folder are not opened. DatasetError if the
    classes of model and folder can't be matched.
    """
    began = time.perf_counter()
    ranks = ranks or Distributed.single()
    problems = tuple(f.sentence for f in checked.findings if f.severity == "error")
    warnings = [f"An error in the dataset: {problem}" for problem in problems]
    warnings += [found.sentence for found in checked.findings if found.code in ABOUT_VALUES]
    for text in warnings:
        callback(Message(text, "warning"))
    split, why = split_of(config, checked.description, segmenter)
    left_out = {name: n for name, n in checked.splits.items() if split not in ("all", name)}
    dataset = dataset_for(segmenter, checked.description, split, callback)
    callback(Message(f"{segmenter.title} on {counted(len(dataset), 'image')} ({split})"))
    if len(segmenter.networks) > 1:
        callback(Message(AVERAGED))
    callback(Message(on_split(left_out, why)))
    if optimistic := seen_in_folds(checked.description, split, segmenter):
        callback(Message(optimistic, "warning"))
    scores = measure(
        arrays_of(segmenter),
        dataset,
        callback,
        tolerance=config.tolerance,
        batch=config.batch,
        workers=choose_workers(config.workers, segmenter.engine.device.split(":")[0]),
        ranks=ranks,
        num_parallel=segmenter.num_parallel,
    )
    unusable = tuple((dataset.pairs[i].name, error.message) for i, error in scores.unusable)
    for one in unusable:
        callback(skipped_image(*one))
    refuse_meaningless(scores.report, config.data, own=is_own(checked.description, segmenter))
    result = EvalResult(
        scores,
        protocol_of(config, segmenter, scores, split),
        split,
        segmenter.path,
        time.perf_counter() - began,
        left_out,
        problems,
        (),
        tuple((one.severity, one.sentence) for one in checked.findings),
        unusable=unusable,
    )
    return result, dataset


def write_outputs(
    outputs: Mapping[str, Path],
    writers: Mapping[str, Callable[[Path], None]],
    callback: Callback,
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Write the requested outputs; return the files written, and those that failed.

    Standard output is not listed. A failed write is only a warning, so that the scores, which took
    long to compute, are not lost.
    """
    failed = []
    for name, path in outputs.items():
        try:
            writers[name](path)
        except MediaError as error:
            failed.append(path)
            callback(Message(error.message, "warning"))
    files = (path for path in outputs.values() if path not in failed and not is_stdout(path))
    return tuple(files), tuple(failed)


def write_report(
    path: Path,
    result: EvalResult,
    segmenter: Segmenter,
    dataset: SegmentationDataset,
    callback: Callback = no_callback,
) -> None:
    """Write a model's scores on a dataset as an HTML page; its images are predicted again."""
    gallery = Gallery(dataset.classes, result.scores.tolerance)
    miou = {image.index: [image.report.miou] for image in result.scores.images}
    predict = {"prediction": predict_for_report(segmenter)}
    sums = segmenter.sums_scores and not result.protocol["tta"]  # TTA averages probabilities
    skips = segmenter.skip_scores if sums else None
    fill(gallery, dataset, predict, for_gallery(result.scores), miou, callback, skips=skips)
    page = eval_page(
        result.scores,
        result.protocol,
        gallery,
        facts=_facts(result, segmenter),
        findings=result.findings,
        model=segmenter.path,
    )
    write_bytes(path, to_bytes(page))


def predict_for_report(segmenter: Segmenter) -> Predict:
    """A function that predicts a report's images as they are scored; probabilities on request."""
    several = arrays_of(segmenter)
    return lambda image, probabilities: (
        segmenter.predict([image], probabilities=True)[0] if probabilities else several([image])[0]
    )


def _facts(result: EvalResult, segmenter: Segmenter) -> dict[str, str]:
    """The report's table about the model and the evaluation."""
    protocol, count = result.protocol, len(result.scores.images)
    size = sum(file.stat().st_size for file in segmenter.files)
    parts = [f"{number} in {name}" for name, number in result.left_out.items()]
    parts += [f"{len(result.unusable)} that can't be read"] * bool(result.unusable)
    left_out = ", ".join(parts)
    return {
        "model": protocol["model"] or "in memory",
        "size of its file": f"{size / 1e6:.1f} MB" if size else "",
        "classes": ", ".join(result.scores.classes),
        "dataset": protocol["data"],
        "split": f"{result.split}, {count} images" + (f"; not scored: {left_out}" * bool(left_out)),
        "ignored pixels": f"{100 * protocol['ignored']:.2f} %",
        "network input": protocol["network_input"],
        "test-time augmentation": protocol["tta_views"] if protocol["tta"] else "none",
        "computed with": f"{protocol['engine']}, {protocol['precision']}, {protocol['device']}",
        "speed": f"{count / max(result.seconds, 1e-9):.1f} images/s, reading and scoring included",
    }


WRITERS: dict[str, Callable[[EvalResult, Path], None]] = {
    "csv": lambda one, path: write_table(path, image_table(one.scores)),
    "confusion": lambda one, path: write_table(path, confusion_table(one.scores)),
    "latex": lambda one, path: write_table(path, latex_table(one.scores, one.protocol)),
    "markdown": lambda one, path: write_table(path, markdown_table(one.scores, one.protocol)),
}
"""Option of a text output -> the function that writes it."""


def check_outputs(
    config: EvalConfig | CompareConfig,
    names: Iterable[str],
    description: Description,
    models: Sequence[Segmenter],
) -> dict[str, Path]:
    """The outputs that were given, by option; OptionError if one is an input or a folder."""
    paths = {name: getattr(config, name) for name in names}
    outputs = {name: path for name, path in paths.items() if path is not None}
    if not outputs:
        return {}
    named = [(spelled(name), path) for name, path in outputs.items()]
    inputs = [("the dataset", config.data)] if config.data.is_file() else []
    refuse_overwriting(
        named,
        [*inputs, *files_read(description, outputs.values())],
        kept=[file for model in models for file in model_files(model.files)],
    )
    refuse_unwritable(named)
    if "html" in outputs:
        require_charts()
    return outputs
