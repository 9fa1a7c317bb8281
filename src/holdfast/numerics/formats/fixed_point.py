"""Real-integer fixed point: 2 to 8 bits as independent choices of range, symmetry, sign, rounding and granularity.

Stutz et al. (MLSys 2021, section 4.1) is the source of the choices and of the presets' names; unlike their release,
ranges are stored with the codes and never derived twice, and constant tensors are exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.numerics.formats.protocol import Encoded, require_finite
from holdfast.numerics.granularity import Granularity


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPoint:
    """``value = code * scale + low``, with ``low`` zero when symmetric.

    Codes are int8 when signed (two's complement in the low ``bits``, sign-extended on decoding) and uint8 otherwise.
    """

    bits: int = 8  # 2..8
    symmetric: bool = True  # range [-r, r] instead of [min, max]
    signed: bool = True
    granularity: Literal["tensor", "channel"] = "channel"  # channel: one range per index of dimension 0
    rounding: Literal["half-even", "truncate"] = "half-even"  # truncate: for study of the published defect
    clip: float | None = None  # w_max: values beyond are clipped first

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise InvalidConfig(f"fixed point has 2 to 8 bits, not {self.bits}")
        if self.clip is not None and not self.clip > 0:
            raise InvalidConfig(f"clip is a positive bound, not {self.clip}")

    @property
    def name(self) -> str:
        """Specification that rebuilds the format."""
        parts = {
            "bits": self.bits,
            "symmetric": str(self.symmetric).lower(),
            "signed": str(self.signed).lower(),
            "granularity": self.granularity,
            "rounding": self.rounding,
            "clip": "none" if self.clip is None else repr(self.clip),
        }
        return "fixed-point:" + ",".join(f"{key}={value}" for key, value in parts.items())

    def encode(self, x: Tensor, qparams: Mapping[str, Tensor] | None = None) -> Encoded:
        """Return the codes of float ``x``; with ``qparams`` (``scale``, ``low``), in that frozen range.

        Raises:
            UnsupportedFormat: NaN or an infinity.
        """
        require_finite(x, f"{self.bits}-bit fixed point")
        wide = x.detach().double()
        if self.clip is not None:
            wide = wide.clamp(-self.clip, self.clip)
        qparams = dict(qparams) if qparams is not None else self._range(wide)
        steps = self._rounded(x, (wide - qparams["low"].double()) / qparams["scale"].double(), qparams)
        least, most = self._span()
        codes = steps.clamp(least, most) + self._offset()
        return Encoded(codes.to(torch.int8 if self.signed else torch.uint8), qparams)

    def decode(self, encoded: Encoded) -> Tensor:
        """Return float32 numbers; bits above the width are ignored, as hardware would."""
        shape, sharing = encoded.codes.shape, self._sharing
        return self._decoded(encoded.codes, {key: sharing.spread(v, shape) for key, v in encoded.qparams.items()})

    def decode_at(self, encoded: Encoded, index: Tensor) -> Tensor:
        """Return the float32 numbers at flat ``index``."""
        shape, sharing = encoded.codes.shape, self._sharing
        qparams = {key: sharing.at(value, index, shape) for key, value in encoded.qparams.items()}
        return self._decoded(encoded.codes.view(-1)[index], qparams)

    @property
    def _sharing(self) -> Granularity:
        return Granularity(self.granularity)

    def _decoded(self, codes: Tensor, qparams: Mapping[str, Tensor]) -> Tensor:
        codes = codes.to(torch.int32) & (2**self.bits - 1)
        if self.signed:
            codes = torch.where(codes >= 2 ** (self.bits - 1), codes - 2**self.bits, codes)
        steps: Tensor = (codes - self._offset()).double()
        return (steps * qparams["scale"].double() + qparams["low"].double()).float()

    def fields(self) -> tuple[str, ...]:
        """Name the meaning of each bit, least significant first; an unsigned code is all magnitude."""
        return ("magnitude",) * (self.bits - 1) + ("sign" if self.signed else "magnitude",)

    def _rounded(self, x: Tensor, steps: Tensor, qparams: Mapping[str, Tensor]) -> Tensor:
        nearest = steps.round()
        if self.rounding == "half-even":
            return nearest
        # a decoded code may lie a rounding error below itself; truncating it would lose a step at each pass
        value = nearest * qparams["scale"].double() + qparams["low"].double()
        return torch.where(value.float() == x.detach().float(), nearest, steps.trunc())

    def _span(self) -> tuple[int, int]:
        """Return the least and most steps from ``low``; symmetric ranges leave the lowest code to faults."""
        half = 2 ** (self.bits - 1)
        return (-(half - 1), half - 1) if self.symmetric else (0, 2 * half - 1)

    def _offset(self) -> int:
        """Return what is added to a step count to give its code."""
        half = 2 ** (self.bits - 1)
        if self.symmetric:
            return 0 if self.signed else half
        return -half if self.signed else 0

    def _range(self, wide: Tensor) -> dict[str, Tensor]:
        least, most = self._sharing.extremes(wide)
        if self.symmetric:
            bound = torch.maximum(most.abs(), least.abs())
            scale = _positive(bound / self._span()[1])
            # one float32 scale in a hundred cannot hit its own end exactly; a constant then becomes code one
            inexact = (scale.double() * self._span()[1]).float() != bound.float()
            scale = torch.where((most == least) & inexact & (bound > 0), bound.float(), scale)
            return {"scale": scale, "low": torch.zeros_like(scale)}
        low = least.float().double()
        # a step below the spacing of float32 at the ends would merge neighbouring codes
        spacing = torch.maximum(most.abs(), least.abs()) * 2.0**-22
        return {
            "scale": _positive(torch.maximum((most - low) / self._span()[1], spacing)),
            "low": low.float(),
        }


def _positive(scale: Tensor) -> Tensor:
    """Return float32 scales; an all-zero tensor, or one below float32's range, gets scale one."""
    narrow = scale.float()
    return torch.where(narrow > 0, narrow, torch.ones_like(narrow))
