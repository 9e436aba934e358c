"""Convert FFmpeg's frames to RGB: opacity, HDR, display matrix; deinterlacing."""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.io.content.pixels import over_white
from fcnseg.io.content.profiles import HDR, tone_mapped
from fcnseg.io.images import read_orientation

_UPRIGHT = (1, 0, 0, 1)

_WITH_EXIF = ("mjpeg", "png", "webp")  # codecs of images that have EXIF

_UNSPECIFIED, _YCGCO = 2, 8  # FFmpeg's numbers of color matrices
_FULL = 2  # full color range


class RgbConverter:
    """Converts frames to uint8 (H, W, 3) RGB, upright."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter: Any = VideoReformatter()
        self._is_mirrored = False

    def note_first(self, codec: str, packet: Any) -> None:
        """Look whether the images of a stream are mirrored, by the EXIF of the first one."""
        if codec in _WITH_EXIF:
            self._is_mirrored = read_orientation(bytes(packet)) in (2, 4, 5, 7)

    def to_rgb(self, frame: Any) -> NDArray[np.uint8]:
        """Convert a frame; transparency is composited over white, HDR is tone-mapped."""
        return _oriented(self._pixels(frame), self.display_matrix(frame))

    def display_matrix(self, frame: Any) -> tuple[int, ...]:
        """The upper left 2 x 2 of the display matrix, each -1, 0 or 1; identity if it has none."""
        try:
            data = frame.side_data.get("DISPLAYMATRIX")
        except ValueError:  # PyAV 18 raises it for EXIF, which FFmpeg 8 attaches; an angle is left
            angle = math.radians(frame.rotation)
            cosine, sine = round(math.cos(angle)), round(math.sin(angle))
            return (cosine, -sine, *((-sine, -cosine) if self._is_mirrored else (sine, cosine)))
        if data is None:
            return _UPRIGHT
        a, b, _, c, d = struct.unpack("=5i", bytes(data)[:20])
        size = max(abs(a), abs(b), abs(c), abs(d), 1)
        return tuple(round(value / size) for value in (a, b, c, d))

    def _pixels(self, frame: Any) -> NDArray[np.uint8]:
        """A frame as uint8 (H, W, 3) RGB, not rotated."""
        if int(frame.colorspace) == _YCGCO:
            return self._from_ycgco(frame)
        if (transfer := int(frame.color_trc)) in HDR:
            deep = self._converted(frame, "rgb48le")
            return tone_mapped(deep, transfer, int(frame.color_primaries))
        if _has_alpha(frame.format.name):
            rgba = np.asarray(self._converted(frame, "rgba"), np.uint8)
            return over_white(rgba[:, :, :3], rgba[:, :, 3])
        return np.asarray(self._converted(frame, "rgb24"), np.uint8)

    def _from_ycgco(self, frame: Any) -> NDArray[np.uint8]:
        """Convert the matrix YCgCo, which FFmpeg does not support; it only upsamples the planes."""
        frame.colorspace, is_full = _UNSPECIFIED, int(frame.color_range) == _FULL
        planes = np.moveaxis(self._converted(frame, "yuv444p"), 0, -1).astype(np.float32)
        frame.colorspace = _YCGCO
        light, green, orange = np.moveaxis(planes - (0 if is_full else 16, 128, 128), -1, 0)
        if not is_full:
            light, green, orange = light * (255 / 219), green * (255 / 224), orange * (255 / 224)
        rest = light - green
        rgb = np.stack([rest + orange, light + green, rest - orange], -1)
        return np.asarray(np.clip(np.rint(rgb), 0, 255), np.uint8)

    def _converted(self, frame: Any, layout: str) -> NDArray[Any]:
        made = self._reformatter.reformat(frame, format=layout, interpolation="BICUBIC", threads=1)
        return np.asarray(made.to_ndarray())


@functools.cache
def _has_alpha(layout: str) -> bool:
    import av

    return any(component.is_alpha for component in av.VideoFormat(layout).components)


def _oriented(image: NDArray[np.uint8], matrix: tuple[int, ...]) -> NDArray[np.uint8]:
    """Rotate and mirror an image by its display matrix: x' = a x + c y, y' = b x + d y."""
    if matrix == _UPRIGHT:
        return image
    a, b, c, d = matrix
    if abs(b) > abs(a):
        image = image.transpose(1, 0, 2)
        a, d = c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def deinterlaced(frames: Iterator[Any], time_base: Any) -> Iterator[Any]:
    """Yield the frames; from the first interlaced one on, filter them with bwdif.

    The filter returns one frame per input, and progressive ones unchanged.
    """
    graph, shape = None, None
    for frame in frames:
        here = (frame.width, frame.height, frame.format.name)
        if graph is not None and here != shape:
            yield from _pulled(graph, None)
            graph = None
        if graph is None and frame.interlaced_frame:
            graph, shape = _bwdif(frame, time_base), here
        if graph is None:
            yield frame
        else:
            yield from _pulled(graph, frame)
    if graph is not None:
        yield from _pulled(graph, None)


def _bwdif(frame: Any, time_base: Any) -> Any:
    import av

    graph: Any = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format.name,
        time_base=frame.time_base or time_base,
    )
    graph.link_nodes(
        source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")
    ).configure()
    return graph


def _pulled(graph: Any, frame: Any) -> Iterator[Any]:
    """Push a frame, or None at the end, into a filter graph and yield its output."""
    import av

    graph.push(frame)
    while True:
        try:
            yield graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
