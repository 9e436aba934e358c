"""Whether a window can be shown.

`cv2.imshow` without a display ends the whole process, and nothing can catch it: so a process
of its own tries first.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys

_TRY = "import cv2; cv2.namedWindow('fcnseg'); cv2.waitKey(1); cv2.destroyAllWindows()"


@functools.cache
def has_display() -> bool:
    """Whether OpenCV can open a window here."""
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return False
    try:
        tried = subprocess.run([sys.executable, "-c", _TRY], capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return tried.returncode == 0
