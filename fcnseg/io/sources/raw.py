"""What raw frames are, which say nothing themselves."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fcnseg.errors import MissingExtra, OptionError
from fcnseg.io.encoders import has_pyav


@dataclass(frozen=True)
class RawVideo:
    """What raw frames are: their size (width, height) and FFmpeg's name of their pixels' format."""

    size: tuple[int, int]
    pix_fmt: str

    @classmethod
    def of(cls, video_size: str | None, pix_fmt: str | None) -> RawVideo | None:
        """As the options say; None where neither is given. OptionError for what can't be."""
        if video_size is None and pix_fmt is None:
            return None
        if video_size is None or pix_fmt is None:
            raise OptionError(
                "Raw video needs both its size and its pixel format.",
                hint="--video-size 640x480 --pix-fmt rgb24 (and --fps)",
            )
        found = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", video_size)
        size = (int(found[1]), int(found[2])) if found else (0, 0)
        if not all(size):
            raise OptionError(
                f"--video-size is WIDTHxHEIGHT in pixels; found {video_size!r}.", hint="640x480"
            )
        return cls(size, _known_format(pix_fmt))

    def options(self) -> dict[str, str]:
        """What FFmpeg's demuxer `rawvideo` takes."""
        return {"video_size": "{}x{}".format(*self.size), "pixel_format": self.pix_fmt}


def _known_format(name: str) -> str:
    if not has_pyav():
        raise MissingExtra("Decoding raw video", "video")
    import av

    try:
        return str(av.VideoFormat(name).name)
    except ValueError:
        raise OptionError(
            f"FFmpeg knows no pixel format {name!r}.",
            hint="rgb24, bgr24, gray, yuv420p, nv12 ...; `ffmpeg -pix_fmts` lists them",
        ) from None
