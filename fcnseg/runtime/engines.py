"""What runs the network: pictures of one size in, logits or labels out.

An engine knows how to run one network as fast as its machine can. It knows nothing of
files of pictures, of picture sizes that differ, or of drawing: see segmenter.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fcnseg.errors import CheckpointError, OptionError
from fcnseg.models import output_upsampling
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.models.fcn import Upsample
from fcnseg.runtime.allocator import keep_freed_memory
from fcnseg.runtime.cells import Cells
from fcnseg.runtime.deciding import decide
from fcnseg.runtime.device import autocast, precision_name
from fcnseg.runtime.forking import Home, computing
from fcnseg.runtime.lanes import ONE, Lanes, side_by_side

if TYPE_CHECKING:
    from fcnseg.models.fcn import FCN
    from fcnseg.models.spec import Preprocess

Images = NDArray[np.uint8]
Size = tuple[int, int]

HEADER_KEY = "fcnseg"
"""Where exported files carry the checkpoint's header."""

SCORES = "scores"
"""The output of exported files that labels are worked out from, where there is one."""


class Engine(ABC):
    """Runs one network on uint8 RGB pictures (N, H, W, 3).

    name: which runtime ("torch", "onnxruntime", "openvino").
    device: where it runs, as torch names devices.
    precision: its arithmetic ("f32", "bf16", "f16", "int8").
    lanes: how many threads may call it at the same time, and each one's share of the cores.
    cells: where the cells of `scores` lie; None where there are none, or where the device
        decides faster by itself.
    """

    name: ClassVar[str]
    device: str
    precision: str
    lanes: Lanes = ONE
    cells: Cells | None = None

    @abstractmethod
    def forward(self, images: Images) -> Tensor:
        """Logits, float32 (N, K, H, W), where the engine leaves them; the bare network."""

    def scores(self, images: Images) -> NDArray[np.float32]:
        """What the logits are upsampled from, float32 (N, K, h, w); without `cells` they."""
        return self.logits(images)

    def synchronize(self) -> None:
        """Wait until everything asked for so far is computed."""
        return  # most engines have computed it when they return

    def logits(self, images: Images, *, size: Size | None = None) -> NDArray[np.float32]:
        """Logits float32 (N, K, H, W); with `size`, resized to that height and width."""
        self.lanes.enter()
        array: NDArray[np.float32] = _resized(self.forward(images), size).cpu().numpy()
        return array

    def labels(
        self, images: Images, *, confidence: bool = False, size: Size | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
        """Labels uint8 (N, H, W) and, when asked for, the winners' probability float32 (N, H, W).

        Decided where the logits are: only the answer leaves the device. With `size` the
        logits (not the labels) are resized before the decision.
        """
        self.lanes.enter()
        own: Size = (images.shape[1], images.shape[2])
        if self.cells is not None and not confidence and size in (None, own):
            cells = self.cells
            return np.stack([cells.labels(one, own) for one in self.scores(images)]), None
        with torch.inference_mode():
            return decide(_resized(self.forward(images), size), confidence=confidence)

    def just_labels(self, images: Images) -> NDArray[np.uint8]:
        """Labels uint8 (N, H, W) of pictures at their own size."""
        return self.labels(images)[0]

    def probabilities(
        self, images: Images, *, size: Size | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Labels uint8 (N, H, W) and softmax over the classes, float32 (N, K, H, W)."""
        self.lanes.enter()
        with torch.inference_mode():
            logits = _resized(self.forward(images), size)
            return decide(logits)[0], logits.softmax(dim=1).cpu().numpy()


class TorchEngine(Engine):
    """A network in PyTorch itself, on any device it knows.

    parallel: several threads may call it at the same time, where that is faster.

    It pickles and copies with its weights.
    """

    name = "torch"

    def __init__(
        self,
        network: FCN,
        preprocess: Preprocess,
        *,
        device: torch.device | None = None,
        precision: torch.dtype = torch.float32,
        parallel: bool = False,
    ) -> None:
        self._device = device or torch.device("cpu")
        self._dtype = precision
        self._preprocess = preprocess
        if self._device.type == "cpu":
            keep_freed_memory()
        self._network = network.eval().to(self._device)
        self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = str(self._device)
        self._home = Home()
        self.precision = precision_name(precision)
        self.lanes = side_by_side(self.device) if parallel else ONE
        if self._device.type == "cpu":
            self.cells = _cells(output_upsampling(network))

    def forward(self, images: Images) -> Tensor:
        """Logits, float32 (N, K, H, W), on the device."""
        with torch.inference_mode(), autocast(self._device, self._dtype):
            logits: Tensor = self._network(self._preprocess.normalise(self._upload(images)))
            return logits.float()

    def scores(self, images: Images) -> NDArray[np.float32]:
        """The scores that the logits are upsampled from, float32 (N, K, h, w)."""
        with torch.inference_mode(), autocast(self._device, self._dtype):
            scores = self._network.scores(self._preprocess.normalise(self._upload(images)))
            answer: NDArray[np.float32] = scores.float().cpu().numpy()
            return answer

    def skip_scores(
        self, images: Images, *, size: Size | None = None
    ) -> dict[int, NDArray[np.float32]]:
        """Each skip's contribution to the logits, by stride: float32 (N, K, H, W); they sum to it.

        OptionError when the network does not sum scores (fuse is not "score").
        """
        if self._network.spec.fuse != "score":
            raise OptionError(
                f"This network's skips are fused by {self._network.spec.fuse!r}: only with 'score' "
                "are the logits a sum with one term per skip.",
                hint="train one with --fuse score",
            )
        with torch.inference_mode(), autocast(self._device, self._dtype):
            scores = self._network.skip_scores(self._preprocess.normalise(self._upload(images)))
            return {
                stride: _resized(score.float(), size).cpu().numpy()
                for stride, score in scores.items()
            }

    def synchronize(self) -> None:
        """Wait for the device."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _home=Home())

    def _upload(self, images: Images) -> Tensor:
        computing(self._home)
        self._home.check_device(self.device)
        # torch warns of read-only memory.
        batch = torch.from_numpy(images if images.flags.writeable else images.copy())
        return batch.to(self._device, non_blocking=True)


def foreign(path: Path, kind: str) -> CheckpointError:
    """The error for a model file that fcnseg did not write."""
    return CheckpointError(
        f"{path} is {kind}, but not one written by fcnseg: it does not say what its classes "
        "are or how pictures are prepared for it.",
        hint="export the checkpoint it came from: fcnseg export MODEL",
    )


def cells_in(header: str) -> Cells | None:
    """Where the cells of a file's scores lie, by the checkpoint's header that it carries."""
    return _cells(output_upsampling(Checkpoint.from_header(header, name="").spec))


def _cells(lift: Upsample | None) -> Cells | None:
    return None if lift is None else Cells(lift.factor, lift.shift)


def _resized(logits: Tensor, size: Size | None) -> Tensor:
    """Logits at another height and width, bilinear; as they are when they have it already."""
    if size is None or logits.shape[2:] == size:
        return logits
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def first_line(error: Exception) -> str:
    """What a runtime's error says first; the rest is where in its own code."""
    return str(error).strip().partition("\n")[0].rstrip(".")
