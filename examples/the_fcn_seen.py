"""Redo the figures of the FCN paper: six trainings, an image for each topic, and index.html.

python examples/the_fcn_seen.py OUT [--data FOLDER] [--epochs N] [--backbone NAME]

Each topic is a function in fcnseg/commands/demo/chapters.py; docs/fcn.md has it in a few lines.
"""

import argparse
from pathlib import Path

from fcnseg.commands.demo.paper import reproduce_paper
from fcnseg.config import DemoConfig

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("out", type=Path)
parser.add_argument("--data", type=Path, help="dataset folder (default: a synthetic one)")
parser.add_argument("--epochs", type=int, default=10, help="of the first training")
parser.add_argument("--backbone", default="tiny", help="tiny, efficientnet_lite0, vgg16 ...")
given = parser.parse_args()
result = reproduce_paper(DemoConfig(paper=True, **vars(given)), given.out)
for section, image in zip(result.sections, result.images, strict=True):
    print(f"{section.title} ({section.place}): {image}")
    for name, value in section.facts.items():
        print(f"    {name}: {value}")
print(result.index)
