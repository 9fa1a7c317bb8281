"""What each placement of a node costs on a machine, and what it shows to the untrusted world."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from holdfast.shielding.planner.machine import Machine
from holdfast.shielding.planner.workload import FLOAT_BYTES, Node

Placement = Literal["trusted", "verified", "blinded", "probed", "exposed"]
_CODE, _RESIDUE, _CHECK = 1, 4, 8  # bytes of a code, of a residue modulo 2**32, and of one modulo 2**64
_WIRE = 4  # bytes of one element between the worlds, codes or residues


@dataclass(frozen=True, slots=True)
class Sight:
    """What the untrusted world sees of a node."""

    weights: str
    input: str
    output: str
    answer: str  # what makes its answer believed


_CHECKED = "every answer checked, a lie passes with 2^-33"
SIGHTS: dict[Placement, Sight] = {
    "trusted": Sight("nothing", "nothing", "nothing", "computed here"),
    "verified": Sight("int8 codes", "int8 codes", "integers", _CHECKED),
    "blinded": Sight("int8 codes", "uniform residues", "uniform residues", _CHECKED),
    "probed": Sight("int8 codes", "codes plus a small mask", "integers plus its product", "only probes are checked"),
    "exposed": Sight("everything", "everything", "everything", "believed"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one node for one sample.

    Attributes:
        seconds: online.
        offline: seconds before the sample arrives, to prepare masks.
        bytes: between the worlds.
        crossings: round trips.
        memory: bytes the trusted world holds.
    """

    seconds: float
    offline: float = 0.0
    bytes: int = 0
    crossings: int = 0
    memory: int = 0


def cost(node: Node, placement: Placement, machine: Machine) -> Cost:
    """Return the cost of ``node`` at ``placement``, without that of entering or leaving an exposed region."""
    handling = (node.taken + node.given) / machine.elements if node.macs else node.given / machine.elements
    if placement == "trusted":
        return Cost(handling + node.macs / machine.trusted.of(node.operation), memory=node.weights)
    if placement == "exposed":
        return Cost(handling + node.macs / machine.open.of(node.operation))
    sent = _WIRE * (node.taken + node.given)
    remote = machine.crossing + sent / machine.bandwidth + node.macs / machine.worker.of(node.operation)
    if placement == "probed":
        return Cost(handling + remote, bytes=sent, crossings=1)
    check = node.macs / max(node.channels, 1) / machine.check.of(node.operation)
    held = _CHECK * (node.inner + node.channels)
    if placement == "verified":
        return Cost(handling + remote + check, bytes=sent, crossings=1, memory=held)
    pads = (node.taken + node.given) / machine.pads
    prepared = _RESIDUE * (node.taken + node.given)
    offline = node.macs / machine.worker.of(node.operation)
    return Cost(handling + remote + check + pads, offline, sent, 1, held + prepared)


def transfer(elements: int, machine: Machine) -> tuple[float, int]:
    """Return seconds and bytes to bring float values from one world to the other."""
    sent = FLOAT_BYTES * elements
    return machine.crossing / 2 + sent / machine.bandwidth, sent
