"""Print the proportion of each class in every frame of a video.

python examples/segment_a_video.py VIDEO MODEL
"""

import sys

import numpy as np

import fcnseg

if len(sys.argv) != 3:
    sys.exit(__doc__)
video, model_file = sys.argv[1:]
model = fcnseg.load(model_file)
names = model.classes.names
for prediction in model.stream(video):
    pixels = np.bincount(prediction.labels.ravel(), minlength=len(names))
    proportions = pixels[: len(names)] / prediction.labels.size
    text = "  ".join(f"{name} {part:.0%}" for name, part in zip(names, proportions, strict=True))
    print(f"{prediction.time:7.2f} s  {text}")
