"""Write the heatmap of each class over an image, as PNG files.

python examples/heatmaps_of_an_image.py IMAGE MODEL FOLDER
"""

import sys
from pathlib import Path

import fcnseg

if len(sys.argv) != 4:
    sys.exit(__doc__)
image, model_file, folder = sys.argv[1:]
model = fcnseg.load(model_file)
prediction = model(image)
for name in model.classes.names:
    print(prediction.save(Path(folder) / f"{name}.png", heatmap_of=name, alpha=0.6))
