"""The options of the verbs that look at pictures: `fcnseg infer` and `fcnseg viz`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from fcnseg.config.choices import (
    Alpha,
    Device,
    Engine,
    Flag,
    Model,
    Output,
    RunPrecisionOption,
    ShortSide,
    Source,
)
from fcnseg.config.options import STRICT, Options


@dataclass(frozen=True, kw_only=True, config=STRICT)
class InferConfig(Options):
    """Segment an image, a folder, a video or a camera."""

    verb: ClassVar[str] = "infer"
    source: Source
    model: Model = None
    short_side: ShortSide = None
    out: Annotated[
        Path | None,
        Field(description="A file (one image, a video) or a folder; without it, runs/inferN."),
        Flag(("--out", "-o")),
    ] = None
    save: Annotated[
        tuple[Output, ...],
        Field(
            description="What to write, repeatable: overlay, labels (class indices), color, "
            "probabilities (.npz), polygons (geojson, labelme) or run lengths (coco). "
            "Default: overlay for videos, overlay and labels for images."
        ),
    ] = ()
    shares: Annotated[
        Path | None,
        Field(description="A JSON line a frame with each class's share of it; - is stdout."),
        Flag(metavar="FILE"),
    ] = None
    show: Annotated[bool, Field(description="Show a window; q ends.")] = False
    alpha: Alpha = 0.5
    conf: Annotated[
        float, Field(ge=0, lt=1, description="Pixels less certain than this become unknown (255).")
    ] = 0.0
    classes: Annotated[
        tuple[str, ...],
        Field(description="Only these classes, repeatable: names or numbers; others become 255."),
        Flag(("--class",)),
    ] = ()
    every: Annotated[int, Field(ge=1, description="Take every N-th frame.")] = 1
    limit: Annotated[int, Field(ge=0, description="Stop after this many frames; 0: all.")] = 0
    start: Annotated[float, Field(ge=0, description="Seconds of a video to pass over.")] = 0.0
    end: Annotated[float | None, Field(gt=0, description="Second of a video to stop at.")] = None
    watch: Annotated[bool, Field(description="Stay with a folder; segment what comes.")] = False
    skip_done: Annotated[
        bool, Field(description="Pass over frames that an earlier run into --out has done.")
    ] = False
    batch: Annotated[int, Field(ge=1, description="Frames a step (files only).")] = 1
    smooth: Annotated[
        float,
        Field(
            ge=0, lt=1, description="Steadier labels of a video: the weight of the past; 0: off."
        ),
    ] = 0.0
    tile: Annotated[
        str,
        Field(description="Large pictures in tiles: auto, off, or a tile's side in pixels."),
    ] = "auto"
    device: Device = "auto"
    precision: RunPrecisionOption = "auto"
    engine: Engine = "auto"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class VizConfig(Options):
    """Heatmaps over the picture: where the network sees each class, and how sure it is."""

    verb: ClassVar[str] = "viz"
    source: Source
    model: Model = None
    short_side: ShortSide = None
    out: Annotated[
        Path | None,
        Field(description="The folder for the pictures; without it, runs/vizN."),
        Flag(("--out", "-o")),
    ] = None
    classes: Annotated[
        tuple[str, ...],
        Field(description="Classes to draw, repeatable: names or numbers; without it, all."),
        Flag(("--class",)),
    ] = ()
    alpha: Alpha = 0.6
    rungs: Annotated[
        bool,
        Field(description="Also draw what each rung of the ladder says (networks of fuse score)."),
    ] = False
    classify: Annotated[
        bool,
        Field(
            description="Draw what an ImageNet classifier sees, without any training; "
            "--model names the backbone (efficientnet_lite0, vgg16, ...)."
        ),
    ] = False
    limit: Annotated[int, Field(ge=0, description="Stop after this many frames; 0: all.")] = 0
    device: Device = "auto"
    precision: RunPrecisionOption = "auto"
    engine: Engine = "auto"
