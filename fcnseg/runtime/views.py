"""One picture looked at several times: larger, smaller, mirrored; the answers averaged.

Slower by the number of views and usually a little better ("test-time augmentation").
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fcnseg.media.images import resize_image
from fcnseg.runtime.segmenter import Segmenter

SCALES = (0.75, 1.0, 1.25, 1.5)


def labels_of_views(
    segmenter: Segmenter,
    image: NDArray[np.uint8],
    *,
    scales: Sequence[float] = SCALES,
    mirrored: bool = True,
) -> NDArray[np.uint8]:
    """Labels uint8 (H, W) of a picture uint8 (H, W, 3): the class most probable on average.

    Each view's probabilities are brought to the picture's own size before they are summed.
    """
    size = (image.shape[0], image.shape[1])
    height, width = segmenter.preprocess.network_size(size)
    total: torch.Tensor | None = None
    for scale in scales:
        view = resize_image(image, (max(1, round(height * scale)), max(1, round(width * scale))))
        views = np.stack([view, view[:, ::-1]] if mirrored else [view])
        logits = torch.from_numpy(segmenter.engine.logits(views, size=size))  # (1 or 2, K, H, W)
        shares = logits.softmax(dim=1)
        seen = shares[0] + shares[1].flip(-1) if mirrored else shares[0]
        total = seen if total is None else total + seen
    assert total is not None, "at least one scale"
    labels: NDArray[np.uint8] = total.max(dim=0).indices.to(torch.uint8).numpy()
    return labels
