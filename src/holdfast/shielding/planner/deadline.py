"""AegisDNN's rule: the stages whose faults would hurt most stay inside, as long as a deadline allows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from holdfast._files import read_bytes
from holdfast.errors import InvalidConfig
from holdfast.shielding.planner.chain import cuts, stages
from holdfast.shielding.planner.costs import Placement, cost, transfer
from holdfast.shielding.planner.laws import Machine
from holdfast.shielding.planner.rule import rules
from holdfast.shielding.planner.solve import least_exposed
from holdfast.shielding.planner.workload import Workload


@rules.register("deadline")
@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """Protect the stages whose faults would hurt most, within a deadline (AegisDNN; Xiang et al., RTSS 2021).

    Their dynamic program, made exact: least sum of the sensitivities of the stages left outside, in time.
    Sensitivities come from fault injection, as a JSON object of node name to number; a stage has its nodes' largest.
    """

    seconds: float  # deadline of one sample
    sensitivity: str  # file of {node: silent data corruption rate when struck}

    def place(self, work: Workload, machine: Machine, budget: int | None) -> dict[str, Placement]:
        """Return trusted for the protected stages."""
        return protect(work, machine, read_sensitivity(Path(self.sensitivity)), self.seconds)


def read_sensitivity(path: Path) -> dict[str, float]:
    """Read sensitivities by node.

    Raises:
        UnreadableArtifact: no such file.
        InvalidConfig: not an object of numbers of at least 0.
    """
    try:
        value = json.loads(read_bytes(path, "sensitivity file"))
    except ValueError as error:
        raise InvalidConfig(f"{path} is not JSON", hint='write {"node": 0.01, ...}') from error
    numbers = isinstance(value, dict) and all(
        isinstance(part, int | float) and not isinstance(part, bool) and part >= 0 for part in value.values()
    )
    if not numbers:
        raise InvalidConfig(f"{path} is no object of numbers of at least 0", hint='write {"node": 0.01, ...}')
    return {str(name): float(part) for name, part in value.items()}


def protect(
    work: Workload, machine: Machine, sensitivity: Mapping[str, float], deadline: float
) -> dict[str, Placement]:
    """Place stages by sensitivity within ``deadline`` seconds.

    Raises:
        InvalidConfig: a stage without a sensitivity, or no placement is in time.
    """
    chain = stages(work)
    risks = []
    for part in chain:
        known = [sensitivity[node.name] for node in part if node.name in sensitivity]
        if not known:
            raise InvalidConfig(f"no sensitivity is given for {part[0].name}", hint="inject faults into every stage")
        risks.append(max(known))
    times = [
        (sum(cost(n, "exposed", machine).seconds for n in part), sum(cost(n, "trusted", machine).seconds for n in part))
        for part in chain
    ]
    moves = [transfer(elements, machine)[0] for elements in cuts(work, chain)]
    inside = least_exposed(times, risks, moves, deadline)
    words: list[Placement] = ["trusted" if flag else "exposed" for flag in inside]
    return {node.name: word for part, word in zip(chain, words, strict=True) for node in part}
