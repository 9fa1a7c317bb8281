"""What every number format can do: numbers to codes and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from holdfast.errors import UnsupportedFormat


@dataclass(frozen=True, slots=True)
class Encoded:
    """Integer codes as stored, and the quantisation parameters that give them meaning.

    ``codes`` has the tensor's shape; what an entry of ``qparams`` belongs to is the format's granularity.
    """

    codes: Tensor
    qparams: Mapping[str, Tensor] = field(default_factory=dict)


@runtime_checkable
class Format(Protocol):
    """A number format.

    ``decode(encode(x))`` is idempotent under frozen ``qparams``: encoding a decoded tensor gives back its codes. Ranges
    are never derived again from quantised values; codes and qparams are the state.

    Two attributes are optional. ``stored_qparams`` names the qparams that differ from tensor to tensor, and so are
    sites that a fault can hit (default: all of them). A false ``has_zero`` says that zero is no number of the format.
    """

    @property
    def name(self) -> str:
        """Specification that rebuilds the format."""
        ...

    @property
    def bits(self) -> int:
        """Stored bits per element."""
        ...

    def encode(self, x: Tensor, qparams: Mapping[str, Tensor] | None = None) -> Encoded:
        """Return the codes of ``x``; with ``qparams``, in that frozen range."""
        ...

    def decode(self, encoded: Encoded) -> Tensor:
        """Return the numbers the codes stand for."""
        ...

    def decode_at(self, encoded: Encoded, index: Tensor) -> Tensor:
        """Return ``decode(encoded).flatten()[index]``, bit for bit; ``index`` is int64, shape (n,)."""
        ...

    def fields(self) -> tuple[str, ...]:
        """Name the meaning of each bit, least significant first: mantissa, exponent, magnitude or sign."""
        ...


def require_finite(x: Tensor, name: str) -> None:
    """Raise :class:`UnsupportedFormat` when ``x`` holds NaN, an infinity, or a value beyond float32."""
    if torch.isfinite(x.detach().float()).all():
        return
    if torch.isfinite(x.detach().double()).all():
        raise UnsupportedFormat(f"{name} cannot hold values beyond float32", hint="scale the tensor first")
    raise UnsupportedFormat(f"{name} cannot hold NaN or infinite values", hint="repair the tensor first")
