"""Where each pixel of a frame was in the frame before: dense motion by OpenCV's DIS.

Found on small grey frames, which is as good for labels and many times cheaper. Knows nothing
of networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fcnseg.io.images import resize_image
from fcnseg.io.opencv import cv2

Floats = NDArray[np.float32]

LONGEST = 480
"""The longer side, in pixels, at which motion is found; larger frames are made smaller."""

SURE, UNSURE = 8.0, 24.0
"""How much a pixel may differ from its past, in grey levels: up to the first it is taken for
the same thing, from the second on for another. Noise and compression stay below the first."""

CUT = 0.2
"""The share of pixels that are another thing from which on a frame begins a new scene.

Between neighbouring frames of one scene 0.16 were seen at most (a car's camera at 15 frames a
second: 0.02; drawn things that fill the picture and turn: 0.16); across cuts 0.4 to 0.8 mostly,
0.18 for two pictures of the same kind of street. A cut that is missed does little: what looks
like another thing has no past anyway.
"""

_SHORTEST = 64
"""Smaller frames are repeated at their edges up to this: DIS crashes below 32 pixels."""


@dataclass(frozen=True, eq=False)
class Motion:
    """The way back from one frame to the one before, for every pixel.

    flow: float32 (h, w, 2), the (x, y) where it was less where it is, in pixels.
    trust: float32 (h, w), how surely it is the same thing: 0 (not at all) to 1.
    """

    flow: Floats
    trust: Floats

    def at(self, size: tuple[int, int]) -> tuple[Floats, Floats]:
        """For frames of another (height, width): where each pixel was, as float32 (H, W, 2) of
        (x, y) in their pixels, and the trust float32 (H, W), 0 for what was outside."""
        height, width = size
        scale = np.array([width / self.flow.shape[1], height / self.flow.shape[0]], np.float32)
        places = _places(_resized(self.flow, size) * scale)
        x, y = places[..., 0], places[..., 1]
        inside = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
        return places, _resized(self.trust, size) * inside


class Tracker:
    """Takes the frames of a video in order and finds how each goes back to the one before."""

    def __init__(self) -> None:
        # The finer presets take 2 and 8 to 17 times as long, for 0.01 points of flicker.
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._past: NDArray[np.uint8] | None = None

    def next(self, image: NDArray[np.uint8]) -> Motion | None:
        """The motion back from a frame, uint8 (H, W, 3) RGB.

        None where there is nothing to go back to: for the first frame, for one of another size
        and after a scene cut.
        """
        now, past = _small_grey(image), self._past
        self._past = now
        if past is None or past.shape != now.shape:
            return None
        flow = self._flow(now, past)
        trust = _trust(now, past, flow)
        return None if np.mean(trust < 0.5) > CUT else Motion(flow, trust)

    def _flow(self, now: NDArray[np.uint8], past: NDArray[np.uint8]) -> Floats:
        """float32 (h, w, 2) of two grey frames (h, w)."""
        height, width = now.shape
        more = (0, max(0, _SHORTEST - height), 0, max(0, _SHORTEST - width))
        if any(more):
            now, past = (
                np.asarray(cv2.copyMakeBorder(grey, *more, cv2.BORDER_REPLICATE), np.uint8)
                for grey in (now, past)
            )
        flow = self._dis.calc(now, past, None)  # type: ignore[call-overload]
        return np.asarray(flow[:height, :width], np.float32)


def look_up(labels: NDArray[np.uint8], places: Floats) -> NDArray[np.uint8]:
    """uint8 (H, W): the label nearest to each place (x, y), float32 (H, W, 2); the edge's
    for places outside."""
    found = cv2.remap(labels, places, None, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    return np.asarray(found, np.uint8)


def _small_grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 (h, w) of uint8 (H, W, 3), the longer side LONGEST at most."""
    height, width = image.shape[:2]
    factor = min(1.0, LONGEST / max(height, width))
    small = resize_image(image, (max(1, round(height * factor)), max(1, round(width * factor))))
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)


def _trust(now: NDArray[np.uint8], past: NDArray[np.uint8], flow: Floats) -> Floats:
    """float32 (h, w): how much each pixel of a grey frame looks like its past.

    Looks alone decide: on bare ground the flow forward and back seldom agree, where being
    wrong about the place does no harm to the label.
    """
    was = cv2.remap(past, _places(flow), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    change = cv2.blur(now.astype(np.float32) - was, (5, 5))
    change = np.abs(change - np.median(change))  # a camera's change of exposure is no motion
    return np.asarray(np.clip((UNSURE - change) / (UNSURE - SURE), 0, 1), np.float32)


def _places(flow: Floats) -> Floats:
    """Where each pixel was, float32 (h, w, 2) of (x, y), from how far that is."""
    places = flow.copy()
    places[..., 0] += np.arange(flow.shape[1], dtype=np.float32)
    places[..., 1] += np.arange(flow.shape[0], dtype=np.float32)[:, None]
    return places


def _resized(values: Floats, size: tuple[int, int]) -> Floats:
    """float32 (h, w, ...) at another (height, width), linear."""
    return np.asarray(cv2.resize(values, (size[1], size[0])), np.float32)
