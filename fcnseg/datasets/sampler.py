"""Which images each step takes, decided before the first one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fcnseg.errors import OptionError


@dataclass(frozen=True)
class BatchSampler:
    """Which images each step takes.

    images: how many there are. batch: how many a step takes, over all ranks.
    """

    images: int
    batch: int
    epochs: int
    seed: int
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        if self.batch < self.ranks:
            raise OptionError(
                f"--batch {self.batch} is less than the {self.ranks} processes that share it.",
                hint=f"take --batch {self.ranks} or more",
            )
        if self.images < self.ranks:
            raise OptionError(
                f"{self.images} training images are too few for {self.ranks} processes."
            )

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch.

        A last batch of one image is left out (batch norm can't learn from it; the order
        changes every epoch, so no image is lost) unless it would be the only one.
        """
        whole, rest = divmod(self.images, self.batch)
        return max(1, whole + (rest >= max(2, self.ranks)))

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.epochs * self.epoch_steps

    def keys(self, start: int) -> Iterator[list[tuple[int, int]]]:
        """For each step from `start` to the end, the (epoch, index) of this rank's images."""
        for step in range(start, self.steps):
            epoch, number = divmod(step, self.epoch_steps)
            if step == start or number == 0:
                order = self.order(epoch)
            indices = order[number * self.batch : (number + 1) * self.batch]
            yield [(epoch, index) for index in indices[self.rank :: self.ranks]]

    def order(self, epoch: int) -> list[int]:
        """The images of an epoch, shuffled: a function of the seed and the epoch alone."""
        shuffled: list[int] = (
            np.random.default_rng((self.seed, epoch)).permutation(self.images).tolist()
        )
        return shuffled

    def step_images(self, step: int) -> int:
        """How many images a step takes, over all ranks."""
        number = step % self.epoch_steps
        return min(self.batch, self.images - number * self.batch)


class Pace:
    """How long steps take, the last ones counting most. steps: how many there were."""

    KEEP = 0.9

    def __init__(self) -> None:
        self._images = self._seconds = self._weight = 0.0
        self.steps = 0

    def add(self, images: int, seconds: float) -> None:
        """Take note of a step."""
        self._images = self.KEEP * self._images + images
        self._seconds = self.KEEP * self._seconds + seconds
        self._weight = self.KEEP * self._weight + 1
        self.steps += 1

    @property
    def images_a_second(self) -> float:
        """Over the last steps."""
        return self._images / max(1e-9, self._seconds)

    @property
    def seconds_a_step(self) -> float:
        """Over the last steps."""
        return self._seconds / max(1e-9, self._weight)
