"""Run in worker processes of this machine, one thread each."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

import torch

from holdfast.errors import InvalidConfig, Unavailable
from holdfast.execution.executors.protocol import Job
from holdfast.execution.plan import Block
from holdfast.execution.store import Row
from holdfast.execution.trial import Runner

_RUNNERS: list[Runner] = []  # one per worker process, made by its initializer


class Processes:
    """A pool of ``workers`` spawned processes; each receives the model once.

    Raises:
        InvalidConfig: fewer than one worker.
    """

    def __init__(self, workers: int = 2) -> None:
        if workers < 1:
            raise InvalidConfig(f"an executor needs at least one worker, not {workers}")
        self.workers = workers

    def map(self, job: Job, blocks: Sequence[Block]) -> Iterator[list[Row]]:
        """Yield the rows of each block as it finishes.

        Raises:
            Unavailable: a worker died; finished blocks have been yielded.
        """
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(self.workers, context, initializer=_prepare, initargs=(job,))
        try:
            for future in as_completed([pool.submit(_run, block) for block in blocks]):
                yield future.result()
        except BrokenProcessPool as error:
            raise Unavailable("a campaign worker died", hint="in a script, call campaign under if __name__ == '__main__'; repeat the call to resume") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _prepare(job: Job) -> None:
    torch.set_num_threads(1)
    _RUNNERS[:] = [Runner(job.model, job.data, job.strict)]


def _run(block: Block) -> list[Row]:
    return _RUNNERS[0].run(block)
