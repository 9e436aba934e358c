"""Labels of an image with OpenCV 5 alone, from a file of one size.

    python segment_with_opencv.py model.onnx photo.jpg labels.png

The file comes from: fcnseg export best.safetensors --size 360 480
"""

import sys

import cv2
import numpy as np

if len(sys.argv) != 4:
    sys.exit(__doc__)
model, source, out = sys.argv[1:]
net = cv2.dnn.readNetFromONNX(model, cv2.dnn.ENGINE_NEW)
image = cv2.imread(source)  # BGR, (H, W, 3): of the file's own size
assert image is not None, f"{source} is not an image"
net.setInput(np.ascontiguousarray(image[None, :, :, ::-1]), "images")
logits = net.forward("logits")[0]  # (K, H, W)
labels = logits.argmax(axis=0).astype(np.uint8)
cv2.imwrite(out, labels)
print(*(f"class {index}: {np.mean(labels == index):.1%}" for index in range(len(logits))), sep="\n")
