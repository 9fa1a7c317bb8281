r"""Checking a product without computing it: Freivalds' algorithm over Z/2^64.

**Statement.** Let a layer have weights ``W`` (out x inner), inputs ``X`` (inner x positions) and a claimed output
``Y``, where ``Y`` and the true ``W X`` both fit int32. Let ``r`` be uniform over (Z/2^64)^out, secret, and independent
of ``Y``. If ``Y`` differs from ``W X`` anywhere, the check ``(r^T W) X == r^T Y (mod 2^64)`` at every position passes
with probability at most **2^-33**. So does ``W (X s) == Y s`` at every channel, for ``s`` uniform over
(Z/2^64)^positions.

**Derivation.** Take one wrong position and let ``D`` be its column of ``Y - W X``. Some entry ``D_o`` is not zero, and
``|D_o| < 2^32`` because both terms are int32, so 2 divides ``D_o`` at most ``v <= 31`` times. Fix every other entry of
``r``: the check asks ``r_o D_o = c (mod 2^64)``, which has either no solution or exactly ``2^v`` of them, so at most
``2^31`` of the ``2^64`` values of ``r_o`` pass: 2^31 / 2^64 = 2^-33. More wrong positions must all pass, which is no
likelier. The second form is the first one of the transposed product.

Over Z/2^32 the same count gives 2^31 / 2^32 = 1/2 for a flip of bit 31: the wider ring is not a luxury. Nor may both
sides be folded at once in this ring: factors of 2 from both secrets add up. A single wrong entry 2^31 passes where
``r_o s_p = 0 (mod 2^33)``: ``r_o`` has k < 33 factors of 2 with probability 2^-(k+1), then ``s_p`` needs 33 - k, and
``r_o = 0`` leaves 2^-33, in all 33 * 2^-34 + 2^-33 = 35 / 2^34, just above 2^-29. In a field they may: see
:mod:`holdfast.shielding.checking.both`, whose bound is 2^-37.

The secret serves a whole session. An honest answer always passes, so acceptances tell the worker nothing about it, and
the first failure ends the session: Q lies escape with probability at most Q * 2^-33 in all.

**Cost.** See :mod:`holdfast.shielding.checking.folds`; residues are cut into balanced int8 digits, eight of the ring
and five of the field, so that every product runs exactly on int8 matrix units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from holdfast._registry import Registry
from holdfast.errors import InvalidConfig
from holdfast.seeds import Entropy
from holdfast.shielding.checking.both import BothFold
from holdfast.shielding.checking.folds import ChannelFold, Fold, PositionFold, Recomputation, RowFold, same
from holdfast.shielding.checking.limbs import DIGITS
from holdfast.shielding.checking.rows import FewRowsFold
from holdfast.shielding.product import Geometry

ESCAPE = 2.0**-33  # upper bound on the chance that one lie passes
Side = Literal["auto", "both", "channels", "positions", "recompute"]
_MANY = 4  # images from which on the cost of one pass over the weights is shared
_SHAPES = 16  # input shapes whose folds are kept at a time


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
    """Check every element of every answer with one secret vector over Z/2^64 (Freivalds 1977; Tramer & Boneh 2019).

    One lie passes with probability at most 2^-33; see the module for the proof.

    Args:
        side: what secrets fold: ``channels``, ``positions`` (of convolutions), ``both`` of them, in a field;
            ``recompute`` (fold nothing and compute the product again), or ``auto``, the cheapest of them for each
            layer and input shape. What does not fit a layer gives way to ``channels``.

    Raises:
        InvalidConfig: another ``side``.
    """

    side: Side = "auto"

    def __post_init__(self) -> None:
        if self.side not in get_args(Side):
            raise InvalidConfig(f"side is one of {', '.join(get_args(Side))}, not {self.side!r}")

    def prepare(self, codes: Tensor, geometry: Geometry, entropy: Entropy) -> FreivaldsVerifier:
        """Take the weights of one layer; secrets are drawn when the first input of a shape arrives."""
        require_entropy(entropy)
        return FreivaldsVerifier(codes, geometry, entropy, self.side)


class FreivaldsVerifier:
    """Holds the secrets of one layer, one fold for each input shape.

    Args:
        codes: int8 weights, shape ``geometry.weight_shape``.
        entropy: source of the secrets.
        side: as :class:`Freivalds` has it.
    """

    def __init__(self, codes: Tensor, geometry: Geometry, entropy: Entropy, side: Side = "auto") -> None:
        self._codes, self._geometry, self._entropy, self._side = codes, geometry, entropy, side
        self._folds: dict[tuple[tuple[int, ...], bool], Fold] = {}

    def accepts(self, x: Tensor, y: Tensor) -> bool:
        """Say whether int32 ``y`` (batch, *output) is the product with int8 ``x`` (batch, *sample)."""
        rows = x.numel() // self._geometry.in_channels if self._geometry.kind == "linear" else len(x)
        fold = self.fold(tuple(x.shape[1:]), many=rows >= _MANY)
        return same(fold.left(x), fold.right(y))

    def fold(self, shape: tuple[int, ...], *, many: bool = False) -> Fold:
        """Return the fold for samples of ``shape``, alone or ``many`` together, with fresh secrets the first time."""
        if (shape, many) not in self._folds:
            while len(self._folds) >= _SHAPES:
                del self._folds[next(iter(self._folds))]
            self._folds[shape, many] = self._make(shape, many)
        return self._folds[shape, many]

    def _make(self, shape: tuple[int, ...], many: bool) -> Fold:
        codes, geometry = self._codes, self._geometry
        device = codes.device.type
        side = choose_side(geometry, shape, many=many, device=device) if self._side == "auto" else self._side
        if side == "recompute":
            return Recomputation(codes, geometry)
        if geometry.kind == "linear":
            kind = FewRowsFold if device == "cpu" and not many else RowFold
            return kind(self._secret(geometry.out_channels), codes)
        if side == "both" and device == "cpu" and BothFold.fits(geometry, shape):
            return BothFold(codes, geometry, shape, self._entropy)
        if side == "positions" and PositionFold.fits(geometry, shape):
            _, high, wide = geometry.output_shape(shape)
            return PositionFold(self._secret(high * wide), codes, geometry, shape)
        return ChannelFold(self._secret(geometry.out_channels), codes, geometry, shape)

    def _secret(self, count: int) -> Tensor:
        return torch.from_numpy(self._entropy.uint64(count).view("<i8")).to(self._codes.device)


def choose_side(geometry: Geometry, shape: tuple[int, ...], *, many: bool = False, device: str = "cpu") -> Side:
    """Return the cheapest way to check samples of ``shape``, by a model fitted to one processor with VNNI."""
    if geometry.kind == "linear":
        return "channels" if geometry.out_channels > DIGITS else "recompute"
    costs: dict[Side, float] = {
        "channels": ChannelFold.cost(geometry, shape),
        "recompute": Recomputation.cost(geometry, shape),
    }
    if PositionFold.fits(geometry, shape):
        costs["positions"] = PositionFold.cost(geometry, shape, _MANY if many else 1)
    if device == "cpu" and BothFold.fits(geometry, shape):
        costs["both"] = BothFold.cost(geometry, shape)
    return min(costs, key=lambda side: costs[side])


def require_entropy(source: object, *, what: str = "a secret") -> None:
    """Refuse anything but :class:`~holdfast.seeds.Entropy` as the source of a secret.

    Raises:
        InvalidConfig: a Seed, a generator, or anything else that somebody could replay.
    """
    if not isinstance(source, Entropy):
        raise InvalidConfig(f"{what} needs Entropy, not {type(source).__name__}", hint="seeds are for experiments")
