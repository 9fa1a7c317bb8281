"""Codes on a device and what gives them meaning: decoded under errors, whole or where they were touched."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast._kernels.decode import decode_listed, decode_parts, flip_touched
from holdfast._kernels.parts import FIELDS, Parts
from holdfast.errors import InvalidConfig

_FLIPS = 256  # flips of one program


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """How a fixed-point code becomes a number: ``(code - offset) * scale + low``, clamped before scaling if saturating.

    Attributes:
        bits: of a code, 1..8.
        signed: two's complement in the low bits of int8; else uint8.
        offset: code of step zero.
        saturate: whether steps stay between the first two of ``limits``.
        limits: fp64 (7,), on the device: the reach of steps, the whole steps nearest to its ends, the bounds that
            clip values, and the relative error below which a truncated step counts as exact.
        truncate: whether encoding truncates.
    """

    bits: int
    signed: bool
    offset: int
    saturate: bool
    limits: Tensor
    truncate: bool = False


def touch_(
    codes: Tensor, values: Tensor, flips: tuple[Tensor, Tensor], qparams: tuple[Tensor, Tensor], law: Law
) -> None:
    """Flip bits of some codes of a tensor and decode just these, in place, in one launch.

    Args:
        codes: uint8 or int8, contiguous, one a byte.
        values: fp32, contiguous, of the same shape.
        flips: flat elements, int64 (n,), each once, and what to XOR into them, int64 (n,).
        qparams: scales and low ends, fp32, contiguous; each belongs to as many neighbouring elements.
        law: how a code is read.
    """
    index, masks = flips
    with torch.cuda.device_of(codes):
        if len(index):
            flip_touched[(-(-len(index) // _FLIPS),)](
                codes, values, index, masks, *qparams, law.limits, codes.numel() // qparams[0].numel(), len(index),
                BITS=law.bits, SIGNED=law.signed, OFFSET=law.offset, SATURATE=law.saturate, LANES=_FLIPS,
                enable_fp_fusion=False,
            )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Codes:
    """Codes on a device, and what gives them meaning.

    Attributes:
        parts: which share a scale.
        law: how one is read.
        memory: uint8 or int8 (codes,), one a byte; or uint8, packed.
        scales: fp32 (parts,).
        lows: fp32 (parts,).
        packed: whether codes lie without gaps.
    """

    parts: Parts
    law: Law
    memory: Tensor
    scales: Tensor
    lows: Tensor
    packed: bool = False

    def values(self, flags: Tensor | None = None) -> Tensor:
        """Return what the codes stand for under the errors of a map, fp32, with the gaps of ``parts``.

        Args:
            flags: uint8, one bit per bit of a code; none for no errors.
        """
        values = torch.zeros(self.parts.values, dtype=torch.float32, device=self.memory.device)
        with torch.cuda.device_of(self.memory):
            if self.parts.programs:
                decode_parts[(self.parts.programs,)](
                    self.parts.owner, self.parts.starts, self.parts.table, self.scales, self.lows, self.law.limits,
                    self.memory, self.memory if flags is None else flags, values,
                    **self._constants, FLIPPED=flags is not None, LANES=self.parts.lanes,
                )  # fmt: skip
        return values

    def touch_(self, values: Tensor, addresses: Tensor) -> Tensor:
        """Decode what errors hit into ``values``, which otherwise hold the codes' own; return them.

        Args:
            values: fp32, as :meth:`values` gives them.
            addresses: of bits, int64, ascending, each once.

        Raises:
            InvalidConfig: an address outside the codes.
        """
        total = len(addresses)
        if total and not 0 <= int(addresses[0]) <= int(addresses[-1]) < self.parts.codes * self.law.bits:
            raise InvalidConfig(f"an address lies outside the {self.parts.codes * self.law.bits} bits of the codes")
        with torch.cuda.device_of(self.memory):
            if total:
                decode_listed[(-(-total // _FLIPS),)](
                    self.parts.firsts, self.parts.table, self.scales, self.lows, self.law.limits, self.memory,
                    addresses, values, self.parts.count, self.parts.steps, total, **self._constants, LANES=_FLIPS,
                )  # fmt: skip
        return values

    @property
    def _constants(self) -> dict[str, int | bool]:
        law = self.law
        return {
            "BITS": law.bits, "SIGNED": law.signed, "OFFSET": law.offset, "SATURATE": law.saturate,
            "PACKED": self.packed, "FIELDS": FIELDS, "enable_fp_fusion": False,
        }  # fmt: skip
