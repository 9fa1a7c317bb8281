"""TEESlice's rule: what is public works outside, and private adapters inside."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from holdfast.errors import InvalidConfig
from holdfast.shielding.integer import integer_layers
from holdfast.shielding.planner.costs import Placement
from holdfast.shielding.planner.laws import Machine
from holdfast.shielding.planner.rule import patterns, rules, trusted
from holdfast.shielding.planner.workload import Workload


@rules.register("private-adapters")
@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateAdapters:
    """Nodes with public weights outside, blinded and checked; every other node trusted (after TEESlice, S&P 2024).

    What is offloaded carries no secret weight, because everybody has it already.
    """

    public: frozenset[str] = field(default_factory=frozenset)  # linear nodes, see public_nodes(); as text joined by |

    def __post_init__(self) -> None:
        given: object = self.public  # from a specification it is text
        if isinstance(given, str):
            object.__setattr__(self, "public", frozenset(patterns(given)))

    def place(self, work: Workload, machine: Machine, budget: int | None) -> dict[str, Placement]:
        """Return blinded for public nodes."""
        if not self.public:
            raise InvalidConfig("no node has public weights", hint="name the public model it was made from (--public)")
        if unknown := sorted(self.public - {node.name for node in work.linear()}):
            raise InvalidConfig(f"there is no linear node {unknown[0]!r} to be public")
        return trusted(work) | {node.name: "blinded" for node in work.linear() if node.name in self.public}


def public_nodes(model: nn.Module, public: nn.Module) -> frozenset[str]:
    """Return the integer layers of ``model`` whose codes and scales are those of the same layer of ``public``.

    Biases count as well: what differs anywhere is private.
    """
    theirs = integer_layers(public)
    return frozenset(
        name
        for name, layer in integer_layers(model).items()
        if name in theirs
        and torch.equal(layer.codes, theirs[name].codes)
        and torch.equal(layer.weight_scale, theirs[name].weight_scale)
        and _same(layer.bias, theirs[name].bias)
    )


def _same(left: torch.Tensor | None, right: torch.Tensor | None) -> bool:
    if left is None or right is None:
        return left is right
    return torch.equal(left, right)
