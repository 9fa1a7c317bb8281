"""Which layer computes where, and who sees what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from holdfast.shielding.integer import IntegerLayer, geometry_of


@dataclass(frozen=True, slots=True)
class Placement:
    """One leaf module: its world, what the untrusted world sees of it, and why it is there."""

    layer: str
    operation: str
    world: str  # "trusted" or "untrusted"
    weights: str  # what the worker sees: "int8 codes", "nothing" or "-" where there are none
    values: str  # inputs and outputs, as the worker sees them
    reason: str


@dataclass(frozen=True, slots=True)
class Partition:
    """The placement of every leaf module, in order."""

    placements: tuple[Placement, ...]

    def __iter__(self) -> Iterator[Placement]:
        return iter(self.placements)

    @property
    def untrusted(self) -> tuple[str, ...]:
        """Paths of the layers that are offloaded."""
        return tuple(item.layer for item in self.placements if item.world == "untrusted")

    def table(self) -> str:
        """Return an aligned text table of who sees what; scales, biases and float weights are never sent."""
        head = ("layer", "operation", "world", "worker sees weights", "worker sees values", "why")
        rows = [
            head,
            *((p.layer, p.operation, p.world, p.weights, p.values, p.reason) for p in self.placements),
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )


def partition(model: nn.Module, *, blinding: bool = True) -> Partition:
    """Say for each leaf module of ``model`` (float or int8) where a shielded session computes it.

    A float model shows what :func:`~holdfast.shielding.int8_model` would offload.
    """
    leaves = ((name, module) for name, module in model.named_modules() if next(module.children(), None) is None)
    return Partition(tuple(_place(name, module, blinding) for name, module in leaves))


def _place(name: str, module: nn.Module, blinding: bool) -> Placement:
    operation = type(module).__name__
    if isinstance(module, IntegerLayer) or geometry_of(module) is not None:
        values = "uniform residues" if blinding else "int8 codes"
        return Placement(name, operation, "untrusted", "int8 codes", values, "linear: can be blinded and checked")
    weights = "nothing" if next(module.parameters(), None) is not None else "-"
    return Placement(name, operation, "trusted", weights, "nothing", _why_trusted(module))


def _why_trusted(module: nn.Module) -> str:
    if isinstance(module, nn.Conv2d) and module.groups != 1:
        return "grouped: a check costs as much as the product"
    if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
        return "pads with something other than zeros"
    if isinstance(module, nn.Conv2d | nn.Linear):
        return "has a forward of its own"
    return "not a linear layer"
