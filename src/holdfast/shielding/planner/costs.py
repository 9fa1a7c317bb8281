"""What each placement of a node costs on a machine, and what it shows to the untrusted world."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from holdfast.shielding.planner.laws import Laws, Machine, wire_bytes
from holdfast.shielding.planner.workload import FLOAT_BYTES, Node
from holdfast.shielding.product import planes_for

Placement = Literal["trusted", "verified", "blinded", "probed", "exposed"]
_CHECK = 8  # bytes of a residue modulo 2**64
_PAD = 4  # bytes of an element of a mask and of its product
_PROBED = 2  # byte planes of a code and a small mask: nine bits


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
    planes = {"verified": 1, "probed": _PROBED, "blinded": planes_for(node.bound)}[placement]
    sent = int(wire_bytes(planes, node.taken, node.given))
    way = _handling(node, machine) + machine.crossing + sent / machine.bandwidth
    multiplied = _product(node, machine.blinded(), machine, planes)
    if placement == "probed":
        return Cost(way + multiplied + _masks(node, machine), multiplied, sent, 1)
    held, check = _CHECK * (node.inner + node.channels), _product(node, machine.check, machine)
    if placement == "verified":
        return Cost(way + _product(node, machine.worker, machine) + check, bytes=sent, crossings=1, memory=held)
    prepared = _PAD * (node.taken + node.given)
    return Cost(way + multiplied + check + _masks(node, machine), multiplied, sent, 1, held + prepared)


def _handling(node: Node, machine: Machine) -> float:
    """Return seconds of elementwise work: codes and scales of a product, or the node itself."""
    if node.linear and machine.handling is not None:
        return machine.handling.seconds(inner=0, channels=0, outputs=node.given, inputs=node.taken)
    if not node.linear and (law := machine.small.get(node.family)) is not None:
        return law.seconds(inner=node.macs // max(node.given, 1), channels=0, outputs=node.given, inputs=node.taken)
    return machine.step + (node.given + (node.taken if node.linear else 0)) / machine.elements


def _masks(node: Node, machine: Machine) -> float:
    """Return seconds to draw a mask again, to add it and to take it off."""
    if machine.masks is not None:
        return machine.masks.seconds(inner=0, channels=0, outputs=node.given, inputs=node.taken)
    return (node.taken + node.given) / machine.pads


def _product(node: Node, laws: Laws, machine: Machine, planes: int = 1) -> float:
    """Return seconds of the products of a node: by a law, or tap by tap where there is no fan-out."""
    if node.linear:
        own = {"inner": node.inner, "channels": node.channels, "outputs": node.given, "inputs": node.taken}
        return laws.of(node.operation).seconds(**own, planes=planes)
    if node.family in machine.small:
        return 0.0  # the law of its family counts them
    if node.operation == "product":
        return laws.linear.base + node.macs * laws.linear.mac
    return node.macs / machine.elements


def transfer(elements: int, machine: Machine) -> tuple[float, int]:
    """Return seconds and bytes to bring float values from one world to the other."""
    sent = FLOAT_BYTES * elements
    return machine.crossing / 2 + sent / machine.bandwidth, sent
