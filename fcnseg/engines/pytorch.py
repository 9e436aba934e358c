"""The engine that runs a network in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fcnseg.device import OpenedIn, autocast, before_computing, one_thread, precision_name
from fcnseg.engines.base import (
    SEQUENTIAL,
    Engine,
    Images,
    ScoreGrid,
    Size,
    as_tensor,
    parallelism_on,
    resized,
)
from fcnseg.errors import OptionError
from fcnseg.models.fcn import Decoder, FeatureSkip, Upsample
from fcnseg.progress import release_freed_memory

if TYPE_CHECKING:
    from fcnseg.models.fcn import FCN
    from fcnseg.models.spec import Preprocess


class TorchEngine(Engine):
    """Runs a network in PyTorch, on any of its devices.

    parallel: allow several threads to call it at the same time, where that is faster.

    Pickling and copying include the weights.
    """

    name = "torch"
    shows_network = True

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
        with one_thread():
            self._network = network.eval().to(self._device)
            self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = str(self._device)
        self._opened_in = OpenedIn()
        self.precision = precision_name(precision)
        self.parallelism = parallelism_on(self.device) if parallel else SEQUENTIAL
        if self._device.type == "cpu":
            self.score_grid = score_grid_of(network)

    @property
    def network(self) -> FCN:
        """The network, in evaluation mode, on the engine's device."""
        return self._network

    @property
    def backbone(self) -> str:
        """The name of the network's backbone."""
        return self._network.spec.backbone

    def forward(self, images: Images) -> Tensor:
        """Logits, float32 (N, K, H, W), on the device."""
        with torch.inference_mode(), autocast(self._device, self._dtype):
            logits: Tensor = self._network(self._preprocess.normalise(self._upload(images)))
            return logits.float()

    def scores(self, images: Images) -> NDArray[np.float32]:
        """The scores that the logits are upsampled from, float32 (N, K, h, w)."""
        with torch.inference_mode(), autocast(self._device, self._dtype):
            scores = self._network.scores(self._preprocess.normalise(self._upload(images)))
            array: NDArray[np.float32] = scores.float().cpu().numpy()
            return array

    def skip_scores(
        self, images: Images, *, size: Size | None = None
    ) -> dict[int, NDArray[np.float32]]:
        """The logits as a sum of one term per skip, by stride: float32 (N, K, H, W) each.

        OptionError when the network does not sum scores (fuse is not "score").
        """
        if not self.sums_scores:
            raise OptionError(
                f"This network's skips are fused by {self._network.spec.fuse!r}: only with 'score' "
                "are the logits a sum with one term per skip.",
                hint="logits_without_skips() shows what each skip changes",
            )
        with torch.inference_mode(), autocast(self._device, self._dtype):
            scores = self._network.skip_scores(self._preprocess.normalise(self._upload(images)))
            return {
                stride: as_tensor(resized(score.float(), size)).cpu().numpy()
                for stride, score in scores.items()
            }

    @property
    def sums_scores(self) -> bool:
        """Whether the network's fuse is "score"."""
        return self._network.spec.fuse == "score"

    def logits_without_skips(
        self, images: Images, *, size: Size | None = None
    ) -> dict[int, NDArray[np.float32]]:
        """Ablate one skip at a time: its stride -> the logits without it, float32 (N, K, H, W).

        The skip's features are set to zero before they are added or concatenated (fuse is
        "feature" or "concat"). The differences from the full logits do not add up to them.
        OptionError for a network without such skips. Not thread-safe.
        """
        skips = self._feature_skips()
        return {stride: self._without([skip], images, size) for stride, skip in skips.items()}

    def logits_up_to_skips(
        self, images: Images, *, size: Size | None = None
    ) -> dict[int, NDArray[np.float32]]:
        """The logits without the skips finer than a stride, by stride, from coarse to fine.

        float32 (N, K, H, W); the last are the network's own. Partial sums if scores are summed;
        otherwise the finer skips' features are set to zero, as in logits_without_skips.
        """
        if self.sums_scores:
            parts = sorted(self.skip_scores(images, size=size).items(), reverse=True)
            sums = np.cumsum(np.stack([part for _, part in parts]), axis=0)
            return {stride: total for (stride, _), total in zip(parts, sums, strict=True)}
        skips = self._feature_skips()
        return {
            stride: self._without([skips[s] for s in skips if s < stride], images, size)
            for stride in self._network.decoder.strides
        }

    def _feature_skips(self) -> dict[int, FeatureSkip]:
        skips = getattr(self._network.decoder, "rungs", {})
        found = {int(s): skip for s, skip in skips.items() if isinstance(skip, FeatureSkip)}
        if not found:
            raise OptionError("This network has no skips whose features are added or concatenated.")
        return found

    def _without(
        self, skips: Sequence[FeatureSkip], images: Images, size: Size | None
    ) -> NDArray[np.float32]:
        def zeros(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            return torch.zeros_like(output)

        hooks = [skip.lateral.register_forward_hook(zeros) for skip in skips]
        try:
            return self.logits(images, size=size)
        finally:
            for hook in hooks:
                hook.remove()

    def synchronize(self) -> None:
        """Wait for the device."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _opened_in=OpenedIn())

    def _upload(self, images: Images) -> Tensor:
        before_computing(self._opened_in)
        self._opened_in.check_device(self.device)
        if self._device.type == "cpu":
            release_freed_memory(images.shape)
        # Copy read-only arrays, about which torch would warn.
        batch = torch.from_numpy(images if images.flags.writeable else images.copy())
        return batch.to(self._device, non_blocking=True)


def score_grid_of(network: nn.Module) -> ScoreGrid | None:
    """The grid of the scores if a network upsamples them bilinearly to logits; else None.

    Weights are not used and may be on device "meta".
    """
    decoder = getattr(network, "decoder", None)
    if not isinstance(decoder, Decoder) or decoder.detail is not None:
        return None
    last = decoder.upsamples[str(decoder.strides[-1])]
    if not isinstance(last, Upsample) or last.factor == 1:
        return None
    return ScoreGrid(last.factor, last.shift)
