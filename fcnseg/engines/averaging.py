"""Engines that average over networks, over views of an image, or over the frames of a video."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fcnseg.engines.base import Engine, Floats, Images, Labels, argmax_labels, as_tensor, resized
from fcnseg.errors import OptionError
from fcnseg.io.images import resize_image
from fcnseg.io.sources.base import MOVING
from fcnseg.io.warp import Tracker, warp_labels
from fcnseg.models.spec import Preprocess

if TYPE_CHECKING:
    from torch import Tensor

SCALES = (0.75, 1.0, 1.25, 1.5)
"""Scales of test-time augmentation, relative to the network's usual input size."""

_SMALLEST = 1e-30
"""Probabilities are clamped to this before the logarithm."""


@dataclass(frozen=True, eq=False)
class Member:
    """One of the averaged networks.

    preprocess: its input size. order: for each class of the average, the index of the class in this
    network; None: the same order.
    """

    engine: Engine
    preprocess: Preprocess
    order: tuple[int, ...] | None = None


class AveragingEngine(Engine):
    """Averages the members' probabilities; its logits are their logarithms (softmax inverts it).

    It takes images at their own size: they are resized for each member, and the member's logits
    are resized back before the softmax.

    scales, mirrored: the views of an image that every member is run on.
    """

    def __init__(
        self, members: Sequence[Member], *, scales: Sequence[float] = (1.0,), mirrored: bool = False
    ) -> None:
        self.members, self.scales, self.mirrored = tuple(members), tuple(scales), mirrored
        engines = [member.engine for member in members]
        self.name = "+".join(dict.fromkeys(engine.name for engine in engines))
        self.precision = "+".join(dict.fromkeys(engine.precision for engine in engines))
        self.device = engines[0].device
        self.parallelism = min((engine.parallelism for engine in engines), key=lambda p: p.count)

    def forward(self, images: Images) -> Tensor:
        """Logarithms of the mean probabilities, float32 (N, K, H, W), on the first one's device."""
        import torch

        with torch.inference_mode():
            found = [self._average(image[None]) for image in images]
            return torch.cat(found) if len(found) > 1 else found[0]

    def synchronize(self) -> None:
        """Wait for every member."""
        for member in self.members:
            member.engine.synchronize()

    def _average(self, image: Images) -> Tensor:
        """As forward, of one image (1, H, W, C): only one view's logits are in memory at a time."""
        total: Tensor | None = None
        for probabilities in self._views(image):
            total = probabilities if total is None else total.add_(probabilities.to(total.device))
        assert total is not None, "there is a member, and it has a view"
        count = len(self.members) * len(self.scales) * (1 + self.mirrored)
        return total.div_(count).clamp_(min=_SMALLEST).log_()

    def _views(self, image: Images) -> Iterator[Tensor]:
        """Yield each member's probabilities of each view, a new tensor float32 (1, K, H, W).

        Those of an image and its mirror image are added up.
        """
        size = (image.shape[1], image.shape[2])
        for member in self.members:
            height, width = member.preprocess.network_size(size)
            for scale in self.scales:
                wanted = (max(1, round(height * scale)), max(1, round(width * scale)))
                view = resize_image(image[0], wanted)
                views = np.stack([view, view[:, ::-1]] if self.mirrored else [view])
                logits = as_tensor(resized(member.engine.forward(views), size))  # (1 or 2, K, H, W)
                if member.order is not None:
                    logits = logits[:, list(member.order)]
                found = logits.softmax(dim=1)
                yield found[:1] if not self.mirrored else found[:1] + found[1:].flip(-1)


@dataclass(frozen=True)
class Flicker:
    """Proportions of pixels (0 to 1) whose label differs from the previous frame's, along the
    motion: of the network's own labels (`raw`), and of the averaged ones (`smoothed`).

    Only pixels that could be tracked are counted.
    """

    raw: float
    smoothed: float


