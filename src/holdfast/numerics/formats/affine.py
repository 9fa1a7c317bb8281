"""Affine integers as other tools store them: ``value = (code - zero_point) * scale``, shared by groups of a row.

One description covers GPTQ and AWQ (Frantar et al., ICLR 2023; Lin et al., MLSys 2024), compressed-tensors, the plain
integer tensors of torchao and the one-level blocks of GGUF (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0). They differ in where zero
lies and in the precision of the scale, which are fields here. The scale is kept in the bits it was stored in; the
product is formed in float32 and rounded once to ``values``, which is what a product in that precision gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig, UnsupportedFormat
from holdfast.numerics.formats.protocol import Encoded, require_finite
from holdfast.numerics.granularity import Granularity, rows_and_columns

Real = Literal["fp32", "fp16", "bf16"]
Zero = Literal["none", "middle", "stored", "stored-minus-one", "stored-minus-one-unwrapped", "low"]
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine:
    """Codes are uint8, or int8 when signed; parameters have the shape their granularity gives them.

    ``zero`` says which code stands for nothing:

    - ``none``: code 0 (signed codes);
    - ``middle``: ``2**(bits-1)``, implied;
    - ``stored``: the parameter ``zero_point``;
    - ``stored-minus-one``: ``zero_point + 1`` modulo ``2**bits``, GPTQ's first convention as its later readers take it;
    - ``stored-minus-one-unwrapped``: the same without the modulus, as its first readers took it;
    - ``low``: none; the float parameter ``low`` is added instead, ``value = code * scale + low``.

    With ``order="act"`` the parameter ``group`` (int32, one per column) names the group of each column of every row.
    """

    bits: int = 8  # 2..8
    signed: bool = False
    zero: Zero = "stored"
    granularity: Literal["tensor", "channel", "group"] = "group"
    size: int = 128  # elements per group
    scale: Real = "fp16"  # how scale and low are stored
    values: Real = "fp32"  # what is decoded
    order: Literal["row", "act"] = "row"

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise InvalidConfig(f"affine codes have 2 to 8 bits, not {self.bits}")
        if self.signed and self.zero not in ("none", "stored", "low"):
            raise InvalidConfig(f"signed codes have no zero {self.zero!r}", hint="none, stored or low")
        if not self.signed and self.zero == "none":
            raise InvalidConfig("unsigned codes need a zero", hint="middle, stored or low")
        if self.order == "act" and self.granularity != "group":
            raise InvalidConfig("an order of columns goes with groups")
        if self.bits == 8 and self.values == "bf16" and self.zero.startswith("stored"):
            raise InvalidConfig("bf16 cannot tell 256 codes with a zero point apart", hint="values=fp32")
        Granularity(self.granularity, self.size)

    @property
    def name(self) -> str:
        """Specification that rebuilds the format."""
        parts = {
            "bits": self.bits,
            "signed": str(self.signed).lower(),
            "zero": self.zero,
            "granularity": self.granularity,
            "size": self.size,
            "scale": self.scale,
            "values": self.values,
            "order": self.order,
        }
        return "affine:" + ",".join(f"{key}={value}" for key, value in parts.items())

    def fields(self) -> tuple[str, ...]:
        """Name the meaning of each bit, least significant first."""
        return ("magnitude",) * (self.bits - 1) + ("sign" if self.signed else "magnitude",)

    def encode(self, x: Tensor, qparams: Mapping[str, Tensor] | None = None) -> Encoded:
        """Return the nearest codes of float ``x``; with ``qparams``, in that frozen range.

        Raises:
            UnsupportedFormat: NaN, an infinity, or values too large or too small for the stored precision of the scale
                or for that of ``values``.
        """
        require_finite(x, self.name)
        wide = x.detach().double()
        fresh = qparams is None
        qparams = self._range(wide) if qparams is None else dict(qparams)
        each = self._spread(qparams, x.shape)
        scale = each["scale"].double()
        steps = (wide - each["low"].double() if "low" in each else wide) / scale
        # a scale of zero, which real files hold for blocks of zeros, gives every code the same value
        steps = torch.where(torch.isfinite(steps), steps.round(), 0.0) + self._zero(each)
        codes = steps.clamp(*self._span())
        encoded = Encoded(codes.to(torch.int8 if self.signed else torch.uint8), qparams)
        if fresh and not torch.isfinite(self.decode(encoded)).all():
            raise UnsupportedFormat(
                f"{self.values} values cannot hold this range", hint="values=fp32, or scale it first"
            )
        return encoded

    def decode(self, encoded: Encoded) -> Tensor:
        """Return the numbers in the precision ``values``; bits above the width are ignored, as hardware would."""
        return self._decoded(encoded.codes, self._spread(encoded.qparams, encoded.codes.shape))

    def decode_at(self, encoded: Encoded, index: Tensor) -> Tensor:
        """Return the numbers at flat ``index``."""
        shape, codes = encoded.codes.shape, encoded.codes.view(-1)[index]
        return self._decoded(codes, {key: self._at(encoded, key, index, shape) for key in self._keys()})

    def _decoded(self, codes: Tensor, each: Mapping[str, Tensor]) -> Tensor:
        steps = codes.to(torch.int32) & (2**self.bits - 1)
        if self.signed:
            steps = torch.where(steps >= 2 ** (self.bits - 1), steps - 2**self.bits, steps)
        values: Tensor = (steps - self._zero(each)).float() * each["scale"].float()
        if "low" in each:
            values = values + each["low"].float()
        return values.to(_DTYPES[self.values])

    def _keys(self) -> tuple[str, ...]:
        """Name the parameters that have one value per group."""
        if self.zero == "low":
            return ("scale", "low")
        return ("scale", "zero_point") if self.zero.startswith("stored") else ("scale",)

    @property
    def _sharing(self) -> Granularity:
        return Granularity(self.granularity, self.size)

    def _spread(self, qparams: Mapping[str, Tensor], shape: torch.Size) -> dict[str, Tensor]:
        if self.order == "act":
            groups = self._groups(qparams)
            return {key: qparams[key][:, groups].reshape(shape) for key in self._keys()}
        return {key: self._sharing.spread(qparams[key], shape) for key in self._keys()}

    def _at(self, encoded: Encoded, key: str, index: Tensor, shape: torch.Size) -> Tensor:
        if self.order == "act":
            columns = rows_and_columns(shape)[1]
            return encoded.qparams[key][index // columns, self._groups(encoded.qparams)[index % columns]]
        return self._sharing.at(encoded.qparams[key], index, shape)

    def _groups(self, qparams: Mapping[str, Tensor]) -> Tensor:
        """Return the group of each column, int64; a damaged one must not count from the end."""
        groups, count = qparams["group"].long(), qparams["scale"].shape[1]
        if groups.numel() and not 0 <= int(groups.min()) <= int(groups.max()) < count:
            worst = int(groups.min()) if int(groups.min()) < 0 else int(groups.max())
            raise InvalidConfig(f"a column names group {worst} of {count}", hint="its group index is damaged")
        return groups

    def _zero(self, each: Mapping[str, Tensor]) -> Tensor | int:
        """Return the code that stands for nothing, int32."""
        if self.zero == "middle":
            return 1 << (self.bits - 1)
        if not self.zero.startswith("stored"):
            return 0
        zero: Tensor = each["zero_point"].to(torch.int32)
        if not self.signed:
            zero = zero & (2**self.bits - 1)
        if self.zero == "stored":
            return zero
        following: Tensor = zero + 1
        if not self.zero.endswith("unwrapped"):
            following &= 2**self.bits - 1
        return following

    def _span(self) -> tuple[int, int]:
        half = 2 ** (self.bits - 1)
        return (-half, half - 1) if self.signed else (0, 2 * half - 1)

    def _range(self, wide: Tensor) -> dict[str, Tensor]:
        """Derive parameters from the extremes of each group; zero is always a value, except with ``low``."""
        least, most = self._sharing.extremes(wide)
        bottom, top = self._span()
        found: dict[str, Tensor] = {}
        if self.zero == "low":
            # a step below the spacing of the values at the ends would merge neighbouring codes
            greatest = torch.maximum(most.abs(), least.abs())
            spacing = greatest * (2 * torch.finfo(_DTYPES[self.values]).eps)
            step = torch.maximum((most - least) / (top - bottom), spacing)
            scale = self._stored(torch.where(greatest >= self._least, step.clamp(min=self._least), step))
            found["low"] = self._finite(least - scale.double() * bottom)
        elif self.zero in ("none", "middle"):
            scale = self._stored(torch.maximum(most.abs(), least.abs()) / (2 ** (self.bits - 1) - 1))
        else:
            least, most = least.clamp(max=0), most.clamp(min=0)
            scale = self._stored((most - least) / (top - bottom))
            zero = (bottom - least / scale.double()).round().clamp(bottom, top).to(torch.int32)
            back = 0 if self.zero == "stored" else 1
            # without the modulus a zero of 0 has no spelling; the nearest one it has is 1
            zero = zero.clamp(min=1) if self.zero.endswith("unwrapped") else zero
            found["zero_point"] = ((zero - back) & 0xFF).to(torch.uint8) & (2**self.bits - 1)
            if self.signed:
                found["zero_point"] = zero.to(torch.int8)
        if self.order == "act":
            columns = rows_and_columns(wide.shape)[1]
            found["group"] = torch.arange(columns, dtype=torch.int32) // self.size
        return {"scale": scale} | found

    def _stored(self, scale: Tensor) -> Tensor:
        """Return scales as stored, one for a group of zeros; refuse one that codes or values would vanish with."""
        narrow = self._finite(scale)
        if ((scale > 0) & (narrow.double() < self._least)).any():
            raise UnsupportedFormat(
                f"{self.scale} scales and {self.values} values cannot hold weights so small",
                hint="store scales and values as fp32, or set such weights to zero",
            )
        return torch.where(narrow > 0, narrow, torch.ones_like(narrow))

    @property
    def _least(self) -> float:
        """The least scale whose multiples both precisions tell apart: the larger of their least numbers."""
        return max(_least_number(_DTYPES[self.scale]), _least_number(_DTYPES[self.values]))

    def _finite(self, value: Tensor) -> Tensor:
        narrow = value.to(_DTYPES[self.scale])
        if not torch.isfinite(narrow).all():
            raise UnsupportedFormat(f"{self.scale} scales cannot hold this range", hint="store them as fp32")
        return narrow


def _least_number(dtype: torch.dtype) -> float:
    found = torch.finfo(dtype)
    return float(found.tiny * found.eps)
