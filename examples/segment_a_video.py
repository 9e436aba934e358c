"""Say for every frame of a video how much of it each class takes.

python examples/segment_a_video.py VIDEO MODEL
"""

import sys

import numpy as np

from fcnseg import load

video, model = sys.argv[1:3]
segmenter = load(model)
names = segmenter.classes.names
for frame, prediction in segmenter.stream(video):
    pixels = np.bincount(prediction.labels.ravel(), minlength=len(names))
    shares = pixels[: len(names)] / prediction.labels.size
    text = "  ".join(f"{name} {share:.0%}" for name, share in zip(names, shares, strict=True))
    print(f"{frame.time:7.2f} s  {text}")
