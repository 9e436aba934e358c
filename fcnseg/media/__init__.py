"""The OpenCV layer: pictures and videos in and out. BGR exists nowhere else."""

from fcnseg.media.display import has_display
from fcnseg.media.encoders import writable_codecs

__all__ = ["has_display", "writable_codecs"]
