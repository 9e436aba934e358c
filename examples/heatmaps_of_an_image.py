"""Write one heatmap per class over an image: red where the network is sure.

python examples/heatmaps_of_an_image.py IMAGE MODEL FOLDER
"""

import sys
from pathlib import Path

from fcnseg import load
from fcnseg.media.draw import heatmap
from fcnseg.media.images import read_image, write_image

image_file, model, folder = sys.argv[1:4]
segmenter = load(model)
image = read_image(Path(image_file))
[prediction] = segmenter.predict([image], probabilities=True)
for name, probability in zip(segmenter.classes.names, prediction.probabilities, strict=True):
    file = Path(folder) / f"{name}.png"
    write_image(file, heatmap(image, probability, alpha=0.6))
    print(file)
