"""What each placement of a node costs on a machine, and what it shows to the untrusted world."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from holdfast.shielding.planner.machine import Laws, Machine
from holdfast.shielding.planner.workload import FLOAT_BYTES, Node

Placement = Literal["trusted", "verified", "blinded", "probed", "exposed"]
_CODE, _RESIDUE, _CHECK = 1, 4, 8  # bytes of a code, of a residue modulo 2**32, and of one modulo 2**64


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
    if placement == "trusted":
        return Cost(_handling(node, machine) + _product(node, machine.trusted, machine), memory=node.weights)
    if placement == "exposed":
        return Cost(_handling(node, machine) + _product(node, machine.open, machine))
    sent, multiplied = _wire(node, placement), _product(node, machine.worker, machine)
    online = _handling(node, machine) + machine.crossing + sent / machine.bandwidth + multiplied
    if placement == "probed":
        return Cost(online, bytes=sent, crossings=1)
    online += _product(node, machine.check, machine)
    held = _CHECK * (node.inner + node.channels)
    if placement == "verified":
        return Cost(online, bytes=sent, crossings=1, memory=held)
    pads, prepared = (node.taken + node.given) / machine.pads, _RESIDUE * (node.taken + node.given)
    return Cost(online + pads, multiplied, sent, 1, held + prepared)


def _wire(node: Node, placement: Placement) -> int:
    """Return bytes between the worlds: codes go out as they are, or as byte planes of residues; int32 comes back."""
    return (_RESIDUE if placement == "blinded" else _CODE) * node.taken + _RESIDUE * node.given


def _handling(node: Node, machine: Machine) -> float:
    """Return seconds of elementwise work: codes and scales of a product, or the node itself."""
    return machine.step + (node.given + (node.taken if node.linear else 0)) / machine.elements


def _product(node: Node, laws: Laws, machine: Machine) -> float:
    """Return seconds of the products of a node: by a law, or tap by tap where there is no fan-out."""
    if node.linear:
        law = laws.of(node.operation)
        return law.seconds(inner=node.inner, channels=node.channels, outputs=node.given)
    if node.operation == "product":
        return laws.linear.base + node.macs * laws.linear.mac
    return node.macs / machine.elements


def transfer(elements: int, machine: Machine) -> tuple[float, int]:
    """Return seconds and bytes to bring float values from one world to the other."""
    sent = FLOAT_BYTES * elements
    return machine.crossing / 2 + sent / machine.bandwidth, sent