class SmoothedEngine(Engine):
    """Smooths a video: its logits are exponential moving averages along the optical flow.

        engine = SmoothedEngine(engine, 0.7)
        labels, _ = engine.labels(frames)   # frames: uint8 (N, H, W, 3), consecutive, in order
        engine.flicker()

    Logits are averaged before they are upsampled to the frame: this needs no softmax, takes place
    at the network's resolution and on its device, and labels, confidence and probabilities are
    computed from the average as usual. Averaging probabilities gave the same flicker and mIoU.

    smooth: weight of the previous average, warped to the current frame, 0 <= smooth < 1; the
    current logits have the rest. The weight is lower where the image does not match, and zero
    after a scene cut. OptionError for other values.

    Memory: one frame's average and one warped, besides the engine's own.
    """

    name = "smoothed"

    def __init__(self, engine: Engine, smooth: float) -> None:
        if not 0 <= smooth < 1:
            raise OptionError(f"smooth: at least 0 and less than 1; found {smooth:g}.")
        self._engine, self._smooth = engine, smooth
        self.device, self.precision = engine.device, engine.precision
        self._tracker = Tracker()
        self._average: Tensor | None = None  # (K, H, W)
        self._before: tuple[Labels, Labels] | None = None  # raw and smoothed, (H, W) each
        self._changed = [0, 0]  # pixels, raw and smoothed
        self._tracked = 0

    def forward(self, images: Images) -> Tensor:
        """Averaged logits, float32 (N, K, H, W), on the engine's device."""
        import torch

        with torch.inference_mode():
            logits = as_tensor(self._engine.forward(images))
            pairs = zip(images, logits, strict=True)
            return torch.stack([self._next(image, one) for image, one in pairs])

    def synchronize(self) -> None:
        """Wait for the engine."""
        self._engine.synchronize()

    def flicker(self) -> Flicker | None:
        """The flicker of all frames so far; None when no pixel could be tracked."""
        if not self._tracked:
            return None
        raw, smoothed = (count / self._tracked for count in self._changed)
        return Flicker(raw, smoothed)

    def _next(self, image: NDArray[np.uint8], logits: Tensor) -> Tensor:
        """Update the average (K, H, W) with a frame, uint8 (H, W, 3), and its logits (K, H, W)."""
        import torch

        motion, past = self._tracker.next(image), self._average
        if motion is None or past is None or past.shape != logits.shape:
            self._average = logits.clone()  # an engine may reuse its memory
            labels = _labels(logits)
            self._before = labels, labels
            return self._average
        places, trust = motion.at((logits.shape[1], logits.shape[2]))
        weight = torch.from_numpy(self._smooth * trust).to(logits.device)  # (H, W)
        self._average = torch.lerp(logits, _warp(past, places), weight)
        self._compare((_labels(logits), _labels(self._average)), places, trust > 0.5)
        return self._average

    def _compare(
        self, now: tuple[Labels, Labels], places: Floats, tracked: NDArray[np.bool_]
    ) -> None:
        """Count the tracked pixels whose label has changed, raw and smoothed."""
        assert self._before is not None, "there is an average, so there are labels"
        for index, (label, before) in enumerate(zip(now, self._before, strict=True)):
            changed = (label != warp_labels(before, places)) & tracked
            self._changed[index] += int(np.count_nonzero(changed))
        self._tracked += int(np.count_nonzero(tracked))
        self._before = now


def check_is_video(kind: str) -> None:
    """OptionError for a source that is not a video, a camera or a stream."""
    if kind not in MOVING:
        found = "one image" if kind == "image" else "images that need not be consecutive"
        raise OptionError(
            f"--smooth averages over the frames of a video, a camera or a stream; found {found}.",
            hint="omit --smooth, or make a video of the images first",
        )


def _warp(past: Tensor, places: Floats) -> Tensor:
    """Sample float32 (K, H, W) at places (x, y), float32 (H, W, 2) in pixels."""
    import torch

    size = torch.tensor([past.shape[2], past.shape[1]], device=past.device)
    grid = (2 * torch.from_numpy(places).to(past.device) + 1) / size - 1
    return torch.nn.functional.grid_sample(
        past[None], grid[None], padding_mode="border", align_corners=False
    )[0]


def _labels(logits: Tensor) -> Labels:
    """uint8 (H, W) of logits (K, H, W)."""
    labels: Labels = argmax_labels(logits[None])[0][0]
    return labels
