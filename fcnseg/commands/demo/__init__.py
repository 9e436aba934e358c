"""The command `demo`: the full pipeline on synthetic data, from a dataset folder to heatmaps."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fcnseg
from fcnseg.commands.demo.scenes import CLASSES, draw, make_scene, write_dataset
from fcnseg.config import DemoConfig, EvalConfig, InferConfig, TrainConfig, VizConfig
from fcnseg.config.options import spelled
from fcnseg.errors import OptionError
from fcnseg.files import kind_of
from fcnseg.io.images import write_image
from fcnseg.io.video_writer import VideoWriter
from fcnseg.progress import Callback, Message, Progress, no_callback

if TYPE_CHECKING:
    from fcnseg.commands.demo.paper import PaperResult
    from fcnseg.commands.eval import EvalResult

FPS = Fraction(25)

CLIP_FRAMES = 100

DEMO_SIZE = (240, 320)
"""Height and width of the synthetic images and of the video."""

SHORT_SIDE = 128
"""Short side of the network's input, so that training takes minutes without a GPU."""

FOLDER = "fcnseg-demo"


@dataclass(frozen=True)
class DemoResult:
    """The outputs of the demo.

    scores: on the synthetic validation images, which were not used for training.
    """

    data: Path
    pairs: int
    classes: str
    model: Path
    scores: EvalResult
    video: Path
    frames: int
    heatmaps: Path

    @property
    def miou(self) -> float:
        """Mean IoU on the validation images, 0..1."""
        return self.scores.miou

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for --json."""
        values = {**vars(self), "miou": self.miou, "scores": self.scores.as_dict()}
        return {k: str(value) if isinstance(value, Path) else value for k, value in values.items()}


def demo(
    config: DemoConfig | None = None, callback: Callback = no_callback, **options: Any
) -> DemoResult | PaperResult:
    """Generate a dataset and a video, train, evaluate, segment the video, write heatmaps.

    options: those of DemoConfig, by name. paper: reproduce the figures of the FCN paper instead
    (fcnseg.commands.demo.paper).
    OptionError when --out names a folder that is not empty.

        shown = fcnseg.demo(out="demo", epochs=2)
    """
    config = DemoConfig.of(config, options)
    out = _folder(config)
    if config.paper:
        from fcnseg.commands.demo.paper import reproduce_paper  # imports all of viz

        return reproduce_paper(config, out, callback)
    for name in ("data", "backbone"):
        if name in config.chosen():
            raise OptionError(f"{spelled(name)} is for --paper.", hint="add --paper")
    data, clip, run = out / "data", out / "clip.mp4", out / "run"
    callback(Message(f"Generating a dataset and a video in {out}"))
    pairs = write_dataset(data, seed=config.seed, size=DEMO_SIZE, callback=callback)
    still = out / "still.png"
    _draw_clip(clip, still, seed=config.seed, callback=callback)

    flags = f"--backbone tiny --short-side {SHORT_SIDE} --epochs {config.epochs}"
    callback(Message(f"fcnseg train {data} --out {run} {flags}"))
    fcnseg.train(_training(config, data, run), callback)
    callback(Message(f"fcnseg eval {data} -m {run}"))
    scores = fcnseg.evaluate(
        EvalConfig(data=data, model=(str(run),), device=config.device), callback=callback
    )
    video = out / "clip_overlay.mp4"
    callback(Message(f"fcnseg infer {clip} -m {run} -o {video}"))
    segmented = fcnseg.infer(
        InferConfig(source=(str(clip),), model=(str(run),), out=video, device=config.device),
        callback,
    )
    heatmaps = out / "heatmaps"
    callback(Message(f"fcnseg viz {still} -m {run} -o {heatmaps}"))
    fcnseg.view(
        VizConfig(source=(str(still),), model=(str(run),), out=heatmaps, device=config.device),
        callback,
    )
    return DemoResult(
        data=data,
        pairs=pairs,
        classes=", ".join(CLASSES.names),
        model=run / "best.safetensors",
        scores=scores,
        video=segmented.outputs[0],
        frames=segmented.frames_out,
        heatmaps=heatmaps,
    )


def _folder(config: DemoConfig) -> Path:
    """The output folder: --out, which must be empty, else the next free name."""
    if config.out is None:
        names = (Path(f"{FOLDER}{number}") for number in itertools.count(2))
        return next(path for path in itertools.chain([Path(FOLDER)], names) if not _is_taken(path))
    if _is_taken(config.out):
        raise OptionError(
            f"--out {config.out} is "
            f"{'not empty' if config.out.is_dir() else f'{kind_of(config.out)}, not a folder'}.",
            hint="name a new folder, or omit --out",
        )
    return config.out


def _is_taken(out: Path) -> bool:
    return out.exists() and (not out.is_dir() or any(out.iterdir()))


def _training(config: DemoConfig, data: Path, run: Path) -> TrainConfig:
    """Options for a network that trains from scratch in two minutes on a laptop."""
    return TrainConfig(
        data=data,
        out=run,
        backbone="tiny",
        decoder="fcn4s",
        backbone_weights="none",
        width=32,
        epochs=config.epochs,
        batch=8,
        short_side=SHORT_SIDE,
        crop=(96, 96),
        scale=(0.9, 1.1),
        lr=5e-3,
        backbone_lr=1.0,
        seed=config.seed,
        device=config.device,
    )


def _draw_clip(clip: Path, still: Path, *, seed: int, callback: Callback) -> None:
    """Write a video of a scene outside the dataset, and its first frame as an image."""
    scene = make_scene(seed + 999_999_937, DEMO_SIZE)
    with VideoWriter(clip, FPS, DEMO_SIZE) as writer:
        for index in range(CLIP_FRAMES):
            image, _ = draw(scene, index / float(FPS))
            writer.write(image)
            callback(Progress("generating the video", index + 1, CLIP_FRAMES, "frames"))
            if index == 0:
                write_image(still, image)
