"""Where ranks meet: one rendezvous, and over NCCL a GPU for each of them, which is settled before NCCL starts."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from holdfast.errors import InvalidConfig, MissingDevice, Unavailable
from holdfast.identification.platforms import LocalPlatform
from holdfast.identification.platforms.devices import require_device


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """Where the ranks meet.

    Attributes:
        rank: of this process, 0 .. world_size - 1; 0 searches, the others answer.
        world_size: processes in all.
        rendezvous: ``tcp://HOST:PORT`` of rank 0, or ``file:///PATH`` on a shared disk.
        backend: ``gloo``, or ``nccl`` for ranks with a GPU each.
        timeout: seconds to wait for another rank.
        device: where this rank computes, ``cpu``, ``cuda`` or ``cuda:N``; its platform's own if not given, and the
            first GPU over NCCL.
    """

    rank: int
    world_size: int
    rendezvous: str
    backend: str = "gloo"
    timeout: float = 300.0
    device: str | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.timeout) and self.timeout > 0):
            raise InvalidConfig(f"a timeout is a number of seconds above 0, not {self.timeout}", hint="--timeout 300")
        if self.world_size < 2 or not 0 <= self.rank < self.world_size:
            raise InvalidConfig(
                f"rank {self.rank} of {self.world_size}: ranks run from 0 to one less than the world, which has two"
            )
        if not self.rendezvous.startswith(("tcp://", "file://")):
            raise InvalidConfig(f"no rendezvous at {self.rendezvous!r}", hint="tcp://HOST:PORT or file:///PATH")
        if self.backend not in ("gloo", "nccl"):
            raise InvalidConfig(f"no backend {self.backend!r}", hint="gloo or nccl")
        if self.backend == "nccl" and self.device == "cpu":
            raise InvalidConfig("NCCL runs between GPUs, and this rank is told to use the CPU", hint="--backend gloo")

    @property
    def place(self) -> str | None:
        """The device to compute on, or None where the platform decides."""
        if self.device is not None:
            return self.device
        return "cuda" if self.backend == "nccl" else None


@contextmanager
def group(ranks: Ranks) -> Iterator[None]:
    """Meet the other ranks for the length of the block.

    Raises:
        MissingDevice: over NCCL, this rank has no such GPU, or another rank has the same one.
        Unavailable: the others did not come.
    """
    with ExitStack() as stack:
        try:
            _join(ranks, stack)
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise Unavailable(f"the {ranks.world_size} ranks did not meet at {ranks.rendezvous}: {reason}") from error
        stack.callback(dist.destroy_process_group)
        yield


def _join(ranks: Ranks, stack: ExitStack) -> None:
    wait, device = timedelta(seconds=ranks.timeout), None
    if ranks.backend == "nccl":
        require_nccl(ranks.rank)
        device = require_device(LocalPlatform("nccl", device=str(ranks.place)))
        # a rank that falls silent is an error where it is waited for, and does not end this process
        os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    store, _, _ = next(rendezvous(ranks.rendezvous, ranks.rank, ranks.world_size, timeout=wait))
    store.set_timeout(wait)
    if device is not None:
        require_own_gpu(PrefixStore("gpus", store), ranks.rank, ranks.world_size, _identity(device))
        stack.enter_context(torch.cuda.device(device))
    dist.init_process_group(
        ranks.backend,
        store=PrefixStore("ranks", store),
        rank=ranks.rank,
        world_size=ranks.world_size,
        timeout=wait,
        device_id=device,
    )


def require_nccl(rank: int) -> None:
    """Raise :class:`MissingDevice` where a rank has no GPU, or a torch without NCCL."""
    if not (torch.cuda.is_available() and dist.is_nccl_available()):
        raise MissingDevice(
            f"rank {rank} has no GPU that NCCL could use",
            hint="--backend gloo, on every rank; it moves CPU tensors, and each rank may still compute on a GPU",
        )


def _identity(device: torch.device) -> str:
    """Return what no other GPU is called: two machines may each have a cuda:0, and one GPU two numbers."""
    found = torch.cuda.get_device_properties(device)
    return f"{found.name} {getattr(found, 'uuid', None) or f'{socket.gethostname()} {device.index}'}"


def require_own_gpu(store: Store, rank: int, world_size: int, identity: str) -> None:
    """Tell the other ranks which GPU this one has, and see that it is nobody else's.

    NCCL would hang or fail with an error that names no rank.

    Raises:
        MissingDevice: another rank has the same GPU; all ranks raise it.
        RuntimeError: a rank does not tell.
    """
    store.set(f"{rank}", identity)
    all_ranks = range(world_size)
    told = [store.get(f"{other}").decode(errors="replace") for other in all_ranks]
    store.set(f"{rank} has read", "")
    if rank == 0:  # which keeps the store: the others read it to the end
        store.wait([f"{other} has read" for other in all_ranks])
    shared = {name: [other for other in all_ranks if told[other] == name] for name in told}
    for name, owners in shared.items():
        if len(owners) > 1:
            raise MissingDevice(
                f"ranks {' and '.join(map(str, owners))} have one GPU, {name}, and NCCL needs one for each rank",
                hint="--device cuda:1 on one of them, or --backend gloo on all, over which ranks may share a GPU",
            )
