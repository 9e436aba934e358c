"""The verb `demo`: the whole way, from a folder of pictures to heatmaps, on drawn data."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from fcnseg.commands.eval import evaluate
from fcnseg.commands.infer import infer
from fcnseg.commands.train import train
from fcnseg.commands.viz import view
from fcnseg.config import DemoConfig, EvalConfig, InferConfig, TrainConfig, VizConfig
from fcnseg.data import drawn
from fcnseg.errors import OptionError
from fcnseg.io.images import write_image
from fcnseg.io.video_writer import VideoWriter
from fcnseg.progress import Callback, Message, Progress, no_callback

FPS = Fraction(25)


CLIP_FRAMES = 100


@dataclass(frozen=True)
class DemoResult:
    """What was made, and where.

    miou: mean IoU on the drawn validation pictures, none of which was trained on.
    """

    data: Path
    pairs: int
    classes: str
    model: Path
    miou: float
    video: Path
    frames: int
    heatmaps: Path

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for --json."""
        values = vars(self).items()
        return {name: str(value) if isinstance(value, Path) else value for name, value in values}


def demo(config: DemoConfig, callback: Callback = no_callback) -> DemoResult:
    """Draw a data set and a clip, train, evaluate, segment the clip, write heatmaps.

    OptionError when the folder is not empty.
    """
    out = config.out
    _refuse_taken(out)
    data, clip, run = out / "data", out / "clip.mp4", out / "run"
    callback(Message(f"Drawing a data set and a clip into {out}"))
    pairs = drawn.write_dataset(data, seed=config.seed, callback=callback)
    still = _draw_clip(clip, out / "still.png", seed=config.seed, callback=callback)

    callback(Message(f"fcnseg train {data} --out {run} --backbone tiny --epochs {config.epochs}"))
    train(_training(config, data, run), callback)
    callback(Message(f"fcnseg eval {data} -m {run}"))
    scored = evaluate(EvalConfig(data=data, model=str(run), device=config.device), callback)
    video = out / "clip_overlay.mp4"
    callback(Message(f"fcnseg infer {clip} -m {run} -o {video}"))
    segmented = infer(
        InferConfig(source=(str(clip),), model=str(run), out=video, device=config.device), callback
    )
    heatmaps = out / "heatmaps"
    callback(Message(f"fcnseg viz {still} -m {run} -o {heatmaps}"))
    view(
        VizConfig(source=(str(still),), model=str(run), out=heatmaps, device=config.device),
        callback,
    )
    return DemoResult(
        data=data,
        pairs=pairs,
        classes=", ".join(drawn.CLASSES.names),
        model=run / "best.safetensors",
        miou=scored.miou,
        video=segmented.outputs[0],
        frames=segmented.frames_out,
        heatmaps=heatmaps,
    )


def _refuse_taken(out: Path) -> None:
    """OptionError for a folder with anything in it, a data set of the user's for example."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OptionError(
            f"--out {out}: there is something there.", hint="name a new folder, or delete that one"
        )


def _training(config: DemoConfig, data: Path, run: Path) -> TrainConfig:
    """A network small enough to learn from nothing on a laptop in about two minutes."""
    return TrainConfig(
        data=data,
        out=run,
        backbone="tiny",
        decoder="fcn4s",
        backbone_weights="none",
        width=32,
        epochs=config.epochs,
        batch=8,
        crop=(96, 96),
        scale=(0.9, 1.1),
        lr=5e-3,
        backbone_lr=1.0,
        seed=config.seed,
        device=config.device,
    )


def _draw_clip(clip: Path, still: Path, *, seed: int, callback: Callback) -> Path:
    """A moving scene that training never saw, and its first frame as a picture."""
    scene = drawn.make_scene(seed + 999_999_937)
    height, width = drawn.SIZE
    with VideoWriter(clip, FPS, (height, width)) as writer:
        for index in range(CLIP_FRAMES):
            image, _ = drawn.draw(scene, index / float(FPS))
            writer.write(image)
            callback(Progress("drawing the clip", index + 1, CLIP_FRAMES, "frames"))
            if index == 0:
                write_image(still, image)
    return still
