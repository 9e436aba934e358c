"""Requests that wait for a model: a bounded queue, and the threads that serve it in batches.

Decoding, the network and encoding all happen here, so that no more images are in memory than
there are threads, however many requests wait.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from fcnseg.concurrency import usable_cores
from fcnseg.errors import FcnsegError
from fcnseg.inference.segmenter import Segmenter
from fcnseg.serving.outputs import Reply, Request, respond


class QueueFull(FcnsegError):
    """As many requests wait as may."""


@dataclass(eq=False)
class _Job:
    request: Request
    future: Future[Reply] = field(default_factory=Future)


class Batcher:
    """Serves requests with one model; `submit` may be called from any thread.

    batch: requests that go through the network together. limit: requests that may wait or be
    computed at the same time. on_batch: is called with the number of requests of each batch.
    """

    def __init__(
        self,
        model: Segmenter,
        *,
        batch: int = 1,
        limit: int = 256,
        on_batch: Callable[[int], object] = int,
    ) -> None:
        self.model, self.batch, self.limit, self._on_batch = model, batch, limit, on_batch
        self._waiting: deque[_Job] = deque()
        self._busy = 0
        self._closed = False
        self._change = threading.Condition()
        self._network = threading.Semaphore(model.num_parallel)
        # While some threads are in the network, others decode and encode.
        count = model.num_parallel + min(2, usable_cores())
        self._threads = [
            threading.Thread(target=self._work, name=f"serve-{index}", daemon=True)
            for index in range(count)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pending(self) -> int:
        """Requests that wait or are being computed."""
        return len(self._waiting) + self._busy

    def submit(self, request: Request) -> Future[Reply]:
        """A future of the reply; cancelling it drops a request that still waits.

        QueueFull at once when `limit` requests are pending. The future raises FcnsegError for what
        the sender can mend (an image that can't be decoded, an unknown class).
        """
        job = _Job(request)
        with self._change:
            if self._closed or self.pending >= self.limit:
                raise QueueFull(f"{self.limit} requests are waiting.", hint="try again later")
            self._waiting.append(job)
            self._change.notify()
        return job.future

    def close(self) -> None:
        """Complete what waits, then end the threads."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        for thread in self._threads:
            thread.join()

    def _take(self) -> list[_Job]:
        """The next requests that have the network compute the same; none: it is over."""
        with self._change:
            self._change.wait_for(lambda: self._waiting or self._closed)
            taken: list[_Job] = []
            while self._waiting and len(taken) < self.batch:
                if taken and self._waiting[0].request.needs != taken[0].request.needs:
                    break
                job = self._waiting.popleft()
                if job.future.set_running_or_notify_cancel():
                    taken.append(job)
                    self._busy += 1
            return taken

    def _work(self) -> None:
        while True:
            jobs = self._take()
            if jobs:
                self._respond(jobs)
                with self._change:
                    self._busy -= len(jobs)
            elif self._closed:
                return

    def _respond(self, jobs: Sequence[_Job]) -> None:
        self._on_batch(len(jobs))
        replies = respond(self.model, [job.request for job in jobs], self._network)
        for job, reply in zip(jobs, replies, strict=True):
            if isinstance(reply, BaseException):
                job.future.set_exception(reply)
            else:
                job.future.set_result(reply)
