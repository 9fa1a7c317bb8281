r"""Checking a product without computing it: Freivalds' algorithm over Z/2^64.

**Statement.** Let a layer have weights ``W`` (out x inner), input ``x`` and claimed output ``y``, where ``y`` and the
true ``W x`` both fit int32. Let ``r`` be uniform over (Z/2^64)^out, secret, and independent of ``y``. If ``y`` differs
from ``W x`` anywhere, the check ``r^T W x == r^T y (mod 2^64)`` at every position passes with probability at most
**2^-33**.

**Derivation.** Take one wrong position and let ``D = y - W x``. Some entry ``D_o`` is not zero, and ``|D_o| < 2^32``
because both terms are int32, so 2 divides ``D_o`` at most ``v <= 31`` times. Fix every other entry of ``r``: the check
asks ``r_o D_o = c (mod 2^64)``, which has either no solution or exactly ``2^v`` of them, so at most ``2^31`` of the
``2^64`` values of ``r_o`` pass: 2^31 / 2^64 = 2^-33. More wrong positions must all pass, which is no likelier.

Over Z/2^32 the same count gives 2^31 / 2^32 = 1/2 for a flip of bit 31: the wider ring is not a luxury.

``r`` serves a whole session. An honest answer always passes, so acceptances tell the worker nothing about ``r``, and
the first failure ends the session: Q lies escape with probability at most Q * 2^-33 in all.

**Cost.** ``r^T W`` is one row where ``W`` has many. It is cut into two balanced 32-bit limbs, so that every product
with int8 codes is an exact integer in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast._registry import Registry
from holdfast.errors import InvalidConfig
from holdfast.numerics.ring import FLOAT64_EXACT
from holdfast.seeds import Entropy
from holdfast.shielding.product import CODE_MAX, Geometry, unroll

ESCAPE = 2.0**-33  # upper bound on the chance that one lie passes
_LIMB_BITS = (32, 16)


class Verifier(Protocol):
    """Decides about the answers for one layer during one session."""

    def accepts(self, x: Tensor, y: Tensor) -> bool:
        """Say whether int32 ``y`` (batch, *output) is the layer's product with int8 codes ``x`` (batch, *sample)."""
        ...


class Check(Protocol):
    """A way to verify products; a frozen dataclass whose fields are its parameters."""

    def prepare(self, codes: Tensor, geometry: Geometry, entropy: Entropy) -> Verifier:
        """Draw fresh secrets for one layer with int8 weights ``codes``."""
        ...


checks: Registry[Check] = Registry("check", "holdfast.checks")


@checks.register("freivalds")
@dataclass(frozen=True, slots=True)
class Freivalds:
    """Check every position of every answer with one secret vector over Z/2^64 (Freivalds 1977; Tramer & Boneh 2019).

    One lie passes with probability at most 2^-33; see the module for the proof.
    """

    def prepare(self, codes: Tensor, geometry: Geometry, entropy: Entropy) -> FreivaldsVerifier:
        """Draw a secret ``r`` and fold the weights with it; the weights are not needed again."""
        require_entropy(entropy)
        r = torch.from_numpy(entropy.uint64(geometry.out_channels).view("<i8")).to(codes.device)
        return FreivaldsVerifier(r, codes, geometry)


