"""Run blocks of trials, or whole chips, in worker processes forked from this one.

A fork shares the model, the data and the plan without copying or serialising them; what crosses the pipes is a number
one way and JSON the other. Only the parent writes the store.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from itertools import chain
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from holdfast.errors import InvalidConfig, MissingDevice, TrialError
from holdfast.execution.executors.answers import answer, opened
from holdfast.execution.executors.catalogue import executors
from holdfast.execution.executors.devices import run_on_devices
from holdfast.execution.executors.sharing import require_own_memory
from holdfast.execution.plan import Block
from holdfast.execution.trials import Row, TrialRunner
from holdfast.execution.watchdog import ENDED, become_mortal


@executors.register("processes")
@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """``workers`` forked processes, one torch thread each; needs an operating system with ``fork``.

    A model on a GPU is computed by one process for each GPU instead, up to ``workers``.
    """

    workers: int = 2

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise InvalidConfig(
                f"there must be at least one worker, not {self.workers}", hint="for example processes:2"
            )

    def run(self, runner: TrialRunner, blocks: Sequence[Block]) -> Iterator[list[Row]]:
        """Yield the rows of each block as they come.

        Raises:
            InvalidConfig: the model is a session, whose connection cannot be shared, or its weights are in memory that
                processes share.
            MissingDevice: the operating system has no ``fork``, or CUDA is already in use.
            TrialError: a worker died, which no exception explains (killed, or out of memory).
        """
        if runner.exclusive:
            raise InvalidConfig("a session cannot be shared between processes", hint="use executor='inline'")
        if runner.device.type == "cuda":
            yield from run_on_devices(runner, blocks, self.workers)
            return
        require_own_memory(runner.model)
        runner.survive(blocks)
        for _, rows in self.map(lambda place: [astuple(row) for row in runner(blocks[place])], range(len(blocks))):
            yield [Row(*values) for values in rows]

    def map(self, task: Callable[[int], Any], items: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Yield (item, what ``task`` made of it) as they come; a result is JSON, and so are lists where tuples were.

        Raises:
            MissingDevice: the operating system has no ``fork``, or CUDA is already in use.
            TrialError: a worker died, which no exception explains (killed, or out of memory).
        """
        if not hasattr(os, "fork") or torch.cuda.is_initialized():
            raise MissingDevice("worker processes need fork and a CPU model", hint="use executor='inline'")
        pool: dict[Connection, BaseProcess] = {}
        try:
            for _ in range(min(self.workers, len(items))):
                _start(pool, task)
            yield from _distribute(pool, items, task)
        finally:
            for pipe, process in pool.items():
                pipe.close()
                process.terminate()
                process.join()


def _start(pool: dict[Connection, BaseProcess], task: Callable[[int], Any]) -> Connection:
    ours, theirs = get_context("fork").Pipe()
    # a worker must not hold the parent's ends, or it would not notice that the parent died
    process = get_context("fork").Process(
        target=_work, args=(theirs, [ours, *pool], task), name="holdfast-trials", daemon=True
    )
    process.start()
    theirs.close()
    pool[ours] = process
    return ours


def _work(pipe: Connection, foreign: list[Connection], task: Callable[[int], Any]) -> None:
    for other in foreign:
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    torch.set_num_threads(1)
    become_mortal()
    with suppress(EOFError, OSError):  # the parent is gone or done
        while True:
            pipe.send_bytes(answer(task, int(pipe.recv_bytes())))


def _distribute(
    pool: dict[Connection, BaseProcess], items: Sequence[int], task: Callable[[int], Any]
) -> Iterator[tuple[int, Any]]:
    waiting, held = iter(items), dict[Connection, int]()
    for pipe in list(pool):
        _hand_out(pipe, waiting, held)
    while held:
        ready = set(wait(list(pool)))
        for pipe in [pipe for pipe in pool if pipe in ready]:
            result, item = _receive(pipe, pool[pipe]), held.pop(pipe)
            if result is None:  # the next worker will know what this one was doing
                del pool[pipe]
                waiting = chain([item], waiting)
                pipe = _start(pool, task)
            _hand_out(pipe, waiting, held)
            if result is not None:
                yield result


def _hand_out(pipe: Connection, waiting: Iterator[int], held: dict[Connection, int]) -> None:
    item = next(waiting, None)
    if item is None:
        return
    held[pipe] = item
    with suppress(BrokenPipeError):  # its death is reported when its answer is read
        pipe.send_bytes(str(item).encode())


def _receive(pipe: Connection, process: BaseProcess) -> tuple[int, Any] | None:
    """Return an answer, or None where the worker was ended because a pass of it hung."""
    try:
        data = pipe.recv_bytes()
    except (EOFError, OSError):
        process.join()
        if process.exitcode == ENDED:
            return None
        raise TrialError(
            f"a campaign worker died with exit code {process.exitcode}",
            hint="what was finished is kept; run it again",
        ) from None
    return opened(data)
