"""What an engine is: it computes golden and faulty outputs of a model, and says which trials best share a pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from holdfast._registry import Registry
from holdfast.execution.plan import Block, Trial

Images = Callable[[Sequence[int]], Tensor]


@runtime_checkable
class Engine(Protocol):
    """Computes a model with and without faults; ``name`` is its registered name.

    An engine is built as ``engine(model, images)``, where ``images`` returns the inputs of given numbers as one batch.
    """

    name: str

    def golden(self, inputs: tuple[int, ...]) -> Tensor:
        """Return the fault-free output of a batch of inputs, computed as ``faulty`` computes batches of that size."""
        ...

    def faulty(self, block: Block) -> Tensor:
        """Return the output in which row k met trial k; raises what the model raises.

        Raises:
            NoSuchSite: a site did not compute in the pass, so its fault would have vanished unseen.
        """
        ...

    def blocks(self, trials: Sequence[Trial], batch: int) -> list[Block]:
        """Cut trials into blocks of at most ``batch`` that this engine computes fast; depends on nothing else."""
        ...

    def together(self, block: Block) -> bool:
        """Say whether all trials of ``block`` may be computed in one call of ``faulty``."""
        ...


@runtime_checkable
class Choosing(Protocol):
    """An engine that chooses another one."""

    def settle(self, example: int) -> dict[str, str]:
        """Choose by input ``example``; return ``computed``, the choice, and ``computed_because``, if whole passes."""
        ...


@runtime_checkable
class Batching(Protocol):
    """An engine that always computes batches of one size, whose rows have the bits of a whole pass of that size."""

    rows: int

    def size(self, batch: int) -> None:
        """Compute ``batch`` rows at a time, unless an option said how many."""
        ...

    def halve(self) -> bool:
        """Compute half as many rows at a time from now on, with other golden bits; say whether there were two."""
        ...


engines: Registry[Engine] = Registry("engine", "holdfast.engines")


def build_engine(name: str, model: nn.Module, images: Images) -> Engine:
    """Build the engine called ``name``, or ``name:key=value,...`` with options such as ``suffix:memory=512``.

    Raises:
        UnknownName: there is none.
        InvalidConfig: an option it does not take, or out of range.
    """
    return engines.build(name, model=model, images=images)
