"""Blocks of a campaign on all GPUs of this machine: one process for each, which sees no other.

A process that has used CUDA cannot be forked, so these are started afresh and get the model from this one. The
parent's settings go along, and a GPU that rounds in another way than the parent's is refused. Tensors are sent as
shared memory, which each process copies: no trial begins, and changes a weight, before all have done so.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from holdfast.errors import InvalidConfig, TrialError
from holdfast.execution.executors.answers import answer, opened
from holdfast.execution.knobs import adopt, knobs_of, settings
from holdfast.execution.plan import Block
from holdfast.execution.trials import Row, TrialRunner
from holdfast.models.internals import no_fast_path

_log = logging.getLogger(__name__)
VISIBLE = "CUDA_VISIBLE_DEVICES"
_READY = b"ready"


def visible() -> list[str]:
    """Return how the environment names each GPU that this process sees."""
    named = os.environ.get(VISIBLE)
    found = [str(number) for number in range(torch.cuda.device_count())]
    return found if named is None else [name.strip() for name in named.split(",")][: len(found)]


def run_on_devices(runner: TrialRunner, blocks: Sequence[Block], workers: int) -> Iterator[list[Row]]:
    """Yield the rows of each block as they come, from one process for each of up to ``workers`` GPUs.

    Raises:
        InvalidConfig: a GPU is of another kind than the one that the golden answers come from.
        TrialError: a worker died, which no exception explains.
    """
    names = visible()
    if workers > len(names):
        _log.warning("%d workers were asked for, and %d GPUs are here: one worker for each", workers, len(names))
    # held here until the last process has it: what is shared ends with whoever owns it
    given = (settings(), knobs_of(runner.device), runner.__reduce__(), tuple(blocks))
    pool: dict[Connection, BaseProcess] = {}
    try:
        for name in names[: min(workers, len(blocks))]:
            _start(pool, name, given)
        for pipe, process in pool.items():
            _received(pipe, process)
        yield from _distribute(pool, len(blocks))
    finally:
        for pipe, process in pool.items():
            pipe.close()
            process.terminate()
            process.join()


def _start(pool: dict[Connection, BaseProcess], name: str, given: tuple[Any, ...]) -> None:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, *given), name=f"holdfast-trials-{name}", daemon=True)
    with _environment({VISIBLE: name}):  # read before the first use of CUDA, so it has to be there at the start
        process.start()
    theirs.close()
    pool[ours] = process


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _work(
    pipe: Connection,
    given: dict[str, Any],
    knobs: dict[str, str],
    parcel: tuple[Callable[..., TrialRunner], tuple[Any, ...]],
    blocks: Sequence[Block],
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    torch.set_num_threads(1)
    adopt(given)
    runner = parcel[0](*parcel[1])

    def rows(place: int) -> Any:
        if (here := knobs_of(runner.device)) != knobs:
            differ = sorted(name for name in knobs if here.get(name) != knobs[name])
            raise InvalidConfig(
                f"a GPU of this machine differs from the model's in {', '.join(differ)}",
                hint="golden bits are those of one kind of GPU; CUDA_VISIBLE_DEVICES chooses among several",
            )
        return [astuple(row) for row in runner(blocks[place])]

    with suppress(EOFError, OSError), no_fast_path(), torch.no_grad():  # the parent is gone or done
        pipe.send_bytes(_READY)
        while True:
            pipe.send_bytes(answer(rows, int(pipe.recv_bytes())))


def _distribute(pool: dict[Connection, BaseProcess], count: int) -> Iterator[list[Row]]:
    waiting, busy = iter(range(count)), set[Connection]()
    for pipe in pool:
        _hand_out(pipe, waiting, busy)
    while busy:
        for pipe in [pipe for pipe in pool if pipe in set(wait(list(busy)))]:
            rows = _received(pipe, pool[pipe])
            busy.discard(pipe)
            _hand_out(pipe, waiting, busy)
            yield [Row(*values) for values in opened(rows)[1]]


def _hand_out(pipe: Connection, waiting: Iterator[int], busy: set[Connection]) -> None:
    item = next(waiting, None)
    if item is not None:
        busy.add(pipe)
        with suppress(BrokenPipeError):  # its death is reported when its answer is read
            pipe.send_bytes(str(item).encode())


def _received(pipe: Connection, process: BaseProcess) -> bytes:
    try:
        return pipe.recv_bytes()
    except (EOFError, OSError):
        process.join()
        raise TrialError(
            f"a campaign worker died with exit code {process.exitcode}",
            hint="what was finished is kept; a script that uses several GPUs needs `if __name__ == '__main__':`",
        ) from None
