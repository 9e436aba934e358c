"""The command `eval`: score a model on a dataset folder, per class."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fcnseg.config import EvalConfig
from fcnseg.data.check import examine
from fcnseg.data.dataset import SegmentationDataset
from fcnseg.data.loading import choose_workers
from fcnseg.distributed import init_distributed
from fcnseg.inference.evaluation import (
    MIOU_RULE,
    as_the_model_sees,
    labels_of,
    labels_of_all_views,
    on_split,
    refuse_meaningless,
    score,
    split_of,
)
from fcnseg.inference.segmenter import load as load_model
from fcnseg.metrics import ClassScore, Report
from fcnseg.progress import Callback, Message, no_callback


@dataclass(frozen=True)
class EvalResult:
    """What a model reached, and where.

    report: the scores. split: the part of the dataset. model: the file. left_out: pairs of the
    other parts. problems: what `check` calls errors, a sentence each.
    """

    report: Report
    split: str
    model: Path | None
    seconds: float
    left_out: dict[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def miou(self) -> float:
        """Mean IoU of the classes that occur."""
        return self.report.miou

    @property
    def classes(self) -> tuple[ClassScore, ...]:
        """The score of each class."""
        return self.report.classes

    def as_dict(self) -> dict[str, Any]:
        """What --json prints: the report's numbers, and by which rule and on what."""
        return {
            **self.report.as_dict(),
            "miou_rule": MIOU_RULE,
            "miou_with_absent": self.report.miou_with_absent,
            "absent_predicted": self.report.absent_predicted,
            "split": self.split,
            "left_out": self.left_out,
            "problems": list(self.problems),
        }


def evaluate(config: EvalConfig, callback: Callback = no_callback) -> EvalResult:
    """Score a model on one part of a dataset folder, at the labels' own resolution.

    Under torchrun each process takes its share of the images; the result is the same.
    Raises DatasetError when the classes of model and folder can't be compared.
    """
    ranks = init_distributed(config.device)
    callback = callback if ranks.main else no_callback
    began = time.perf_counter()
    segmenter = load_model(
        config.model,
        engine=config.engine,
        device=str(ranks.device),
        precision=config.precision,
        short_side=config.short_side,
        parallel=True,
    )
    checked = examine(config.data, callback)
    problems = tuple(f.sentence for f in checked.findings if f.severity == "error")
    for problem in problems:
        callback(Message(f"An error in the dataset: {problem}", "warning"))
    split, why = split_of(config, checked.description, segmenter)
    left_out = {name: n for name, n in checked.splits.items() if split not in ("all", name)}
    description = as_the_model_sees(checked.description, segmenter, callback)
    dataset = SegmentationDataset(description, split, preprocess=segmenter.preprocess, cache=False)
    callback(Message(f"{segmenter.path or 'The model'} on {len(dataset)} images ({split})"))
    callback(Message(on_split(left_out, why)))
    look = labels_of_all_views(segmenter) if config.tta else labels_of(segmenter)
    report = score(
        look,
        dataset,
        callback,
        batch=config.batch,
        workers=choose_workers(config.workers, ranks.device.type),
        ranks=ranks,
        num_parallel=segmenter.num_parallel,
    )
    refuse_meaningless(report, config.data)
    seconds = time.perf_counter() - began
    return EvalResult(report, split, segmenter.path, seconds, left_out, problems)
