"""One training step: forward and backward pass, optimizer step, update of the averaged weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fcnseg.classes import IGNORE
from fcnseg.config import TrainConfig
from fcnseg.datasets.loader import Batch, UnlabeledBatch
from fcnseg.device import autocast
from fcnseg.distributed import Distributed
from fcnseg.engines.exported import first_line
from fcnseg.errors import PARSE_ERRORS, TrainingError
from fcnseg.models.backbones import shift_between, upsample
from fcnseg.models.fcn import FCN, crop, size_of
from fcnseg.models.spec import Preprocess
from fcnseg.training import unlabeled
from fcnseg.training.losses import Criterion
from fcnseg.training.schedule import Average, freeze, make_optimizer, rate_factor, set_rate


class NetWithAuxHeads(nn.Module):
    """A network with auxiliary heads for the coarser strides of the decoder.

    The heads are discarded after training. With fuse=score the maps are scores already. Auxiliary
    losses are computed on every fourth pixel only (`grid`), a sixteenth of the work: between them
    the maps would be interpolated.
    """

    def __init__(self, network: FCN, *, aux: bool) -> None:
        super().__init__()
        self.network = network
        coarse = network.decoder.strides[:-1] if aux else ()
        self.coarse = [str(stride) for stride in coarse]
        spec = network.spec
        self.heads = nn.ModuleDict()
        if spec.fuse != "score":
            for stride in self.coarse:
                self.heads[stride] = nn.Conv2d(spec.width, spec.num_classes, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        """float (N, 3, H, W) -> logits (N, K, H, W), and those of coarser strides on the grid."""
        maps: list[Tensor] = []
        with self._collect(maps):
            logits = self.network(images)
        outputs = [logits]
        for stride, features in zip(self.coarse, maps, strict=True):
            scores = self.heads[stride](features) if stride in self.heads else features
            on_grid = self.to_grid(scores, int(stride))
            outputs.append(crop(on_grid, *size_of(self.on_grid(logits[:, 0]))))
        return outputs

    def on_grid(self, labels: Tensor) -> Tensor:
        """(N, H, W) -> (N, h, w): the labels on the grid, for the auxiliary losses."""
        step, first = self.grid
        return labels[:, first::step, first::step]

    @property
    def grid(self) -> tuple[int, int]:
        """(step, first) of the pixels of auxiliary losses, along both axes.

        Every fourth if the backbone has a map of stride 4; else those of the decoder's finest map.
        """
        decoder = self.network.decoder
        step = 4 if 4 in decoder.offsets else decoder.strides[-1]
        return step, int(decoder.offsets[step])

    def to_grid(self, maps: Tensor, stride: int) -> Tensor:
        """Interpolate maps (N, C, h, w) of a stride bilinearly at the grid's pixels."""
        step, _ = self.grid
        factor, shift = stride // step, shift_between(self.network.decoder.offsets, stride, step)
        return upsample(maps, factor, shift, (maps.shape[-2] * factor, maps.shape[-1] * factor))

    @contextlib.contextmanager
    def _collect(self, maps: list[Tensor]) -> Iterator[None]:
        """Collect the decoder's maps at the coarser strides, from coarse to fine."""
        decoder = self.network.decoder
        modules = [decoder.entry, *decoder.rungs.values()][: len(self.coarse)]
        hooks = [
            module.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
            for module in modules
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


class TrainStep:
    """Runs training steps; has the weights, the optimizer, the loss scale and the average.

    average: the averaged network, which is evaluated and saved.
    """

    def __init__(
        self,
        network: FCN,
        config: TrainConfig,
        *,
        criterion: Criterion,
        preprocess: Preprocess,
        ranks: Distributed,
        precision: torch.dtype,
    ) -> None:
        self.config, self.ranks, self.precision = config, ranks, precision
        self.criterion, self.preprocess = criterion, preprocess
        torch.manual_seed(config.seed)  # the same initial heads after a sanity check
        self.model = NetWithAuxHeads(network, aux=config.aux > 0)
        self.model.to(ranks.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        freeze(network.train(), config)
        self.average = Average(network, config.ema)
        self.optimizer = make_optimizer(self.model, config)
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=precision == torch.float16)
        self._forward: nn.Module = self.model
        if ranks.size > 1:
            self._forward = _distributed(self.model, ranks)
        if config.compile:
            network.backbone.compile()  # in place, keeps parameter names; not for the average
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]

    def __call__(
        self,
        batch: Batch,
        step: int,
        steps: float,
        *,
        micro_batches: int = 1,
        lr_scale: float = 1.0,
    ) -> Tensor:
        """Train on one batch; returns float (2,) on the device: its loss, its auxiliary losses.

        The first is of the final logits only, so that it is comparable between decoders; the
        second is weighted by --aux; gradients are of the sum. With unlabeled images float (4,):
        also their weighted loss, and the fraction of their pixels used (-1: not used yet).

        step: its number from 0, of `steps`. micro_batches: gradient accumulation steps.
        The random numbers are determined by (seed, step, rank).
        """
        config = self.config
        torch.manual_seed(_mixed(config.seed, step, self.ranks.rank))
        set_rate(self.optimizer, self.rate(step, steps, lr_scale))
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._backward(batch, micro_batches, done=step / steps)
        if batch.unlabeled is not None:
            own = self._learn_unlabeled(batch.unlabeled, micro_batches, done=step / steps)
            loss = torch.cat([loss, own])
        if config.clip > 0:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self._parameters, config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.update(self.model.network, step)
        return loss

    def rate(self, step: int, steps: float, lr_scale: float = 1.0) -> float:
        """The learning rate of a step."""
        config = self.config
        factor = rate_factor(step, steps, warmup=config.warmup, schedule=config.schedule)
        return config.lr * lr_scale * factor

    def _backward(self, batch: Batch, micro_batches: int, *, done: float) -> Tensor:
        """Accumulate gradients of the full batch's loss over micro-batches and ranks."""
        device = self.ranks.device
        images = batch.images.to(device, non_blocking=True)
        labels = batch.labels.to(device, non_blocking=True)
        normalizers = [self.ranks.sum(self.criterion.normalizers(labels))]
        if self.model.coarse:
            sparse = self.criterion.normalizers(self.model.on_grid(labels))
            normalizers.append(self.ranks.sum(sparse))
        losses = torch.zeros(2, device=device)
        chunks = list(zip(images.chunk(micro_batches), labels.chunk(micro_batches), strict=True))
        for number, (some, theirs) in enumerate(chunks):
            with self._without_sync(number < len(chunks) - 1):
                loss, aux = self._loss(some, theirs, normalizers, done)
                # DDP averages over ranks, but normalizers are summed over them: undo the mean.
                total = loss + aux if self.model.coarse else loss
                self.scaler.scale(total * self.ranks.size).backward()  # type: ignore[no-untyped-call]
            losses += torch.stack([loss, aux]).detach()
        return self.ranks.sum(losses)

    def _loss(
        self, images: Tensor, labels: Tensor, normalizers: Sequence[Tensor], done: float
    ) -> tuple[Tensor, Tensor]:
        """The loss of the final logits and the weighted sum of the auxiliary ones, scalars."""
        with autocast(self.ranks.device, self.precision), _compile_errors():
            outputs = self._forward(self.preprocess.normalise(images))
        loss = self.criterion(outputs[0], labels, normalizers[0], done=done)
        aux = torch.zeros_like(loss)
        for coarse in outputs[1:]:
            sparse = self.model.on_grid(labels)
            aux = aux + self.config.aux * self.criterion(coarse, sparse, normalizers[1], done=done)
        return loss, aux

    def _learn_unlabeled(self, batch: UnlabeledBatch, micro_batches: int, *, done: float) -> Tensor:
        """Accumulate gradients of the loss on unlabeled images.

        Returns float (2,): the loss, and the fraction of confident pixels.
        """
        device = self.ranks.device
        weight = self.config.unlabeled_weight * unlabeled.weight_at(done)
        if not weight:
            return torch.tensor([0.0, -1.0], device=device)
        batch = UnlabeledBatch(*(each.to(device, non_blocking=True) for each in batch))
        with torch.no_grad(), autocast(device, self.precision):
            teacher = self.average.network(self.preprocess.normalise(batch.weak))
        labels = unlabeled.targets(teacher, batch.inside, self.config.confident)
        parts = unlabeled.mixed(batch, labels)
        pixels = batch.inside.sum()
        losses = torch.zeros((), device=device)
        for images, theirs in zip(*(one.chunk(micro_batches) for one in parts), strict=True):
            with unlabeled.frozen_statistics(self.model), autocast(device, self.precision):
                logits = self.model.network(self.preprocess.normalise(images))
            loss = weight * unlabeled.consistency(logits, theirs, pixels)
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            losses += loss.detach()
        return torch.stack([losses, (labels != IGNORE).sum() / pixels.clamp_min(1)])

    def _without_sync(self, active: bool) -> contextlib.AbstractContextManager[None]:
        """With several ranks, synchronise gradients only with the last micro-batch."""
        if active and isinstance(self._forward, DistributedDataParallel):
            return cast(contextlib.AbstractContextManager[None], self._forward.no_sync())
        return contextlib.nullcontext()

    def is_finite(self) -> bool:
        """Whether the averaged weights are; with several processes, those that all have alike."""
        network = self.average.network
        alike = network.state_dict().values() if self.ranks.size == 1 else network.parameters()
        return all(bool(tensor.isfinite().all()) for tensor in alike)

    def tensors(self) -> dict[str, Any]:
        """State dicts by name, for `restore`."""
        return {
            "learner": self.model.state_dict(),
            "average": self.average.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, tensors: Mapping[str, Any]) -> None:
        """Load what `tensors` returned; TrainingError when it belongs to another network."""
        try:
            self.model.load_state_dict(tensors["learner"])
            self.average.network.load_state_dict(tensors["average"])
            self.optimizer.load_state_dict(tensors["optimizer"])
            for group in self.optimizer.param_groups:  # "share" in states of earlier versions
                group.setdefault("lr_scale", group.get("share"))
            self.scaler.load_state_dict(tensors["scaler"])
        except (RuntimeError, *PARSE_ERRORS) as error:
            raise TrainingError(
                "The saved state belongs to another network or another version of fcnseg: "
                f"{str(error).strip().partition(chr(10))[0]}",
                hint="start a new run with --finetune and this run's last.safetensors",
            ) from error


@contextlib.contextmanager
def _compile_errors() -> Iterator[None]:
    """TrainingError when torch.compile fails, usually for lack of a compiler."""
    try:
        yield
    except torch._dynamo.exc.TorchDynamoException as error:
        cause = getattr(error, "inner_exception", error)  # the backend's error
        raise TrainingError(
            f"torch.compile can't compile this backbone here: {first_line(cause)}.",
            hint="omit --compile; it needs a C++ compiler, and Triton on a GPU",
        ) from error


def _distributed(model: NetWithAuxHeads, ranks: Distributed) -> DistributedDataParallel:
    if ranks.device.type == "cuda":
        synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return DistributedDataParallel(synchronised, device_ids=[ranks.device])
    return DistributedDataParallel(model)


def _mixed(seed: int, step: int, rank: int) -> int:
    """Hash three numbers to a seed (splitmix64's constants)."""
    mixed = seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB
    mixed &= 2**64 - 1
    mixed ^= mixed >> 31
    return mixed >> 1
