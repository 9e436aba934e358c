"""Train on a folder of images and labels, then score the result.

python examples/train_on_a_folder.py FOLDER [EPOCHS]
"""

import sys

from fcnseg import EvalConfig, TrainConfig, evaluate, train
from fcnseg.progress import EpochEnd, Event


def show(event: Event) -> None:
    """Print a line an epoch; other events are progress within it."""
    if isinstance(event, EpochEnd):
        print(f"epoch {event.epoch}: mIoU {event.values['miou']:.3f}")


folder = sys.argv[1]
epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 40
run = train(TrainConfig(data=folder, epochs=epochs), show)
report = evaluate(EvalConfig(data=folder, model=str(run.best)))
for row in report.as_dict()["classes"]:
    print(row["name"], "-" if row["iou"] is None else f"{row['iou']:.3f}")
