"""Counting what an epoch used, by key, across the worker processes of a loader and the ranks of a training.

Workers add to one shared state under a lock: how often each sample was handed out, and the sum of what was hashed. What
was handed out twice (a sampler's padding) is taken away again by its key before the sums are compared, so it is counted
once and reported.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from holdfast.data.commitments.multiset import LANES, Lanes, lane_sum
from holdfast.errors import DigestMismatch, IntegrityError, Unavailable

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_PATIENCE = 120  # seconds to wait for the lock; only a worker that died while holding it makes anybody wait

Places = np.ndarray[Any, np.dtype[np.int64]]
Counts = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, eq=False)
class Totals:
    """What one process, or all ranks together, used so far."""

    seen: Counts  # (n,), how often each sample of the table was handed out
    lanes: Lanes  # (1024,), the sum over all of it, repeats included
    size: int  # bytes of all of it
    ranks: int = 1


class Account:
    """The shared counts of one dataset; works in forked and in spawned workers.

    Args:
        count: samples in the table.
    """

    def __init__(self, count: int) -> None:
        self._seen = torch.zeros(count, dtype=torch.int64).share_memory_()
        self._lanes = torch.zeros(LANES, dtype=torch.int16).share_memory_()  # the bits of uint16
        self._size = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._lock = multiprocessing.get_context("spawn").Lock()  # a spawn lock can be handed to either kind of worker
        self._reduced: Totals | None = None
        self._reduced_at = 0  # samples this rank had handed out by then

    def add(self, places: Places, digests: Sequence[bytes], size: int) -> None:
        """Count samples whose digests were found to be the committed ones.

        Args:
            places: of the samples in the table, int64; one may come twice.
            digests: 32 bytes each.
            size: bytes of the fields of all of them.

        Raises:
            IntegrityError: another process died while it held the counts; the epoch cannot be vouched for.
        """
        added, seen, lanes = lane_sum(digests), self._seen.numpy(), self._lanes.numpy().view(np.uint16)
        if not self._lock.acquire(timeout=_PATIENCE):
            raise IntegrityError("a loader worker died while it was counting samples", hint="start the epoch again")
        try:
            np.add.at(seen, places, 1)
            lanes += added  # wraps around
            self._size.add_(size)
        finally:
            self._lock.release()

    def totals(self) -> Totals:
        """Return what was used so far: of all ranks after :meth:`reduce`, otherwise of this one.

        Whatever is used after :meth:`reduce` makes its result one of the past, and only this rank's is returned.
        """
        if self._reduced is not None and self._reduced_at == int(self._seen.sum()):
            return self._reduced
        return Totals(self._seen.numpy().copy(), self._lanes.numpy().view(np.uint16).copy(), int(self._size))

    def reset(self) -> None:
        """Begin the next epoch."""
        self._seen.zero_()
        self._lanes.zero_()
        self._size.zero_()
        self._reduced = None

    def reduce(self, identity: bytes, group: ProcessGroup | None = None) -> None:
        """Add up the counts and lanes of all ranks; every rank calls this at the end of an epoch.

        Args:
            identity: 32 bytes that must be the same on all ranks: what each of them checks against.
            group: ``torch.distributed`` group; the default one if None.

        Raises:
            Unavailable: no process group.
            DigestMismatch: another rank holds another commitment or subset.
        """
        from torch import distributed

        if not (distributed.is_available() and distributed.is_initialized()):
            raise Unavailable("there are no ranks to add up", hint="call torch.distributed.init_process_group first")
        _require_same(identity, group)
        wide = torch.from_numpy(self._lanes.numpy().view(np.uint16).astype(np.int64))  # sums of ranks do not overflow
        seen, lanes, size = (_total(tensor, group) for tensor in (self._seen, wide, self._size))
        self._reduced_at = int(self._seen.sum())
        sixteen = (lanes.numpy() % (1 << 16)).astype(np.uint16)
        self._reduced = Totals(seen.numpy(), sixteen, int(size), distributed.get_world_size(group))


def _total(value: torch.Tensor, group: ProcessGroup | None, operation: str = "SUM") -> torch.Tensor:
    """Return ``value`` combined over all ranks; NCCL only knows tensors on its device."""
    from torch import distributed

    device = "cuda" if distributed.get_backend(group) == "nccl" else "cpu"
    copy = value.clone().to(device)
    distributed.all_reduce(copy, op=getattr(distributed.ReduceOp, operation), group=group)
    return copy.cpu()


def _require_same(identity: bytes, group: ProcessGroup | None) -> None:
    own = torch.tensor(list(identity), dtype=torch.int64)
    if not torch.equal(_total(own, group, "MIN"), _total(own, group, "MAX")):
        raise DigestMismatch("the ranks check against different commitments or subsets")
