"""kill -9 at a random moment, fifty times: what a resumed campaign has to do again, and whether its table is the same.

Each time a campaign runs in a process of its own, is killed without warning at a moment drawn uniformly over its
duration, and is resumed from its store. Every row that was begun is counted in shared memory; what was begun beyond
the number of trials was lost and done again. The limit that it is held against is one batch.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from benchmarks import _harness
from holdfast.data import Dataset, dataset
from holdfast.execution import CampaignReport, campaign
from holdfast.execution.plan import Block
from holdfast.execution.row import Row
from holdfast.execution.trials import TrialRunner
from holdfast.faults import BitFlip
from holdfast.models import build_architecture

KILLS, TRIALS, BATCH = 50, 640, 8
AT = "activations,weights:fc.*"


class Tally:
    """Counts rows that were begun, in memory that a killed process leaves behind."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8)

    @property
    def rows(self) -> int:
        """Rows begun since the last reset, in all processes."""
        return int(struct.unpack("q", self._memory[:8])[0])

    def add(self, rows: int) -> None:
        """Count more; one process at a time."""
        self._memory[:8] = struct.pack("q", self.rows + rows)

    def reset(self) -> None:
        """Begin again."""
        self._memory[:8] = bytes(8)

    @contextmanager
    def counting(self):  # type: ignore[no-untyped-def]
        """Count every row that a runner begins inside the block."""
        plain: Callable[[TrialRunner, Block], list[Row]] = TrialRunner.__call__

        def counted(runner: TrialRunner, block: Block) -> list[Row]:
            self.add(len(block))
            return plain(runner, block)

        TrialRunner.__call__ = counted  # type: ignore[method-assign]
        try:
            yield
        finally:
            TrialRunner.__call__ = plain  # type: ignore[method-assign]


def run(model: nn.Module, data: Dataset, store: Path) -> CampaignReport:
    """Run or resume the campaign."""
    return campaign(model, data, BitFlip(), at=AT, trials=TRIALS, batch=BATCH, seed=0, store=store)


def forked(work: Callable[[], object]) -> int:
    """Run ``work`` in a process of its own and return its number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    except BaseException:  # noqa: BLE001  its process ends here, whatever it was
        traceback.print_exc(file=sys.stderr)
    finally:
        os._exit(status)


def killed(work: Callable[[], object], after: float) -> bool:
    """Run ``work`` in a process, kill it ``after`` seconds; say whether it was still running."""
    child = forked(work)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def lost_rows(model: nn.Module, data: Dataset, kills: int, seed: int = 0) -> list[int]:
    """Return, for each kill, how many rows were begun more than once.

    Raises:
        RuntimeError: a resumed table differs from the uninterrupted one.
    """
    tally, lost, generator = Tally(), list[int](), random.Random(seed)
    with tempfile.TemporaryDirectory() as folder, tally.counting():
        began = time.monotonic()
        os.waitpid(forked(lambda: run(model, data, Path(folder) / "whole.sqlite")), 0)
        duration = time.monotonic() - began
        expected = CampaignReport.load(Path(folder) / "whole.sqlite")
        turn = 0
        while len(lost) < kills:
            turn, store = turn + 1, Path(folder) / f"{turn}.sqlite"
            tally.reset()
            if not killed(lambda path=store: run(model, data, path), generator.uniform(0, duration)):  # type: ignore[misc]
                continue  # it had finished
            if run(model, data, store).digest != expected.digest:
                raise RuntimeError(f"kill {turn}: the resumed table differs")
            lost.append(tally.rows - TRIALS)
    return lost


def measure() -> _harness.Result:
    """Kill a campaign fifty times; compare the most that was lost with one batch."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    lost = lost_rows(build_architecture("digits-cnn").eval(), dataset("digits", split="test"), KILLS)
    return _harness.Result(
        claim=f"of {KILLS} campaigns killed with SIGKILL every one resumed to the same table, at most one batch lost",
        ours=float(max(lost)),
        peer=float(BATCH),
        unit="rows begun again",
        ratio=max(lost) / BATCH,
        low=min(lost) / BATCH,
        high=max(lost) / BATCH,
        n=len(lost),
        peer_name="one batch",
        machine=_harness.machine(),
    )


if __name__ == "__main__":
    _harness.main(measure)
