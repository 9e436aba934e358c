"""A trained network ready for inference: images of any size in, predictions out.

It has the class map and the preprocessing; an engine runs the network.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np
from numpy.typing import NDArray

from fcnseg import notebook
from fcnseg.classes import ClassMap
from fcnseg.concurrency import Batches, Prefetcher, map_ordered
from fcnseg.config import InferConfig
from fcnseg.device import Device, device_name
from fcnseg.engines import RUNNABLE, EngineOptions
from fcnseg.engines.averaging import SmoothedEngine, check_is_video
from fcnseg.engines.base import Engine, Size
from fcnseg.errors import OptionError, path_of
from fcnseg.inference.prediction import (
    PredictedArrays,
    Prediction,
    batches_of,
    is_rgb,
    predict_labels,
    predict_probabilities,
)
from fcnseg.io.bands.files import given_bands
from fcnseg.io.images import resize_image
from fcnseg.io.inputs import ImageInput, as_list, is_batch, source_name, to_rgb
from fcnseg.io.sources import open_source
from fcnseg.io.sources.base import Frame
from fcnseg.models.checkpoint import BEST, Checkpoint, resizes_itself
from fcnseg.models.spec import Preprocess
from fcnseg.progress import log_messages, no_callback

if TYPE_CHECKING:
    from fcnseg.engines.pytorch import TorchEngine

_BATCH = 8
"""Images of a list that are read and run together."""


@dataclass(eq=False)
class Segmenter:
    """An engine with its classes and its preprocessing.

        model = fcnseg.load("nuclei")
        prediction = model("cells.png")
        prediction.labels, prediction.heatmap("nucleus")

    It can be pickled, copied and sent to other processes; see `load` for forked ones.

    path: the model file it was loaded from; None for a model created in memory.
    extra: the `extra` of the file's checkpoint, as plain data.
    options: how its engine was opened. reopen: opens another engine; None for a model created in
    memory. members: the models whose probabilities are averaged; empty for a single network.
    """

    engine: Engine = field(repr=False)
    classes: ClassMap
    preprocess: Preprocess = field(repr=False)
    path: Path | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)
    options: EngineOptions = field(default_factory=EngineOptions, repr=False)
    reopen: Callable[[EngineOptions], Engine] | None = field(default=None, repr=False)
    members: tuple[Segmenter, ...] = field(default=(), repr=False)

    @property
    def networks(self) -> tuple[Segmenter, ...]:
        """The members, or this segmenter itself if it is a single network."""
        return self.members or (self,)

    @property
    def files(self) -> tuple[Path, ...]:
        """The model files it was loaded from."""
        return tuple(one.path for one in self.networks if one.path is not None)

    @property
    def title(self) -> str:
        """Its name in messages: its files."""
        return " + ".join(map(str, self.files)) or "The model"

    @property
    def sees_fixed_size(self) -> bool:
        """Whether images are resized to a fixed short side."""
        return any(
            one.preprocess.short_side is not None or resizes_itself(one.extra)
            for one in self.networks
        )

    def _repr_html_(self) -> str:
        engine = f"{self.engine.name}, {self.engine.device}, {self.engine.precision}"
        return notebook.model(self.title, engine, self.preprocess.short_side, self.classes)

    @property
    def num_parallel(self) -> int:
        """How many threads may call `predict` at the same time."""
        return self.engine.parallelism.count

    @property
    def sums_scores(self) -> bool:
        """Whether `skip_scores` is available: one network in torch whose fuse is "score"."""
        return not self.members and self.engine.sums_scores

    @overload
    def __call__(
        self,
        images: ImageInput,
        *,
        bgr: bool = ...,
        confidence: bool = ...,
        probabilities: bool = ...,
    ) -> Prediction: ...

    @overload
    def __call__(
        self,
        images: list[Any] | tuple[Any, ...],
        *,
        bgr: bool = ...,
        confidence: bool = ...,
        probabilities: bool = ...,
    ) -> list[Prediction]: ...

    def __call__(
        self,
        images: ImageInput | list[Any] | tuple[Any, ...],
        *,
        bgr: bool = False,
        confidence: bool = False,
        probabilities: bool = False,
    ) -> Prediction | list[Prediction]:
        """Predict an image; returns a list of predictions for a list of images.

        images: a path, the bytes of an image file, a Pillow image, an array (H, W), (H, W, 3) or
            (H, W, 4), a tensor (3, H, W); uint8, uint16, or floats in 0..1; or a list of these. An
            array or tensor with 4 axes is a list. Labels are the same as for the image file.
        bgr: arrays and tensors are in BGR order, as in OpenCV.
        confidence, probabilities: compute them now instead of on first access (see Prediction).

        InputError (a ValueError) for arrays whose values are ambiguous, such as floats outside
        0..1, int64 or another order of axes; MediaError for files.
        """
        wanted = {"confidence": confidence, "probabilities": probabilities}
        if not is_batch(images):
            return self._of_frames([self._frame(images, bgr=bgr)], **wanted)[0]
        listed, found = as_list(images), []
        for start in range(0, len(listed), _BATCH):
            frames = [self._frame(one, bgr=bgr) for one in listed[start : start + _BATCH]]
            found += self._of_frames(frames, **wanted)
        return found

    def predict(
        self,
        images: Sequence[ImageInput],
        *,
        bgr: bool = False,
        confidence: bool = False,
        probabilities: bool = False,
        size: Size | None = None,
    ) -> list[PredictedArrays]:
        """Labels of each image (see `__call__`), in order, at its own size or `size` (H, W)."""
        listed = images if isinstance(images, list) else as_list(images)
        pixels = [self._pixels(one, bgr=bgr) for one in listed]
        found: dict[int, PredictedArrays] = {}
        compute = predict_probabilities if probabilities else predict_labels
        for own, at in batches_of(pixels):
            batch = self.prepare([pixels[index] for index in at])
            found.update(zip(at, compute(self.engine, batch, size or own, confidence), strict=True))
        return [found[index] for index in range(len(pixels))]

    def logits(self, image: ImageInput, *, bgr: bool = False) -> NDArray[np.float32]:
        """Logits float32 (K, H, W) of one image, at its own size; log-probabilities of averages."""
        pixels = self._pixels(image, bgr=bgr)
        size = (pixels.shape[0], pixels.shape[1])
        return np.asarray(self.engine.logits(self.prepare([pixels]), size=size)[0], np.float32)

    def skip_scores(
        self, image: ImageInput, *, bgr: bool = False
    ) -> dict[int, NDArray[np.float32]]:
        """The logits as a sum of one term per skip, by stride: float32 (K, H, W), the image's size.

        OptionError if `sums_scores` is false.
        """
        return self._by_stride(lambda engine: engine.skip_scores, image, bgr)

    def logits_without_skips(
        self, image: ImageInput, *, bgr: bool = False
    ) -> dict[int, NDArray[np.float32]]:
        """Ablate one skip at a time: its stride -> logits float32 (K, H, W) at the image's size.

        For networks that fuse features (fuse is "feature" or "concat"). OptionError for others,
        and for another engine than torch.
        """
        return self._by_stride(lambda engine: engine.logits_without_skips, image, bgr)

    def logits_up_to_skips(
        self, image: ImageInput, *, bgr: bool = False
    ) -> dict[int, NDArray[np.float32]]:
        """The logits with the skips down to a stride, by stride, from coarse to fine.

        float32 (K, H, W) at the image's size; the last are the network's own. The finer skips are
        omitted from the sum (fuse is "score"), or their features are set to zero. OptionError for
        another engine than torch.
        """
        return self._by_stride(lambda engine: engine.logits_up_to_skips, image, bgr)

    def _by_stride(
        self, method: Callable[[TorchEngine], Callable[..., Any]], image: ImageInput, bgr: bool
    ) -> dict[int, NDArray[np.float32]]:
        """Call a method of a TorchEngine for one image: stride -> float32 (K, H, W)."""
        if self.members:
            raise OptionError("Skips are one network's; these are averages.", hint="give one model")
        if not self.engine.shows_network:
            raise OptionError(
                f"Skips can be inspected in torch only, not in {self.engine.name}.",
                hint='give the checkpoint itself, with --engine torch (load(..., engine="torch"))',
            )
        pixels = self._pixels(image, bgr=bgr)
        compute = method(cast("TorchEngine", self.engine))
        found = compute(self.prepare([pixels]), size=pixels.shape[:2])
        return {stride: maps[0] for stride, maps in found.items()}

    def stream(
        self,
        source: str | Path | int,
        *,
        every: int = 1,
        limit: int = 0,
        batch: int = 1,
        smooth: float = 0.0,
        confidence: bool = False,
        probabilities: bool = False,
    ) -> Iterator[Prediction]:
        """Yield the prediction of each frame of a source, in order, with its frame.

            for prediction in model.stream("clip.mp4"):
                print(prediction.index, prediction.time, prediction.labels.shape)

        source: image, folder (of its images), glob, video, camera number or stream address.
        every, limit: take every N-th frame; stop after `limit` frames (0: never).
        batch: batch size; frames of live sources are always run one by one.
        smooth: temporal smoothing of a video, less than 1: weight of the previous frames; 0: off.
        confidence, probabilities: compute them as well; with `smooth` they are not available later.
        """
        given = {"batch": batch, "every": every, "limit": limit, "smooth": smooth}
        batch, every, limit, smooth = (InferConfig.checked(*one) for one in given.items())
        model = replace(self, engine=SmoothedEngine(self.engine, smooth)) if smooth else self
        log = log_messages(no_callback)
        with open_source(source_name(source), every=every, limit=limit, callback=log) as opened:
            opened.bands = self.preprocess.bands
            if smooth:
                check_is_video(opened.kind)
            wanted = {"confidence": confidence, "probabilities": probabilities}

            def predict(group: list[Frame]) -> list[Prediction]:
                return model._of_frames(group, **wanted, again=not smooth)

            if opened.live:
                yield from (predict([frame])[0] for frame in opened)
                return
            with Prefetcher(
                opened, 4 + batch, weigh=lambda frame: frame.nbytes, stop=opened.close
            ) as ahead:
                predicted = map_ordered(predict, Batches(ahead, batch), model.num_parallel)
                with closing(predicted):
                    for _, found in predicted:
                        yield from found

    def to(self, device: Device) -> Segmenter:
        """Move it to another device ("cpu", "cuda", "cuda:1", "mps"), in place; returns itself.

        Its file is opened again; precision "auto" is resolved for the new device. OptionError when
        the device is unavailable or not supported by the engine, or the model has no file.
        """
        if self.reopen is None:
            raise OptionError(
                "A model made in memory stays on its device.",
                hint="save it as a checkpoint and load that on the other one",
            )
        self.options = replace(self.options, device=device_name(device))
        self.engine = self.reopen(self.options)
        return self

    def save_pretrained(self, folder: str | Path) -> Path:
        """Save the model into a folder, from which `load` reads it; returns the folder.

        OptionError for exported files, and for several models.
        """
        if self.path is None or self.path.suffix.lower() in RUNNABLE:
            raise OptionError(
                "Only a model loaded from one checkpoint is saved.",
                hint="copy an exported file as it is; of several models save each of .members",
            )
        checkpoint = replace(Checkpoint.load(self.path), preprocess=self.networks[0].preprocess)
        return checkpoint.save(path_of(folder, "folder") / BEST).parent

    def _of_frames(
        self, group: Sequence[Frame], *, confidence: bool, probabilities: bool, again: bool = True
    ) -> list[Prediction]:
        """Predict frames; again: allow confidence and probabilities to be computed later."""
        wanted: Any = {"confidence": confidence, "probabilities": probabilities}
        found = self.predict([frame.pixels for frame in group], **wanted)
        pairs, classes = zip(found, group, strict=True), self.classes
        if not again:
            return [Prediction(one, frame, classes) for one, frame in pairs]
        compute = self._compute_probabilities
        return [Prediction(one, frame, classes, partial(compute, frame)) for one, frame in pairs]

    def _compute_probabilities(self, frame: Frame) -> NDArray[np.float32]:
        """The probabilities of a frame, float32 (K, H, W)."""
        found = self.predict([frame.pixels], probabilities=True)[0].probabilities
        assert found is not None, "they were requested"
        return found

    def _pixels(self, image: object, *, bgr: bool) -> NDArray[Any]:
        """An image in the network's format: uint8 RGB (H, W, 3), or its bands (H, W, C)."""
        if (bands := self.preprocess.bands) is not None:
            return bands.carry(given_bands(image, bands, bgr=bgr))
        return image if not bgr and is_rgb(image) else to_rgb(image, bgr=bgr)

    def _frame(self, image: object, *, bgr: bool) -> Frame:
        """An image as a frame, named after its file if there is one."""
        path = Path(os.fsdecode(image)) if isinstance(image, str | os.PathLike) else None
        about: Any = {} if path is None else {"name": path.stem, "path": path}
        if (bands := self.preprocess.bands) is None:
            return Frame(to_rgb(image, bgr=bgr), **about)
        pixels = given_bands(image, bands, bgr=bgr)
        return Frame(bands.to_rgb(pixels), stored=bands.carry(pixels), **about)

    def prepare(self, images: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Resize and stack images of one size for the network: uint8 (N, h, w, 3), or bands."""
        if self.preprocess.bands is not None:
            self.preprocess.bands.check(images[0], "The image")
        wanted = self.preprocess.network_size((images[0].shape[0], images[0].shape[1]))
        return np.stack([resize_image(image, wanted) for image in images])
