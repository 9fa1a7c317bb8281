"""Rules that rewrite codes, for faults whose damage depends on the number that stands there.

A rule holds one row of parameters per element and does the same in every pass. Each can be written as JSON, exactly,
so that a list of faults replays on any machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.execution.condition import InTurn, Rewrite
from holdfast.models.site import Site
from holdfast.numerics.values import codes_of, numbers


@dataclass(frozen=True, eq=False)
class Becomes:
    """Every element becomes a given code.

    Attributes:
        codes: int64, (n,).
    """

    codes: Tensor

    def __call__(self, codes: Tensor, site: Site) -> Tensor:
        """Return the given codes."""
        return self.codes.to(codes.device)

    def to_json(self) -> dict[str, Any]:
        """Return the rule by name, with one row per element."""
        return {"rule": "becomes", "rows": [hex(code & (2**64 - 1)) for code in self.codes.tolist()]}


@dataclass(frozen=True, eq=False)
class Scaled:
    """Every element is multiplied, by a factor that may depend on how large it is.

    Attributes:
        factors: float64, (n, k + 1): one for each of the magnitudes that k limits tell apart.
        limits: ascending; a value v takes factor j when j of the limits are below |v|.
    """

    factors: Tensor
    limits: tuple[float, ...] = ()

    def __call__(self, codes: Tensor, site: Site) -> Tensor:
        """Return the codes of the products, rounded to the site's format."""
        values = numbers(codes, site.format, site.bits)
        limits = torch.tensor(self.limits, dtype=torch.float64, device=codes.device)
        row = torch.searchsorted(limits, values.abs().contiguous())
        factors = self.factors.to(codes.device).gather(1, row.unsqueeze(1)).squeeze(1)
        return codes_of(values * factors, site.format, site.bits)

    def to_json(self) -> dict[str, Any]:
        """Return the rule by name, with one row per element."""
        rows = [[_written(item) for item in row] for row in self.factors.tolist()]
        return {"rule": "scaled", "rows": rows, "limits": list(self.limits)}


@dataclass(frozen=True, eq=False)
class Shifted:
    """A number is added to every element.

    Attributes:
        offsets: float64, (n,).
    """

    offsets: Tensor

    def __call__(self, codes: Tensor, site: Site) -> Tensor:
        """Return the codes of the sums, rounded to the site's format."""
        return codes_of(numbers(codes, site.format, site.bits) + self.offsets.to(codes.device), site.format, site.bits)

    def to_json(self) -> dict[str, Any]:
        """Return the rule by name, with one row per element."""
        return {"rule": "shifted", "rows": [_written(item) for item in self.offsets.tolist()]}


def _written(number: float) -> float | str:
    """JSON has no infinity and no NaN."""
    return number if math.isfinite(number) else str(number)


def signed(text: str) -> int:
    """Return the 64 bits that ``text`` writes in hexadecimal (0x1f) as a signed number; a code or mask of any width.

    Raises:
        ValueError, TypeError: other text, or no text.
    """
    if not text.startswith("0x"):
        raise ValueError(text)
    number = int(text, 16)
    if not 0 <= number < 2**64:
        raise ValueError(text)
    return number - (number >> 63 << 64)


def _ascending(limits: Sequence[float]) -> bool:
    return all(map(math.isfinite, limits)) and list(limits) == sorted(limits)


def rule_to_json(rule: Rewrite) -> list[dict[str, Any]]:
    """Return a rule as JSON, an object for each run of elements that share one.

    Raises:
        InvalidConfig: a rule of another kind, or a mixture with elements that none rewrites.
    """
    if isinstance(rule, Becomes | Scaled | Shifted):
        return [rule.to_json()]
    if isinstance(rule, InTurn) and all(part is not None for part, _ in rule.rules):
        return [item for part, _ in rule.rules if part is not None for item in rule_to_json(part)]
    raise InvalidConfig(f"a rule {type(rule).__name__} cannot be written as JSON", hint="becomes, scaled or shifted")


def rule_from_json(value: Mapping[str, Any]) -> tuple[Rewrite, int]:
    """Return a rule that :func:`rule_to_json` wrote, and the number of its elements.

    Raises:
        InvalidConfig: no rule of these.
    """
    try:
        kind, rows = value["rule"], value["rows"]
        if (
            set(value) != ({"rule", "rows", "limits"} if kind == "scaled" else {"rule", "rows"})
            or not isinstance(rows, list)
            or not rows
        ):
            raise KeyError("rows")
        if kind == "becomes":
            return Becomes(torch.tensor([signed(row) for row in rows], dtype=torch.int64)), len(rows)
        if kind == "scaled":
            limits = tuple(float(item) for item in value["limits"])
            factors = torch.tensor([[float(item) for item in row] for row in rows], dtype=torch.float64)
            if factors.shape != (len(rows), len(limits) + 1) or not _ascending(limits):
                raise ValueError
            return Scaled(factors, limits), len(rows)
        if kind == "shifted":
            return Shifted(torch.tensor([float(row) for row in rows], dtype=torch.float64)), len(rows)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, OverflowError):
        raise InvalidConfig("a rule that rewrites codes is malformed") from None
    raise InvalidConfig(f"unknown rule {kind!r}", hint="becomes, scaled or shifted")
