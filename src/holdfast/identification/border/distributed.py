"""Two platforms or more that are other machines: each rank answers for its own, rank 0 asks and searches.

Over ``torch.distributed`` (gloo, or NCCL with its tensors on the GPU): only tensors travel, never pickles. Before any
search each rank proves that it is there, that it has the same model and reads images the same way. A rank that falls
silent is a clear error after ``timeout``, and what was found until then is kept where a folder was given.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from holdfast.errors import InvalidConfig, MissingDevice, Unavailable, VerificationError
from holdfast.evidence import canonical
from holdfast.execution import describe_platform
from holdfast.identification.border.asking import Oracle
from holdfast.identification.border.lattice import Lattice
from holdfast.identification.border.line import END, Line
from holdfast.identification.border.oracle import open_oracles
from holdfast.identification.settings import Setting
from holdfast.models import manifest_of

_DESCRIBE, _ANSWER, _FRESH = range(1, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """Where the ranks meet.

    Attributes:
        rank: of this process, 0 .. world_size - 1; 0 searches, the others answer.
        world_size: processes in all.
        rendezvous: ``tcp://HOST:PORT`` of rank 0, or ``file:///PATH`` on a shared disk.
        backend: ``gloo``, or ``nccl`` for ranks with a GPU each.
        timeout: seconds to wait for another rank.
    """

    rank: int
    world_size: int
    rendezvous: str
    backend: str = "gloo"
    timeout: float = 300.0

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


@dataclass(frozen=True)
class Remote:
    """The platform of another rank."""

    line: Line
    name: str
    batch: int
    platform: dict[str, Any]  # what the rank says it is, as ``describe_platform`` has it

    def logits(self, images: Tensor) -> Tensor:
        """Send the images and wait for the outputs."""
        return self._asked(_ANSWER, images)

    def fresh(self, images: Tensor) -> Tensor | None:
        """Have the rank ask a process of its own."""
        found = self._asked(_FRESH, images)
        return found if found.numel() else None

    def _asked(self, what: int, images: Tensor) -> Tensor:
        self.line.send_numbers(what)
        self.line.send(images)
        return self.line.receive()


@contextmanager
def joined(
    ranks: Ranks,
    model: nn.Module,
    platform: str | Setting | Oracle,
    lattice: Lattice,
    *,
    batch: int | None = None,
) -> Iterator[list[Oracle] | None]:
    """Meet the other ranks; yield the oracles of all on rank 0, and None on the others once rank 0 is done.

    Each rank brings its own ``platform``, under the name ``PLATFORM@RANK``.

    Raises:
        Unavailable: a rank did not come, or fell silent.
        VerificationError: a rank has another model, or reads images in another way; it is named.
    """
    with open_oracles(model, [platform], lattice, batch=batch) as own, _group(ranks):
        here = _Named(own[0], f"{own[0].name}@{ranks.rank}")
        described = _described(here, model, lattice)
        if ranks.rank:
            _serve(Line(0, ranks.backend), here, described)
            yield None
            return
        lines = [Line(rank, ranks.backend) for rank in range(1, ranks.world_size)]
        try:
            yield [here, *(_met(line, described) for line in lines)]
        finally:
            for line in lines:
                line.end()


@dataclass(frozen=True)
class _Named:
    oracle: Oracle
    name: str

    @property
    def batch(self) -> int:
        return self.oracle.batch

    def logits(self, images: Tensor) -> Tensor:
        return self.oracle.logits(images)

    def fresh(self, images: Tensor) -> Tensor | None:
        return self.oracle.fresh(images)


@contextmanager
def _group(ranks: Ranks) -> Iterator[None]:
    _require_backend(ranks)
    try:
        dist.init_process_group(
            ranks.backend,
            init_method=ranks.rendezvous,
            rank=ranks.rank,
            world_size=ranks.world_size,
            timeout=timedelta(seconds=ranks.timeout),
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise Unavailable(f"the {ranks.world_size} ranks did not meet at {ranks.rendezvous}: {reason}") from error
    try:
        yield
    finally:
        dist.destroy_process_group()


def _require_backend(ranks: Ranks) -> None:
    if ranks.backend == "nccl" and not (torch.cuda.is_available() and dist.is_nccl_available()):
        raise MissingDevice(
            f"rank {ranks.rank} has no GPU that NCCL could use",
            hint="--backend gloo, on every rank; it moves CPU tensors",
        )


def _described(oracle: Oracle, model: nn.Module, lattice: Lattice) -> dict[str, Any]:
    return {
        "name": oracle.name,
        "batch": oracle.batch,
        "model": manifest_of(model).digest,
        "shape": list(lattice.shape),
        "preprocessing": lattice.preprocessing.to_json(),
        "platform": describe_platform().to_json(),
    }


def _met(line: Line, ours: dict[str, Any]) -> Remote:
    """Check that the other end is there and about the same thing."""
    line.send_numbers(_DESCRIBE)
    theirs = canonical.loads(bytes(line.receive().tolist()), what=f"the description of rank {line.peer}")
    for key in ("model", "shape", "preprocessing"):
        if canonical.dumps(theirs[key]) != canonical.dumps(ours[key]):
            raise VerificationError(f"rank {line.peer} has another {key} than rank 0", hint="start both on one model")
    return Remote(line, str(theirs["name"]), int(theirs["batch"]), theirs["platform"])


def _serve(line: Line, oracle: Oracle, described: dict[str, Any]) -> None:
    """Answer rank 0 until it ends; an error here is told there before it is raised."""
    while (what := line.receive_numbers()) != END:
        try:
            if what == _DESCRIBE:
                line.send(torch.frombuffer(bytearray(canonical.dumps(described)), dtype=torch.uint8))
                continue
            images = line.receive()
            found = oracle.logits(images) if what == _ANSWER else oracle.fresh(images)
            line.send(torch.empty(0) if found is None else found)
        except BaseException as error:
            line.tell(str(error))
            raise
