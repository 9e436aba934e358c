"""`fcnseg demo --paper`: reproduce the figures of the FCN paper with newly trained networks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import fcnseg
from fcnseg.commands.demo.chapters import CHAPTERS
from fcnseg.commands.demo.lab import Lab, Network, Section
from fcnseg.commands.demo.scenes import write_dataset
from fcnseg.config import DemoConfig
from fcnseg.config.options import spelled
from fcnseg.datasets.loader import Sample
from fcnseg.errors import OptionError
from fcnseg.io.images import encode_image, resize_image, resize_labels, write_bytes
from fcnseg.models.networks import build_empty
from fcnseg.models.spec import ModelSpec
from fcnseg.progress import Callback, Message, no_callback
from fcnseg.report import render
from fcnseg.report.gallery import jpeg

if TYPE_CHECKING:
    from fcnseg.commands.multi_run import TrainResult

TINY = "tiny"

TRAIN, VAL = 320, 40
"""Number of synthetic images."""

SHORT_SIDE = 192
"""Short side of the network's input for the user's images."""

SYNTHETIC = {"crop": (96, 96), "scale": (0.9, 1.1)}

FIRST = {"backbone_weights": "none", "lr": 5e-3, "backbone_lr": 1.0}
"""Options to train `tiny` from scratch; pretrained backbones use the defaults."""

NEXT = {"lr": 2e-3, "backbone_lr": 1.0}
"""Options for a training that starts from another network."""


@dataclass(frozen=True)
class Step:
    """One training. start: the step whose network it starts from; None for a new network."""

    start: str | None
    options: Mapping[str, Any]


STEPS = {
    "fcn32s": Step(None, {"decoder": "fcn32s", "fuse": "score"}),
    "fcn16s": Step("fcn32s", {"decoder": "fcn16s", "aux": 0.0}),
    "fcn8s": Step("fcn16s", {"decoder": "fcn8s", "aux": 0.0}),
    "learned": Step("fcn16s", {"decoder": "fcn8s", "aux": 0.0, "upsample": "learned"}),
    "concat": Step("fcn32s", {"decoder": "fcn8s", "fuse": "concat", "width": 32}),
    "symmetric": Step("fcn32s", {"decoder": "fcn2s", "fuse": "concat", "width": 16}),
}
"""The trainings in order; those that start from another take half of the epochs."""


@dataclass(frozen=True)
class PaperResult:
    """The outputs. index: the page with all sections. data: the dataset folder.

    sections: in the order of the page. images: their files, in the same order.
    """

    index: Path
    data: Path
    sections: tuple[Section, ...]
    images: tuple[Path, ...]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for --json."""
        sections = [
            {"title": one.title, "paper": one.place, "image": str(image), "numbers": one.numbers}
            for one, image in zip(self.sections, self.images, strict=True)
        ]
        whole = {"index": str(self.index), "data": str(self.data), "seconds": self.seconds}
        return {**whole, "sections": sections}


def reproduce_paper(config: DemoConfig, out: Path, callback: Callback = no_callback) -> PaperResult:
    """Train the networks in out/runs; write every section's image and the page index.html.

    config.data: a dataset folder; None to write a synthetic one to out/data. Raises what
    fcnseg.train does; OptionError for an unknown backbone, and for images that are not RGB.
    """
    begun = time.perf_counter()
    steps = steps_of(config.backbone)
    data = config.data
    if data is None:
        data = out / "data"
        callback(Message(f"Generating a dataset in {data}"))
        write_dataset(data, train=TRAIN, val=VAL, seed=config.seed, callback=callback)
    labelled = fcnseg.SegmentationDataset(data, split="val")
    samples = [labelled[index] for index in range(min(len(labelled), VAL))]
    lab = _lab(_train_all(steps, config, data, out / "runs", callback), samples)
    sections, images = [], []
    for number, chapter in enumerate(CHAPTERS, start=1):
        section = chapter(lab)
        path = out / f"{number:02}-{chapter.__name__}.png"
        write_bytes(path, encode_image(section.image))
        callback(Message(f"{path}: {section.title}"))
        sections.append(section)
        images.append(path)
    index = out / "index.html"
    write_bytes(index, _page(sections, data).encode())
    seconds = time.perf_counter() - begun
    return PaperResult(index, data, tuple(sections), tuple(images), seconds)


def steps_of(backbone: str) -> dict[str, Step]:
    """STEPS for a backbone; for others than `tiny`, an additional classifier with `tiny`.

    The symmetric network has skips down to the backbone's finest features.
    """
    network = build_empty(ModelSpec(backbone=backbone, num_classes=2, decoder="fcn32s"))
    symmetric = STEPS["symmetric"]
    finest = f"fcn{min(network.backbone.channels)}s"
    steps = STEPS | {"symmetric": Step(symmetric.start, {**symmetric.options, "decoder": finest})}
    return steps if backbone == TINY else steps | {"classifier": STEPS["fcn32s"]}


def _train_all(
    steps: Mapping[str, Step], config: DemoConfig, data: Path, runs: Path, callback: Callback
) -> dict[str, TrainResult]:
    """Train every step; return the results by name."""
    results = {}
    for name, step in steps.items():
        options = {**step.options, **(SYNTHETIC if config.data is None else {})}
        if step.start is not None:
            options |= {"finetune": str(runs / step.start), **NEXT}
            options["epochs"] = (config.epochs + 1) // 2
        else:
            backbone = TINY if name == "classifier" else config.backbone
            options |= {"backbone": backbone, "epochs": config.epochs}
            options |= FIRST if backbone == TINY else {}
            options |= {} if config.data is None else {"short_side": SHORT_SIDE}
        options |= {"out": runs / name, "seed": config.seed, "device": config.device}
        options["report"] = False
        callback(Message(f"fcnseg train {data} {_as_flags(options)}"))
        results[name] = fcnseg.train(data, callback, **options)
        if fcnseg.Checkpoint.load(results[name].best).preprocess.bands is not None:
            raise OptionError("--paper draws images of 8-bit RGB; this dataset has other bands.")
    return results


def _as_flags(options: Mapping[str, Any]) -> str:
    """Options in command-line syntax."""
    words = []
    for name, value in options.items():
        if value is False:
            words.append(f"--no-{name}")
        else:
            words += [spelled(name), *map(str, value if isinstance(value, tuple) else [value])]
    return " ".join(words)


def _lab(results: Mapping[str, TrainResult], samples: Sequence[Sample]) -> Lab:
    """The trained networks, and the validation image with the most classes."""
    networks = {name: _network(result) for name, result in results.items()}
    networks.setdefault("classifier", networks["fcn32s"])
    preprocess = fcnseg.Checkpoint.load(results["fcn8s"].best).preprocess
    first = max(range(len(samples)), key=lambda at: len(np.unique(samples[at].labels)))
    size = preprocess.network_size(samples[first].labels.shape)
    others = [samples[(first + step) % len(samples)].image for step in (1, 2, 3)]
    return Lab(
        networks,
        resize_image(samples[first].image, size),
        resize_labels(samples[first].labels, size),
        tuple(resize_image(image, size) for image in others),
    )


def _network(result: TrainResult) -> Network:
    model = fcnseg.load(result.best, engine="torch", device="cpu", precision="f32", short_side=0)
    return Network(model, fcnseg.Checkpoint.load(result.best).build(), result.miou)


def _page(sections: Sequence[Section], data: Path) -> str:
    content = {
        "title": "The FCN paper, illustrated",
        "summary": f"The topics of the FCN paper with networks trained on {data}",
        "sections": [(one, jpeg(one.image)) for one in sections],
    }
    return render("paper.html.j2", content)
