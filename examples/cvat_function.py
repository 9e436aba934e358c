"""A CVAT auto-annotation function: a mask (or polygons) of each class that a model finds.

    pip install cvat-cli
    cvat-cli task auto-annotate TASK --function-file cvat_function.py -p model=str:runs/train1

The task has labels named as the model's classes (all but `background`); with
--allow-unmatched-labels, others are left out.
"""

import sys

import numpy as np
from PIL import Image

try:
    import cvat_sdk.auto_annotation as cvataa
    from cvat_sdk.masks import encode_mask
    from cvat_sdk.models import LabeledShapeRequest
except ModuleNotFoundError as error:
    sys.exit(f"{error}\n\n{__doc__}")

import fcnseg
from fcnseg.io.annotations.polygons import keyhole, regions

TOLERANCE = 1.0  # pixels by which polygons may be off, for fewer corners


class Function:
    """What CVAT calls for each image. ignore: a class that is not annotated."""

    def __init__(self, model: str, ignore: str = "background") -> None:
        self._model = fcnseg.load(model)
        named = enumerate(self._model.classes.names)
        self._classes = {index: name for index, name in named if name != ignore}
        labels = [cvataa.label_spec(name, index) for index, name in self._classes.items()]
        self.spec = cvataa.DetectionFunctionSpec(labels=labels)

    def detect(
        self, context: cvataa.DetectionFunctionContext, image: Image.Image
    ) -> list[LabeledShapeRequest]:
        """The shapes of an image; pixels below the confidence that is asked for have none."""
        found = self._model(np.asarray(image.convert("RGB")))
        labels = found.labels
        if context.conf_threshold:
            labels = np.where(found.confidence >= context.conf_threshold, labels, np.uint8(255))
        if context.conv_mask_to_poly:
            return [
                cvataa.polygon(region.index, keyhole(region).ravel().tolist())
                for region in regions(labels, self._classes, tolerance=TOLERANCE)
            ]
        there = [index for index in self._classes if (labels == index).any()]
        return [cvataa.mask(index, encode_mask(labels == index)) for index in there]


create = Function
