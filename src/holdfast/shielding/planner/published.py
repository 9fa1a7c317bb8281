"""Published rules by what they say, for any graph: none names a layer, each follows from sizes and order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.errors import InvalidConfig
from holdfast.shielding.planner.chain import stages
from holdfast.shielding.planner.costs import Placement
from holdfast.shielding.planner.laws import Machine
from holdfast.shielding.planner.rule import linear_at, rules, trusted
from holdfast.shielding.planner.solve import over_budget
from holdfast.shielding.planner.workload import Node, Workload


@rules.register("whole")
@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """The whole model in the trusted world (MLCapsule; Hanzlik et al., 2018)."""

    def place(self, work: Workload, machine: Machine, budget: int | None) -> dict[str, Placement]:
        """Return trusted for every node."""
        return trusted(work)


@rules.register("none")
@dataclass(frozen=True, slots=True, kw_only=True)
class Unshielded:
    """No shield: everything outside."""

    def place(self, work: Workload, machine: Machine, budget: int | None) -> dict[str, Placement]:
        """Return exposed for every node."""
        return {node.name: "exposed" for node in work.nodes}


@rules.register("last-k")
@dataclass(frozen=True, slots=True, kw_only=True)
class Last:
    """The last stages trusted, the others outside and believed (DarkneTZ; Mo et al., MobiSys 2020)."""

    k: int | None = None  # stages; None: as many as the budget holds

    def place(self, work: Workload, machine: Machine, budget: int | None) -> dict[str, Placement]:
        """Return trusted for the last stages."""
        return _ends(work, self.k, budget, last=True)


@rules.register("first-k")
@dataclass(frozen=True, slots=True, kw_only=True)
class First:
    """The first stages trusted, the others outside and believed (Serdab; Elgamal & Nahrstedt, 2020)."""

    k: int | None = None  # stages; None: as many as the budget holds

    def place(self, work: Workload, machine: Machine, budget: int | None) -> dict[str, Placement]:
        """Return trusted for the first stages."""
        return _ends(work, self.k, budget, last=False)


def _ends(work: Workload, k: int | None, budget: int | None, *, last: bool) -> dict[str, Placement]:
    chain = stages(work)
    ordered = chain[::-1] if last else chain
    count = _fitting(ordered, work.peak(), budget) if k is None else k
    if not 1 <= count <= len(chain):
        raise InvalidConfig(f"there are {len(chain)} stages, not {count}", hint="choose k within")
    inside = {node.name for part in ordered[:count] for node in part}
    return {node.name: "trusted" if node.name in inside else "exposed" for node in work.nodes}


def _fitting(ordered: Sequence[Sequence[Node]], values: int, budget: int | None) -> int:
    """Return how many stages' weights fit beside ``values`` bytes of activations, from the front of ``ordered``."""
    if budget is None:
        raise InvalidConfig(
            "this rule takes as many stages as fit a budget, and none is given", hint="give k or --budget"
        )
    held = values
    for count, part in enumerate(ordered):
        held += sum(node.weights for node in part)
        if held > budget:
            if count == 0:
                raise over_budget(held, budget)
            return count
    return len(ordered)


@rules.register("tsqp")
@dataclass(frozen=True, slots=True, kw_only=True)
class Tsqp:
    """Linear nodes outside with int8 weights in the clear, scales and the rest inside (TSQP; IEEE S&P 2025).

    As published: bounded masks, and probes checked instead of answers. An insecure baseline for comparison.
    """

    def place(self, work: Workload, machine: Machine, budget: int | None) -> dict[str, Placement]:
        """Return probed for linear and grouped nodes."""
        return trusted(work) | {node.name: "probed" for node in work.nodes if node.linear or "grouped:" in node.reason}


@rules.register("slalom")
@dataclass(frozen=True, slots=True, kw_only=True)
class Slalom:
    """Every linear node outside, checked with Freivalds' algorithm (Slalom; Tramer & Boneh, ICLR 2019)."""

    private: bool = True  # blind the values too

    def place(self, work: Workload, machine: Machine, budget: int | None) -> dict[str, Placement]:
        """Return blinded, or verified, for linear nodes."""
        return linear_at(work, "blinded" if self.private else "verified")
