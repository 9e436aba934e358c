"""The one place that imports OpenCV: `from fcnseg.media._opencv import cv2`.

OpenCV and its FFmpeg write to the terminal on their own; the switches that stop them are
read when the library loads, so they are set just before.
"""

import os

from fcnseg.errors import FcnsegError

os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

try:
    import cv2 as cv2
except ImportError as error:  # the wheel needs libGL and glib of the system
    raise FcnsegError(
        f"OpenCV can't be loaded: {error}.",
        hint="pip install opencv-python; on a bare Linux also: apt-get install libgl1 libglib2.0-0",
    ) from error

# For programs that loaded it before us. OpenCV 5 has the function elsewhere than 4.
_levels = cv2.utils.logging if hasattr(cv2.utils, "logging") else cv2
_levels.setLogLevel(0)
