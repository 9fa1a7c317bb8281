"""Two platforms or more that are other machines: each rank answers for its own, rank 0 asks and searches.

Over ``torch.distributed`` (gloo, whatever each rank computes on, or NCCL between GPUs): only tensors travel, never
pickles. Before any search each rank proves that it is there, that it has the same model and reads images the same way.
A rank that falls silent is a clear error after ``timeout``, and what was found until then is kept where a folder was
given.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.errors import VerificationError
from holdfast.evidence import canonical
from holdfast.execution import describe_platform
from holdfast.identification.border.asking import Oracle
from holdfast.identification.border.lattice import Lattice
from holdfast.identification.border.line import END, Line
from holdfast.identification.border.meeting import Ranks, group, require_nccl
from holdfast.identification.border.oracle import open_oracles
from holdfast.identification.border.setting import setting_on
from holdfast.identification.platforms import LocalPlatform
from holdfast.identification.platforms.torch_stacks import described_as
from holdfast.identification.settings import Setting
from holdfast.models import manifest_of

_DESCRIBE, _ANSWER, _FRESH = range(1, 4)


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

    Each rank brings its own ``platform``, under the name ``PLATFORM@RANK``. On a GPU it is the platform of that name
    there: ``bf16`` with the device ``cuda`` is ``cuda-bf16``.

    Raises:
        InvalidConfig: a platform that is none of the rank's device.
        MissingDevice: the rank has no such GPU, or another rank has the same one and NCCL needs one for each.
        Unavailable: a rank did not come, or fell silent.
        VerificationError: a rank has another model, or reads images in another way; it is named.
    """
    if ranks.backend == "nccl":
        require_nccl(ranks.rank)
    brought = setting_on(platform, ranks.place)
    with open_oracles(model, [brought], lattice, batch=batch) as own, group(ranks):
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


def _described(oracle: _Named, model: nn.Module, lattice: Lattice) -> dict[str, Any]:
    return {
        "name": oracle.name,
        "batch": oracle.batch,
        "model": manifest_of(model).digest,
        "shape": list(lattice.shape),
        "preprocessing": lattice.preprocessing.to_json(),
        "platform": _platform_of(oracle),
    }


def _platform_of(named: _Named) -> dict[str, Any]:
    """Describe what answers, with its knobs where it answers in this process."""
    setting = getattr(named.oracle, "platform", None)
    if isinstance(setting, LocalPlatform) and setting.runtime == "torch" and not setting.environment:
        return described_as(setting)
    return describe_platform().to_json()


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
