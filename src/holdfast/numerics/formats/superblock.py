"""Two-level blocks of GGUF (Q2_K to Q6_K): groups of 16 or 32 whose scales are integers under a scale of 256 elements.

``value = (code - middle) * (super_scale * scale) - super_low * low``, where ``scale`` and ``low`` are small integers,
one per group, and ``super_scale`` and ``super_low`` float16, one per superblock. Products are formed in float32 in the
order written, as the tools of that format do. Parameters are as stored: each is an address of faults of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig, UnsupportedFormat
from holdfast.numerics.formats.protocol import Encoded, require_finite
from holdfast.numerics.granularity import Granularity

SUPERBLOCK = 256  # elements
_OUTER = Granularity("group", SUPERBLOCK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """Codes are uint8; ``scale`` has shape (rows, groups), ``super_scale`` (rows, superblocks), ``low`` likewise.

    Without ``low`` the code ``2**(bits-1)`` stands for nothing; with it the least value of a group is ``-low``.
    """

    bits: int = 4  # 2..6
    size: int = 32  # elements per group: 16 or 32
    scale_bits: int = 6  # 4..8
    scales: Literal["unsigned", "signed", "middle"] = "unsigned"  # middle: 2**(scale_bits-1) stands for nothing
    low: bool = True

    def __post_init__(self) -> None:
        if not (2 <= self.bits <= 6 and self.size in (16, 32) and 4 <= self.scale_bits <= 8):
            raise InvalidConfig(f"no superblock has {self.bits} bits in groups of {self.size}", hint="2..6; 16 or 32")
        if self.scales == "signed" and self.scale_bits != 8:
            raise InvalidConfig("signed scales have 8 bits")

    @property
    def name(self) -> str:
        """Specification that rebuilds the format."""
        low = str(self.low).lower()
        tail = f"size={self.size},scale_bits={self.scale_bits},scales={self.scales},low={low}"
        return f"superblock:bits={self.bits},{tail}"

    def fields(self) -> tuple[str, ...]:
        """Name the meaning of each bit: all magnitude."""
        return ("magnitude",) * self.bits

    def encode(self, x: Tensor, qparams: Mapping[str, Tensor] | None = None) -> Encoded:
        """Return the nearest codes of float ``x``; with ``qparams``, in that frozen range.

        Raises:
            UnsupportedFormat: NaN, an infinity, or a range that float16 cannot scale.
        """
        require_finite(x, self.name)
        wide = x.detach().double()
        qparams = dict(qparams) if qparams is not None else self._range(wide)
        step, low = (item.double() for item in self._step_and_low(self._spread(qparams, x.shape)))
        steps = (wide + low) / step
        # groups of zeros have a step of zero: every code has the same value
        codes = torch.where(torch.isfinite(steps), steps.round(), 0.0) + self._middle
        return Encoded(codes.clamp(0, 2**self.bits - 1).to(torch.uint8), qparams)

    def decode(self, encoded: Encoded) -> Tensor:
        """Return float32 numbers; bits above the width are ignored, as hardware would."""
        return self._decoded(encoded.codes, self._spread(encoded.qparams, encoded.codes.shape))

    def decode_at(self, encoded: Encoded, index: Tensor) -> Tensor:
        """Return the float32 numbers at flat ``index``."""
        shape = encoded.codes.shape
        each = {key: self._sharing(key).at(value, index, shape) for key, value in encoded.qparams.items()}
        return self._decoded(encoded.codes.view(-1)[index], each)

    def _decoded(self, codes: Tensor, each: Mapping[str, Tensor]) -> Tensor:
        step, low = self._step_and_low(each)
        steps = (codes.to(torch.int32) & (2**self.bits - 1)) - self._middle
        values: Tensor = steps.float() * step
        return values - low if self.low else values

    def _step_and_low(self, each: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the step and what is taken away, float32."""
        scale = each["scale"].to(torch.int32)
        if self.scales != "signed":
            scale = (scale & (2**self.scale_bits - 1)) - (2 ** (self.scale_bits - 1) if self.scales == "middle" else 0)
        step = each["super_scale"].float() * scale.float()
        if not self.low:
            return step, torch.zeros_like(step)
        low = each["low"].to(torch.int32) & (2**self.scale_bits - 1)
        return step, each["super_low"].float() * low.float()

    def _spread(self, qparams: Mapping[str, Tensor], shape: torch.Size) -> dict[str, Tensor]:
        return {key: self._sharing(key).spread(value, shape) for key, value in qparams.items()}

    def _sharing(self, key: str) -> Granularity:
        return _OUTER if key.startswith("super_") else Granularity("group", self.size)

    @property
    def _middle(self) -> int:
        return 0 if self.low else 2 ** (self.bits - 1)

    def _range(self, wide: Tensor) -> dict[str, Tensor]:
        """Derive parameters from the extremes of each group; zero lies in every range."""
        least, most = Granularity("group", self.size).extremes(wide)
        if not self.low:
            return self._scales(torch.maximum(most.abs(), least.abs()) / (self._middle - 1))
        super_low, low = self._two_levels(-least.clamp(max=0))
        taken = super_low.double().repeat_interleave(SUPERBLOCK // self.size, 1)[:, : low.shape[1]] * low
        step = (most.clamp(min=0) + taken).clamp(min=0) / (2**self.bits - 1)
        return self._scales(step) | {"super_low": super_low, "low": low.to(torch.uint8)}

    def _scales(self, step: Tensor) -> dict[str, Tensor]:
        outer, inner = self._two_levels(step, up=True)
        if self.scales == "middle":
            inner = inner + 2 ** (self.scale_bits - 1)
        return {"super_scale": outer, "scale": inner.to(torch.int8 if self.scales == "signed" else torch.uint8)}

    def _two_levels(self, value: Tensor, *, up: bool = False) -> tuple[Tensor, Tensor]:
        """Return float16 (rows, superblocks) and integers (rows, groups) whose products are near ``value`` >= 0."""
        top = 2**self.scale_bits - 1 if not up or self.scales == "unsigned" else 2 ** (self.scale_bits - 1) - 1
        outer = (Granularity("group", SUPERBLOCK // self.size).extremes(value)[1] / top).half()
        if not torch.isfinite(outer).all():
            raise UnsupportedFormat("fp16 scales cannot hold this range", hint="scale the tensor first")
        outer = torch.where(outer > 0, outer, torch.ones_like(outer))
        ratio = value / outer.double().repeat_interleave(SUPERBLOCK // self.size, 1)[:, : value.shape[1]]
        # rounding a scale up keeps the extreme within reach of the codes
        return outer, (ratio.ceil() if up else ratio.round()).clamp(0, top)
