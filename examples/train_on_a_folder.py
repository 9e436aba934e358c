"""Train on a folder of images and labels, then print the IoU of each class.

python examples/train_on_a_folder.py FOLDER [EPOCHS]
"""

import sys
from pathlib import Path

import fcnseg
from fcnseg.progress import EpochEnd, Event


def show(event: Event) -> None:
    """Print one line per epoch; other events are progress within an epoch."""
    if isinstance(event, EpochEnd):
        print(f"epoch {event.epoch}: mIoU {event.values['miou']:.3f}")


if len(sys.argv) not in (2, 3):
    sys.exit(__doc__)
folder = Path(sys.argv[1])
epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 40
result = fcnseg.train(folder, callback=show, epochs=epochs)
scores = fcnseg.evaluate(result.best, folder)
for one in scores.classes:
    print(one.name, "-" if one.iou is None else f"{one.iou:.3f}")
