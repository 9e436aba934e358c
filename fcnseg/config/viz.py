"""The options of `fcnseg viz`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import fcnseg.config.texts as texts
from fcnseg.config.options import EngineName, Options, RunPrecision, Split, option

# fmt: off

Shown = Literal[
    "image", "prediction", "labels", "errors", "runner-up", "entropy", "confidence", "heatmaps", "scores", "skips",
    "gained", "partial-sums", "autoencoder", "pyramid", "gradcam", "integrated", "channels", "kernels",
]

_PANELS = "'skips' draws what each skip (pool3, pool4, ...) adds, 'partial-sums' the prediction up to each, 'channels' a stage"


@dataclass(frozen=True, kw_only=True)
class VizConfig(Options):
    """Options of `fcnseg viz`.

        drawn = fcnseg.view(fcnseg.VizConfig(source=("cells.png",), model=("nuclei",)))
    """

    command, summary = "viz", "Draw heatmaps: where the network sees each class, and how confident it is."
    source: tuple[str, ...] = option(..., texts.SOURCE, argument=True, metavar="SOURCE...")
    model: tuple[str, ...] | None = option(None, texts.MODELS, flags=texts.MODEL_FLAGS, metavar="MODEL")
    out: Path | None = option(None, "Output folder (default: runs/vizN)", flags=texts.OUT)
    classes: tuple[str, ...] = option((), "Draw only this class (name or number); repeatable", flags=("--class",))
    rungs: bool = option(False, "Also draw each skip's contribution: its part of the scores (fuse score), else what changes without it", hidden=("--skips-shown",))
    show_what: tuple[Shown, ...] = option((), "Draw one labeled figure for each image from these panels, a comma-separated list", metavar="LIST", listed=True, advice=_PANELS)
    separate: bool = option(False, "With --show-what: a file for each instead of one figure")
    labels: Path | None = option(None, "With --show-what labels, errors or gained: where the labels are, a dataset, a folder of label files or the label file of one image (default: SOURCE is a dataset)", metavar="PATH")
    split: Split | None = option(None, "With --show-what, of SOURCE as a dataset: train, val, test or all (default: as in eval)")
    beside: tuple[str, ...] = option((), "With --show-what partial-sums: a network that was trained without the finer skips; repeatable", metavar="MODEL")
    at: tuple[int, int] | None = option(None, "With --show-what gradcam, integrated and others about a class: the pixel that is explained, from the left and from the top (default: all that are predicted so)", ge=0, metavar="X Y")
    format: Literal["png", "svg", "pdf"] = option("png", "File format of the figures of --show-what: png, svg or pdf (extra: report)")
    term: bool = option(False, "Draw the prediction in the terminal, in half blocks, instead of writing files")
    show: bool = option(False, "Show the result in a window; keys select the view and save it")
    theme: Literal["dark", "light"] = option("dark", "Background of the pages: dark or light")
    classify: bool = option(False, "Draw what an ImageNet classifier sees, without training; --model names the backbone (efficientnet_lite0, vgg16, ...)")
    tta: bool = option(False, texts.TTA)
    alpha: float = option(0.6, texts.ALPHA, ge=0, le=1)
    show_bands: str | None = option(None, texts.SHOW_BANDS, metavar="R,G,B")
    limit: int = option(0, texts.LIMIT, ge=0)
    page: str | None = option(None, texts.PAGE, metavar="N|all")
    short_side: int | None = option(None, texts.SHORT_SIDE, ge=0, metavar="N")
    fps: float | None = option(None, "Frames per second of images or of a raw stream that states none", gt=0, le=480)
    device: str = option("auto", texts.DEVICE)
    precision: RunPrecision = option("auto", texts.INT8)
    engine: EngineName = option("auto", texts.ENGINE)
