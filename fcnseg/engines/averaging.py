"""The engine that averages probabilities: of several networks, of several views of an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fcnseg.engines.base import Engine, Images, as_tensor, resized
from fcnseg.io.images import resize_image
from fcnseg.models.spec import Preprocess

if TYPE_CHECKING:
    from torch import Tensor

SCALES = (0.75, 1.0, 1.25, 1.5)
"""The sizes of test-time augmentation, of what the network sees otherwise."""

_SMALLEST = 1e-30
"""Probabilities are at least this, so that they have a logarithm."""


@dataclass(frozen=True, eq=False)
class Member:
    """A network among those that are averaged.

    preprocess: at which size it sees images. order: where each class of the average lies among
    its own; None: in the same place.
    """

    engine: Engine
    preprocess: Preprocess
    order: tuple[int, ...] | None = None


class AveragingEngine(Engine):
    """Members' probabilities, averaged; its logits are the logarithms, of which softmax gives them.

    It takes images at their own size: each member resizes them as its own network wants them, and
    its logits are resized back before the softmax.

    scales, mirrored: the views of an image, all of which every member sees.
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        scales: Sequence[float] = (1.0,),
        mirrored: bool = False,
    ) -> None:
        self.members, self.scales, self.mirrored = tuple(members), tuple(scales), mirrored
        engines = [member.engine for member in members]
        self.name = "+".join(dict.fromkeys(engine.name for engine in engines))
        self.precision = "+".join(dict.fromkeys(engine.precision for engine in engines))
        self.device = engines[0].device
        self.parallelism = min((engine.parallelism for engine in engines), key=lambda p: p.count)

    def forward(self, images: Images) -> Tensor:
        """Logarithms of the mean probabilities, float32 (N, K, H, W), on the first one's device."""
        import torch

        with torch.inference_mode():
            found = [self._of_one(image[None]) for image in images]
            return torch.cat(found) if len(found) > 1 else found[0]

    def synchronize(self) -> None:
        """Wait for every member."""
        for member in self.members:
            member.engine.synchronize()

    def _of_one(self, image: Images) -> Tensor:
        """The same of one image (1, H, W, C): memory holds one view's logits at a time."""
        total: Tensor | None = None
        for probabilities in self._views(image):
            total = probabilities if total is None else total.add_(probabilities.to(total.device))
        assert total is not None, "there is a member, and it has a view"
        count = len(self.members) * len(self.scales) * (1 + self.mirrored)
        return total.div_(count).clamp_(min=_SMALLEST).log_()

    def _views(self, image: Images) -> Iterator[Tensor]:
        """What each member makes of each view: float32 (1, K, H, W), a tensor of its own."""
        size = (image.shape[1], image.shape[2])
        for member in self.members:
            height, width = member.preprocess.network_size(size)
            for scale in self.scales:
                wanted = (max(1, round(height * scale)), max(1, round(width * scale)))
                view = resize_image(image[0], wanted)
                views = np.stack([view, view[:, ::-1]] if self.mirrored else [view])
                logits = as_tensor(resized(member.engine.forward(views), size))  # (1 or 2, K, H, W)
                if member.order is not None:
                    logits = logits[:, list(member.order)]
                found = logits.softmax(dim=1)
                yield found[:1] if not self.mirrored else found[:1] + found[1:].flip(-1)
