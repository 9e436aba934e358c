"""The command `eval`: score a model on a dataset folder, per class."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fcnseg.config import EvalConfig
from fcnseg.datasets.check import examine
from fcnseg.datasets.dataset import SegmentationDataset
from fcnseg.datasets.loader import choose_workers
from fcnseg.distributed import Distributed, init_distributed
from fcnseg.errors import OptionError
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
from fcnseg.inference.segmenter import Segmenter
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
        """Mean IoU of the classes that occur, 0..1."""
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


def evaluate(
    model: EvalConfig | Segmenter | Path | str | None,
    data: Path | str | None = None,
    callback: Callback = no_callback,
    **options: Any,
) -> EvalResult:
    """Score a model on one split of a dataset folder, at the labels' own resolution.

    model: what `fcnseg.load` takes or returns, or an EvalConfig, which holds all of the following.
    data: the folder. options: those of EvalConfig, by name (split, tta, batch, ...).
    callback: is called with a Progress after each batch and with messages.

    Scores are fractions, 0..1: `.miou`, `.classes` (a ClassScore each), `.report`. Under torchrun
    each process takes a part of the images; the result is the same. Raises DatasetError when the
    classes of model and folder can't be compared, OptionError for a wrong option.

        report = fcnseg.evaluate("nuclei", "photos")
        print(report.miou)
    """
    loaded = model if isinstance(model, Segmenter) else None
    if isinstance(model, EvalConfig):
        config = dataclasses.replace(model, **options)
    else:
        path = loaded.path if loaded else model
        named = {} if path is None else {"model": str(path)}
        config = EvalConfig.make({**({} if data is None else {"data": data}), **named, **options})
    if loaded is not None:
        useless = sorted({"engine", "device", "precision", "short_side"} & set(options))
        if useless:
            raise OptionError(
                f"{useless[0]} has no effect on a model that is loaded already.",
                hint=f"give it to fcnseg.load: fcnseg.load(..., {useless[0]}=...)",
            )
        return _evaluate(config, loaded, Distributed.single(), callback)
    ranks = init_distributed(config.device)
    segmenter = load_model(
        config.model,
        engine=config.engine,
        device=str(ranks.device),
        precision=config.precision,
        short_side=config.short_side,
        parallel=True,
    )
    return _evaluate(config, segmenter, ranks, callback if ranks.main else no_callback)


def _evaluate(
    config: EvalConfig, segmenter: Segmenter, ranks: Distributed, callback: Callback
) -> EvalResult:
    began = time.perf_counter()
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
        workers=choose_workers(config.workers, segmenter.engine.device.split(":")[0]),
        ranks=ranks,
        num_parallel=segmenter.num_parallel,
    )
    refuse_meaningless(report, config.data)
    seconds = time.perf_counter() - began
    return EvalResult(report, split, segmenter.path, seconds, left_out, problems)
