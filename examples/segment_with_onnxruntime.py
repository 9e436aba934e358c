"""Labels of an image with onnxruntime, numpy and Pillow alone.

    python segment_with_onnxruntime.py model.onnx photo.jpg labels.png

The file comes from: fcnseg export best.safetensors --include argmax
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

if len(sys.argv) != 4:
    sys.exit(__doc__)
model, source, out = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
if "labels" not in [output.name for output in session.get_outputs()]:
    sys.exit(f"{model} has no labels: export it again, with --include argmax")
header = json.loads(session.get_modelmeta().custom_metadata_map["fcnseg"])
image = np.asarray(ImageOps.exif_transpose(Image.open(source)).convert("RGB"))  # (H, W, 3)
labels = session.run(["labels"], {"images": image[None]})[0][0]  # uint8 (H, W)

result = Image.fromarray(labels)
result.putpalette(np.array(header["classes"]["colors"], np.uint8).tobytes())
result.save(out)  # pixel values are class indices, shown in the classes' colors
for index, name in enumerate(header["classes"]["names"]):
    print(f"{name}: {np.mean(labels == index):.1%} of pixels")