class FreivaldsVerifier:
    """Holds ``r`` and ``r^T W mod 2^64`` for one layer.

    Args:
        r: int64 residues modulo 2**64, shape (out,).
        codes: int8 weights, shape ``geometry.weight_shape``.
    """

    def __init__(self, r: Tensor, codes: Tensor, geometry: Geometry) -> None:
        self._r, self._geometry = r, geometry
        folded = (r.view(-1, 1) * codes.reshape(geometry.out_channels, -1).long()).sum(0)
        self._bits = next(bits for bits in _LIMB_BITS if geometry.inner * CODE_MAX * 2 ** (bits - 1) < FLOAT64_EXACT)
        self._limbs = torch.stack(_balanced(folded, self._bits)).double()  # (limbs, inner)

    def accepts(self, x: Tensor, y: Tensor) -> bool:
        """Say whether ``r^T W x == r^T y`` modulo 2**64 at every position."""
        return torch.equal(self.left(x), self.right(y))

    def left(self, x: Tensor) -> Tensor:
        """Return ``r^T W x`` modulo 2**64, int64, shape (batch, *positions), from int8 codes ``x``."""
        if self._geometry.kind == "linear":
            return self._recombine(x.double() @ self._limbs.t(), -1)
        out = self._geometry.output_shape(tuple(x.shape[1:]))[1:]
        if self._unrolls(x, out):
            rows = unroll(x, self._geometry).double() @ self._limbs.t()
            return self._recombine(rows.view(x.shape[0], *out, -1), -1)
        return self._recombine(self._correlate(x, out), 1)

    def right(self, y: Tensor) -> Tensor:
        """Return ``r^T y`` modulo 2**64, int64, shape (batch, *positions), from int32 ``y``."""
        if self._geometry.kind == "linear":
            return y.long() @ self._r
        return (self._r.view(1, -1) @ y.flatten(2).long()).reshape(y.shape[0], *y.shape[2:])

    def _unrolls(self, x: Tensor, out: tuple[int, ...]) -> bool:
        """Say whether unrolling moves less memory: few input channels, or a stride that skips most positions."""
        taps = math.prod(self._geometry.kernel)
        return self._geometry.inner * math.prod(out) <= 2 * taps * len(self._limbs) * math.prod(x.shape[2:])

    def _correlate(self, x: Tensor, out: tuple[int, ...]) -> Tensor:
        """Convolve ``x`` with the limbs: one pixel-wise product for all taps, then a shifted sum.

        With so few output channels this touches each input pixel once, where unrolling copies it once per tap.
        """
        g, count = self._geometry, len(self._limbs)
        (high, wide), (down, right) = g.kernel, g.stride
        taps = self._limbs.view(count, g.in_channels, high * wide).permute(2, 0, 1).reshape(-1, g.in_channels)
        x = F.pad(x, g.padding) if any(g.padding) else x
        planes = (taps @ x.flatten(2).double()).view(x.shape[0], high, wide, count, *x.shape[2:])
        total = planes.new_zeros(x.shape[0], count, *out)
        for row in range(high):
            for column in range(wide):
                top, left = row * g.dilation[0], column * g.dilation[1]
                rows = slice(top, top + (out[0] - 1) * down + 1, down)
                columns = slice(left, left + (out[1] - 1) * right + 1, right)
                total += planes[:, row, column, :, rows, columns]
        return total

    def _recombine(self, sums: Tensor, dim: int) -> Tensor:
        parts = sums.long().unbind(dim)
        total = torch.zeros_like(parts[0])
        for place, part in enumerate(parts):
            total += part << (self._bits * place)
        return total


def _balanced(value: Tensor, bits: int) -> list[Tensor]:
    """Write int64 residues modulo 2**64 as digits in -2**(bits-1) .. 2**(bits-1)-1, least significant first.

    The carry out of the last digit is a multiple of 2**64 and vanishes.
    """
    digits = []
    for _ in range(64 // bits):
        low = value & (2**bits - 1)
        digit = torch.where(low >= 2 ** (bits - 1), low - 2**bits, low)
        digits.append(digit)
        value = (value - digit) >> bits
    return digits


def require_entropy(source: object, *, what: str = "a secret") -> None:
    """Refuse anything but :class:`~holdfast.seeds.Entropy` as the source of a secret.

    Raises:
        InvalidConfig: a Seed, a generator, or anything else that somebody could replay.
    """
    if not isinstance(source, Entropy):
        raise InvalidConfig(f"{what} needs Entropy, not {type(source).__name__}", hint="seeds are for experiments")
