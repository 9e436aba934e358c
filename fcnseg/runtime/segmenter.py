"""A trained network, ready to be used: pictures of any size in, predictions out.

    segmenter = load("runs/train1")
    for frame, prediction in segmenter.stream("clip.mp4"):
        ...

Knows the class map and how pictures are prepared; leaves the arithmetic to an engine.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import ClassMap
from fcnseg.config import EngineName
from fcnseg.errors import OptionError
from fcnseg.events import Listener, nobody
from fcnseg.frames import Frame, Prediction
from fcnseg.media.images import resize_image
from fcnseg.media.sources import open_source
from fcnseg.media.stages import Ahead, Batches, abreast
from fcnseg.models.spec import Preprocess
from fcnseg.models.zoo import find_model
from fcnseg.runtime.engines import Engine, Size, TorchEngine
from fcnseg.runtime.opening import Wish, open_engine
from fcnseg.runtime.steady import SteadyEngine, check_moving


@dataclass(frozen=True, eq=False)
class Segmenter:
    """An engine, what its classes mean, and how it wants its pictures.

    path: the model file it was loaded from; None for one made in memory.
    extra: what else the file says, as plain data.
    """

    engine: Engine
    classes: ClassMap
    preprocess: Preprocess
    path: Path | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def lanes(self) -> int:
        """How many threads may ask for predictions at the same time."""
        return self.engine.lanes.count

    def predict(
        self,
        images: Sequence[NDArray[np.uint8]],
        *,
        confidence: bool = False,
        probabilities: bool = False,
    ) -> list[Prediction]:
        """A prediction for each uint8 RGB picture (H, W, 3), in order, at its own size.

        Pictures of one size go through the network together. Confidence and probabilities
        are worked out only when asked for.
        """
        groups: dict[Size, list[int]] = defaultdict(list)
        for index, image in enumerate(images):
            groups[image.shape[:2]].append(index)
        found: dict[int, Prediction] = {}
        for size, indices in groups.items():
            batch = self.prepare([images[index] for index in indices])
            answer = self._with_probabilities if probabilities else self._with_labels
            found.update(zip(indices, answer(batch, size, confidence), strict=True))
        return [found[index] for index in range(len(images))]

    def logits(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits float32 (K, H, W) of one uint8 RGB picture (H, W, 3), at its own size."""
        size = (image.shape[0], image.shape[1])
        logits: NDArray[np.float32] = self.engine.logits(self.prepare([image]), size=size)[0]
        return logits

    def rungs(self, image: NDArray[np.uint8]) -> dict[int, NDArray[np.float32]]:
        """Each rung's share of the logits, by stride: float32 (K, H, W) at the picture's size.

        They sum to the logits. OptionError where that can't be: another engine than torch,
        or a network that does not sum scores.
        """
        if not isinstance(self.engine, TorchEngine):
            raise OptionError(
                f"Rungs are looked at in torch, not in {self.engine.name}.",
                hint="give the checkpoint itself, with --engine torch",
            )
        size = (image.shape[0], image.shape[1])
        shares = self.engine.rungs(self.prepare([image]), size=size)
        return {stride: share[0] for stride, share in shares.items()}

    def stream(
        self,
        source: str | Path,
        *,
        every: int = 1,
        limit: int = 0,
        batch: int = 1,
        smooth: float = 0.0,
        confidence: bool = False,
        probabilities: bool = False,
    ) -> Iterator[tuple[Frame, Prediction]]:
        """Each frame of a source with its prediction, in order.

        source: image, folder, glob, video, camera number or stream address.
        every, limit: take every N-th frame; stop after so many (0: never).
        batch: frames a step; a live source is always taken one by one.
        smooth: steadier labels of a video: the weight of the past, less than 1; 0: off.
        """
        if batch < 1:
            raise OptionError(f"batch: at least 1 frame a step; found {batch}.")
        segmenter = replace(self, engine=SteadyEngine(self.engine, smooth)) if smooth else self
        with open_source(source, every=every, limit=limit) as frames:
            if smooth:
                check_moving(frames.kind)

            def answer(group: list[Frame]) -> list[Prediction]:
                images = [frame.image for frame in group]
                return segmenter.predict(images, confidence=confidence, probabilities=probabilities)

            if frames.live:
                yield from ((frame, answer([frame])[0]) for frame in frames)
                return
            with Ahead(
                frames, 4 + batch, weigh=lambda frame: frame.image.nbytes, stop=frames.close
            ) as ahead:
                answered = abreast(answer, Batches(ahead, batch), segmenter.lanes)
                with closing(answered):
                    for group, answers in answered:
                        yield from zip(group, answers, strict=True)

    def prepare(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Pictures of one size as the network wants them: uint8 (N, h, w, 3)."""
        height, width = images[0].shape[:2]
        wanted = self.preprocess.network_size((height, width))
        return np.stack([resize_image(image, wanted) for image in images])

    def _with_labels(
        self, batch: NDArray[np.uint8], size: Size, confidence: bool
    ) -> list[Prediction]:
        labels, sure = self.engine.labels(batch, confidence=confidence, size=size)
        return [
            Prediction(labels[index], None if sure is None else sure[index])
            for index in range(len(batch))
        ]

    def _with_probabilities(
        self, batch: NDArray[np.uint8], size: Size, confidence: bool
    ) -> list[Prediction]:
        labels, shares = self.engine.probabilities(batch, size=size)
        return [
            Prediction(one, share.max(axis=0) if confidence else None, share)
            for one, share in zip(labels, shares, strict=True)
        ]


def load(
    model: str | Path | None = None,
    *,
    engine: EngineName = "auto",
    device: str = "auto",
    precision: str = "auto",
    frames: int = 0,
    parallel: bool = False,
    short_side: int | None = None,
    listener: Listener = nobody,
) -> Segmenter:
    """A segmenter from a model file, ready to run.

    model: a .safetensors checkpoint, an exported .onnx, or a run folder (its best); None or
        "best": the best of the newest run.
    engine: "auto" is torch, or what runs faster on this machine if it is installed and the
        conversion is there already or worth its time.
    frames: how many frames will come, if known: it decides whether a conversion is.
    parallel: for many pictures: on a processor several are worked on side by side, which takes
        longer for one and less for all, and more memory.
    short_side: pixels at which the network sees pictures, 0 for their own; without it, what the
        model was trained for.

    Raises CheckpointError, OptionError, MissingExtra.
    """
    path = find_model(None if model is None else str(model), listener=listener)
    runner, header = open_engine(path, Wish(engine, device, precision, frames, parallel), listener)
    preprocess = header.preprocess.at(short_side)
    return Segmenter(runner, header.classes, preprocess, path, header.extra)
