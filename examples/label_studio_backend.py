"""A Label Studio ML backend: outlines that a model proposes, for annotators to correct.

    pip install label-studio-ml redis rq
    FCNSEG_MODEL=runs/train1 python examples/label_studio_backend.py

In Label Studio: Settings, Model, http://localhost:9090. The project's labeling interface has an
Image and PolygonLabels named as the model's classes; classes that it does not have are left out.
"""

import json
import os
import sys
from typing import Any

try:
    from label_studio_ml.api import init_app
    from label_studio_ml.model import LabelStudioMLBase
except ModuleNotFoundError as error:
    sys.exit(f"{error}\n\n{__doc__}")

import fcnseg
from fcnseg.io.annotations.tools import LabelStudio
from fcnseg.io.sources.base import Frame

TOLERANCE = 1.0  # pixels by which outlines may be off, for fewer corners

if "FCNSEG_MODEL" not in os.environ:
    sys.exit(__doc__)
MODEL = fcnseg.load(os.environ["FCNSEG_MODEL"])


class Backend(LabelStudioMLBase):
    """What Label Studio asks for proposals."""

    def predict(self, tasks: list[dict[str, Any]], **_: Any) -> list[dict[str, Any]]:
        """A prediction for each task."""
        controls = self.parsed_label_config.items()
        name, control = next(item for item in controls if item[1]["type"] == "PolygonLabels")
        wanted = [i for i, label in enumerate(MODEL.classes.names) if label in control["labels"]]
        writer = LabelStudio(MODEL.classes, wanted, TOLERANCE)
        predictions = []
        for task in tasks:
            path = self.get_local_path(task["data"][control["inputs"][0]["value"]])
            found = MODEL(path)
            [proposal] = json.loads(writer.piece(Frame(found.image), found.labels))["predictions"]
            for region in proposal["result"]:
                region |= {"from_name": name, "to_name": control["to_name"][0]}
            predictions.append({**proposal, "model_version": os.environ["FCNSEG_MODEL"]})
        return predictions


if __name__ == "__main__":
    init_app(model_class=Backend).run(port=9090)
