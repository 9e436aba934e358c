"""Say for every frame of a video how much of it each class takes.

python examples/segment_a_video.py VIDEO MODEL
"""

import sys

import numpy as np

from fcnseg import load

video, model_file = sys.argv[1:3]
model = load(model_file)
names = model.classes.names
for prediction in model.stream(video):
    pixels = np.bincount(prediction.labels.ravel(), minlength=len(names))
    parts = pixels[: len(names)] / prediction.labels.size
    text = "  ".join(f"{name} {part:.0%}" for name, part in zip(names, parts, strict=True))
    print(f"{prediction.time:7.2f} s  {text}")
