"""Inference on a Ray cluster: each actor loads the model and processes a shard of the frames.

A frame's shard depends only on its position in the source, and the manifest records finished
frames, so that another worker can continue the shard of a lost one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch

from fcnseg.config import InferConfig
from fcnseg.device import resolve_device
from fcnseg.distributed import Distributed
from fcnseg.errors import FcnsegError, MissingExtra, OptionError, counted
from fcnseg.files import is_stdout
from fcnseg.inference.job import Decided, InferPlan, Job, make_plan
from fcnseg.inference.pipeline import InferResult
from fcnseg.progress import Callback, Event, Message, Progress

LOCAL = "local"
"""Value of --ray for all cores of this machine."""

_TRIES = 3
"""How often the worker of one shard may be lost before the job fails."""

Shard = tuple[list[InferResult], list[Message]]


def run_on_ray(
    config: InferConfig,
    callback: Callback,
    run: Callable[[InferPlan], list[InferResult]],
    join: Callable[[InferPlan, list[Shard]], InferResult],
) -> InferResult:
    """Call `run` in each worker and `join` here; return the job's result.

    Raises what `infer` does; MissingExtra without Ray, OptionError if the cluster can't be reached.
    """
    _refuse(config)
    with ExitStack() as stack:
        ray = _connected(str(config.ray), stack)
        return _run(ray, config, callback, run, join)


def _run(
    ray: Any,
    config: InferConfig,
    callback: Callback,
    run: Callable[[InferPlan], list[InferResult]],
    join: Callable[[InferPlan, list[Shard]], InferResult],
) -> InferResult:
    size, each = _workers(ray, config)
    config = replace(config, ray=None)
    with ExitStack() as stack:
        here = Distributed(str(resolve_device(config.device)), 0, size)
        plan = make_plan(Job(config, callback, here, stack))
        callback(Message(counted(size, "Ray worker")))
        make = ray.remote(max_concurrency=1, **each)(_Worker).remote
        return join(plan, _shards(ray, make, plan, run))


class _Worker:
    """A Ray actor that processes one shard."""

    def __init__(self) -> None:
        torch.set_num_threads(1)

    def work(
        self,
        config: InferConfig,
        decided: Decided,
        rank: int,
        size: int,
        run: Callable[[InferPlan], list[InferResult]],
    ) -> Shard | FcnsegError:
        """The result of each part, and warnings; errors are returned, as Ray would wrap them."""
        warnings: list[Message] = []

        def keep(event: Event) -> None:
            if isinstance(event, Message) and event.level == "warning":
                warnings.append(event)

        with ExitStack() as stack:
            shard = Distributed(str(resolve_device(config.device)), rank, size)
            try:
                job = Job(config, keep, shard, stack)
                return run(make_plan(job, decided)), warnings
            except FcnsegError as error:
                return error


def _shards(
    ray: Any, make: Callable[[], Any], plan: InferPlan, run: Callable[..., Any]
) -> list[Shard]:
    """The shards of all workers by rank; a lost worker's shard is continued by a new one."""
    config, size = plan.job.config, plan.job.distributed.size
    actors: dict[int, Any] = {}

    def begin(rank: int, config: InferConfig) -> Any:
        actors[rank] = make()
        return actors[rank].work.remote(config, plan.decided, rank, size, run)

    waiting = {begin(rank, config): rank for rank in range(size)}
    done: dict[int, Shard] = {}
    lost = dict.fromkeys(range(size), 0)
    before = [_recorded(plan, rank) for rank in range(size)]
    kept = [[0] * len(plan.parts) for _ in range(size)]  # frames that lost workers had done
    while waiting:
        [ready], _ = ray.wait(list(waiting))
        rank = waiting.pop(ready)
        try:
            found = ray.get(ready)
        except ray.exceptions.RayActorError as error:
            lost[rank] += 1
            now = zip(_recorded(plan, rank), before[rank], strict=True)
            kept[rank] = [lines - earlier for lines, earlier in now]
            if lost[rank] > _TRIES:
                text = f"Ray lost {lost[rank]} workers in a row: {error}"
                raise OptionError(text, hint="ray status, and the workers' memory") from None
            text = f"A Ray worker was lost; part {rank + 1} of {size} is repeated"
            plan.job.callback(Message(text, "warning"))
            waiting[begin(rank, replace(config, skip_done=True))] = rank
            continue
        if isinstance(found, FcnsegError):
            raise found
        results = [_add_frames(one, count) for one, count in zip(found[0], kept[rank], strict=True)]
        done[rank] = results, found[1]
        ray.kill(actors.pop(rank))
        plan.job.callback(Progress("infer", len(done), size, "workers"))
    return [done[rank] for rank in range(size)]


def _recorded(plan: InferPlan, rank: int) -> list[int]:
    return [part.recorded(rank) for part in plan.parts]


def _add_frames(result: InferResult, count: int) -> InferResult:
    """Add frames that a lost worker had finished."""
    frames_in, frames_out = result.frames_in + count, result.frames_out + count
    return replace(result, frames_in=frames_in, frames_out=frames_out)


def _refuse(config: InferConfig) -> None:
    """OptionError for options that do not work with several workers."""
    alone = {
        "--show": config.show,
        "--watch": config.watch,
        "--smooth": config.smooth > 0,
        "SOURCE -": "-" in config.source,
        "--out -": is_stdout(config.out),
    }
    for name in (name for name, given in alone.items() if given):
        raise OptionError(f"{name} is for one process; --ray has several.", hint="omit --ray")
    if config.out is None:
        raise OptionError("--ray needs --out: a folder that all workers reach.")


def _connected(address: str, stack: ExitStack) -> Any:
    """Ray, connected to a cluster or started here; the stack shuts down what is started here."""
    try:
        import ray
    except ImportError:
        raise MissingExtra("--ray", "ray") from None
    if not ray.is_initialized():
        where = {"include_dashboard": False} if address == LOCAL else {"address": address}
        try:
            ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # noqa: BLE001 - Ray raises bare Exceptions, too
            raise OptionError(
                f"--ray {address}: Ray did not start, or no cluster was reached: {error}",
                hint="ray://HOST:10001, HOST:6379, auto, or local for this machine",
            ) from None
        stack.callback(ray.shutdown)
    return ray


def _workers(ray: Any, config: InferConfig) -> tuple[int, dict[str, int]]:
    """Number of workers and the resources of each: a GPU if the cluster has any, else a core."""
    has = ray.cluster_resources()
    gpus = int(has.get("GPU", 0)) if config.device != "cpu" else 0
    if gpus:
        return gpus, {"num_cpus": 1, "num_gpus": 1}
    return max(1, int(has.get("CPU", 1))), {"num_cpus": 1}
