"""Laws of a target: what products, checks, masks, crossings and small work cost there, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from holdfast.errors import InvalidConfig, UnsupportedVersion

FORMAT = "holdfast.shield-machine/v3"
_LAWS = ("trusted", "open", "worker", "check")
_RATES = ("step", "elements", "pads", "bandwidth", "crossing")

_ANSWER = 4  # bytes of an element of an answer


def wire_bytes(planes: int, inputs: float, outputs: float) -> float:
    """Return the bytes of a question of ``planes`` byte planes and of its int32 answer."""
    return planes * inputs + _ANSWER * outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """Seconds of one call: a base, and a price for each of five sizes.

    Attributes:
        base: seconds of a call without work.
        mac: per multiply-accumulate.
        operand: per input operand of an output position; what unrolling copies.
        weight: per weight, which small batches wait for.
        output: per element of the result.
        input: per element of the input.
    """

    base: float = 0.0
    mac: float = 0.0
    operand: float = 0.0
    weight: float = 0.0
    output: float = 0.0
    input: float = 0.0

    def seconds(self, *, inner: int, channels: int, outputs: int, inputs: int = 0, planes: int = 1) -> float:
        """Return the time of a product with ``outputs`` elements, ``channels`` of them at each position.

        Args:
            planes: how many byte planes are multiplied, for one result.
        """
        return float(np.dot(self.prices(), by_plane(sizes(inner, channels, outputs, inputs), planes)))

    def prices(self) -> list[float]:
        """Return the prices in the order of :func:`sizes`."""
        return [self.base, self.mac, self.operand, self.weight, self.output, self.input]


def sizes(inner: int, channels: int, outputs: int, inputs: int) -> list[float]:
    """Return what a law puts prices on, for a product of ``inner`` terms; 0 terms are no product."""
    unrolled = outputs / channels * inner if channels else 0.0
    return [1.0, float(outputs * inner), unrolled, float(inner * channels), float(outputs), float(inputs)]


def by_plane(values: list[float], planes: int) -> list[float]:
    """Return :func:`sizes` of a product of ``planes`` byte planes: the call and the weights are there only once."""
    base, macs, operands, weights, outputs, inputs = values
    return [base, planes * macs, planes * operands, weights, planes * outputs, planes * inputs]


@dataclass(frozen=True, slots=True, kw_only=True)
class Laws:
    """One law for convolutions, one for linear layers."""

    conv2d: Law
    linear: Law

    def of(self, operation: str) -> Law:
        """Return the law for an operation; all but convolutions go by that of linear layers."""
        return self.conv2d if operation == "conv2d" else self.linear


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Laws and rates of one target.

    What has a default may be left out of a machine that is written by hand; then the cruder figure before it serves.

    Attributes:
        trusted: int8 products in the trusted world.
        open: int8 products outside, unshielded and believed.
        worker: products of codes in the clear, by the worker, without the way there and back.
        check: checking an answer.
        step: seconds of a node that does nothing.
        elements: elementwise work, elements per second.
        pads: blinding and unblinding, elements per second.
        bandwidth: between the worlds, bytes per second.
        crossing: one round trip without data, seconds.
        masked: products of residues, by the worker, with prices for one byte plane; by default those of ``worker``.
        handling: codes before a product and scales after it; by default by ``elements``.
        masks: drawing, adding and taking off masks; by default by ``pads``.
        small: trusted nodes that are no linear layers, by their family; by default by ``elements``.
    """

    trusted: Laws
    open: Laws
    worker: Laws
    check: Laws
    step: float
    elements: float
    pads: float
    bandwidth: float
    crossing: float
    masked: Laws | None = None
    handling: Law | None = None
    masks: Law | None = None
    small: Mapping[str, Law] = field(default_factory=dict)

    def blinded(self) -> Laws:
        """Return the laws of products of residues, plane by plane."""
        return self.masked or self.worker

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"type": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, value: Any) -> Machine:
        """Read what :meth:`to_json` made.

        Raises:
            UnsupportedVersion, InvalidConfig: another type, or fields that are missing or no such numbers.
        """
        if not isinstance(value, dict) or value.get("type") != FORMAT:
            raise UnsupportedVersion(f"this is no {FORMAT}", hint="measure the target again")
        if value.keys() - {"type"} != cls.__dataclass_fields__.keys():
            raise InvalidConfig("a machine has other fields", hint="measure the target again")
        trusted, outside, worker, check = (_laws(key, value[key]) for key in _LAWS)
        rates = {key: _number(key, value[key], above=0.0) for key in _RATES}
        handling, masks = (None if value[key] is None else _law(key, value[key]) for key in ("handling", "masks"))
        masked = None if value["masked"] is None else _laws("masked", value["masked"])
        if not isinstance(small := value["small"], dict):
            raise InvalidConfig("small of a machine is no object of laws")
        by_family = {str(name): _law(f"small.{name}", law) for name, law in small.items()}
        return cls(trusted=trusted, open=outside, worker=worker, check=check, masked=masked, handling=handling,
                   masks=masks, small=by_family, **rates)  # fmt: skip


def _laws(key: str, value: Any) -> Laws:
    if not isinstance(value, dict) or value.keys() != Laws.__dataclass_fields__.keys():
        raise InvalidConfig(f"{key} of a machine has a law for conv2d and one for linear")
    return Laws(**{kind: _law(f"{key}.{kind}", law) for kind, law in value.items()})


def _law(key: str, value: Any) -> Law:
    if not isinstance(value, dict) or value.keys() != Law.__dataclass_fields__.keys():
        raise InvalidConfig(f"the law {key} has other fields", hint="measure the target again")
    return Law(**{name: _number(f"{key}.{name}", part) for name, part in value.items()})


def _number(key: str, value: Any, *, above: float | None = None) -> float:
    right = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
    if not right or (above is not None and value <= above):
        raise InvalidConfig(f"{key} of a machine is {value!r}, not a positive number")
    return float(value)
