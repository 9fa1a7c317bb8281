"""Real-integer fixed point: every scheme of Stutz et al. as independent choices, not as a class each.

A scheme is a range (adaptive, clipped or fixed), symmetric or not, signed or unsigned codes, a rounding, a width and a
granularity (Stutz et al., MLSys 2021, section 4.1, and their released quantisers). Unlike the release, ranges are
stored with the codes and never derived twice, constant tensors are exact, and re-encoding a decoded
tensor in its own range (with the same ``qparams``) changes nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig, UnsupportedFormat
from holdfast.numerics.formats.protocol import Encoded, require_finite
from holdfast.numerics.formats.ranges import asymmetric_range, symmetric_range
from holdfast.numerics.granularity import Granularity

WIDTHS = (2, 3, 4, 5, 6, 7, 8, 16, 32)
_ALWAYS_NAMED = ("bits", "symmetric", "signed", "granularity", "rounding", "clip")
_SIGNED = {16: torch.int16, 32: torch.int32}


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPoint:
    """``value = step * scale + low``, where ``low`` is the value of step zero (0 when symmetric).

    A signed code is its step in two's complement (in the low ``bits`` of int8, int16 or int32, sign-extended on
    decoding), an unsigned one (uint8) adds ``2**(bits - 1)``; an asymmetric range that is not centred starts at the
    least code instead. Values decode to float32, or to float64 for 32 bits, which float32 could not tell apart.
    """

    bits: int = 8  # 2..8, 16 or 32; unsigned up to 8
    symmetric: bool = True  # range [-r, r] instead of [min, max]
    signed: bool = True
    granularity: Literal["tensor", "channel", "group", "tile"] = "channel"  # channel: per index of dimension 0
    rounding: Literal["half-even", "truncate"] = "half-even"  # truncate: for study of the published defect
    clip: float | None = None  # w_max: values beyond are clipped first; the upper end of a fixed range
    range: Literal["adaptive", "clipped", "fixed"] = "adaptive"  # adaptive with a clip is clipped
    low: float | None = None  # lower end of a fixed asymmetric range; None: -clip
    centred: bool = False  # asymmetric: 2**bits - 1 levels about the middle, not 2**bits from the low end
    epsilon: float = 0.0  # added to r when symmetric; widens an asymmetric range by this fraction
    saturate: bool = False  # decoded values stay within the range whatever a fault does to a code
    group: int = 32  # elements that share a range when granularity=group; side of a tile

    def __post_init__(self) -> None:
        if self.clip is not None and self.range == "adaptive":
            object.__setattr__(self, "range", "clipped")
        self._check_width()
        self._check_range()

    def _check_width(self) -> None:
        if self.bits not in WIDTHS:
            raise InvalidConfig(f"fixed point has 2 to 8 bits, 16 or 32, not {self.bits}")
        if not self.signed and self.bits > 8:
            raise InvalidConfig(f"unsigned codes have at most 8 bits, not {self.bits}", hint="signed=true")
        for key, known in (("rounding", ("half-even", "truncate")), ("range", ("adaptive", "clipped", "fixed"))):
            if getattr(self, key) not in known:
                raise InvalidConfig(f"{key} is {getattr(self, key)!r}", hint=f"choose one of {', '.join(known)}")
        Granularity(self.granularity, self.group)

    def _check_range(self) -> None:
        if self.clip is not None and not 0 < self.clip < float("inf"):
            raise InvalidConfig(f"clip is a positive bound, not {self.clip}")
        if self.range != "adaptive" and self.clip is None:
            raise InvalidConfig(f"a {self.range} range needs its bound", hint="give clip=, for example clip=0.1")
        if not 0 <= self.epsilon < float("inf"):
            raise InvalidConfig(f"epsilon is zero or a small positive number, not {self.epsilon}")
        if self.symmetric and self.centred:
            raise InvalidConfig("a symmetric range is centred already", hint="centred goes with symmetric=false")
        if self.low is None:
            return
        if self.range != "fixed" or self.symmetric or self.clip is None or not -float("inf") < self.low < self.clip:
            raise InvalidConfig(f"low={self.low} is no lower end here", hint="low < clip of a fixed asymmetric range")

    @property
    def name(self) -> str:
        """Specification that rebuilds the format; the newer fields are named where they are not at their default."""
        parts = []
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.name in _ALWAYS_NAMED or (value != item.default and not self._implied(item.name)):
                text = "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
                parts.append(f"{item.name}={text}")
        return "fixed-point:" + ",".join(parts)

    def _implied(self, key: str) -> bool:
        return key == "range" and self.range == "clipped"

    def encode(self, x: Tensor, qparams: Mapping[str, Tensor] | None = None) -> Encoded:
        """Return the codes of float ``x``; with ``qparams`` (``scale``, ``low``), in that frozen range.

        Raises:
            UnsupportedFormat: NaN, an infinity, or a value that is, or would be rounded to one, beyond float32.
        """
        require_finite(x, f"{self.bits}-bit fixed point")
        wide = x.detach().double()
        if self.clip is not None:
            wide = wide.clamp(-self.clip if self.low is None else self.low, self.clip)
        qparams = dict(qparams) if qparams is not None else self._range(wide)
        near, far = self._reach()
        spread = {key: self.sharing.spread(value, x.shape).double() for key, value in qparams.items()}
        steps = (wide - spread["low"]).div_(spread["scale"]).clamp_(near, far)
        codes = self._rounded(steps, wide, spread) + self._offset()
        encoded = Encoded(codes.to(self._dtype), qparams)
        self._require_decodable(encoded)
        return encoded

    def _require_decodable(self, encoded: Encoded) -> None:
        """Refuse values whose nearest step, which may lie a little beyond them, is no float32."""
        scale, low = (encoded.qparams[key].double().abs() for key in ("scale", "low"))
        if not (scale * 2**self.bits + low > 2.0**127).any():  # decoding all is not needed
            return
        if not torch.isfinite(self.decode(encoded).float()).all():
            raise UnsupportedFormat(f"{self.name} rounds values beyond float32", hint="scale the tensor first")

    def decode(self, encoded: Encoded) -> Tensor:
        """Return the numbers, float32 (float64 for 32 bits); bits above the width are ignored, as hardware would."""
        shape, sharing = encoded.codes.shape, self.sharing
        return self._decoded(encoded.codes, {key: sharing.spread(v, shape) for key, v in encoded.qparams.items()})

    def decode_at(self, encoded: Encoded, index: Tensor) -> Tensor:
        """Return the numbers at flat ``index``."""
        shape, sharing = encoded.codes.shape, self.sharing
        qparams = {key: sharing.at(value, index, shape) for key, value in encoded.qparams.items()}
        return self._decoded(encoded.codes.view(-1)[index], qparams)

    @property
    def stored_qparams(self) -> tuple[str, ...]:
        """The parameters that differ from tensor to tensor: none of a fixed range, and no ``low`` when symmetric."""
        if self.range == "fixed":
            return ()
        return ("scale",) if self.symmetric else ("scale", "low")

    @property
    def sharing(self) -> Granularity:
        """Which elements share a ``scale`` and a ``low``."""
        return Granularity(self.granularity, self.group)

    @property
    def _dtype(self) -> torch.dtype:
        return _SIGNED.get(self.bits, torch.int8 if self.signed else torch.uint8)

    def _decoded(self, codes: Tensor, qparams: Mapping[str, Tensor]) -> Tensor:
        steps = self._steps(codes)
        if self.saturate:
            steps.clamp_(*self._reach())
        return self._narrow(steps.mul_(qparams["scale"].double()).add_(qparams["low"].double()))

    def _steps(self, codes: Tensor) -> Tensor:
        """Return the steps that ``codes`` count, float64, in fresh memory."""
        if self.bits < 8:  # wider codes fill their container
            spare = 8 - self.bits
            codes = codes << spare >> spare if self.signed else codes & (2**self.bits - 1)
        return codes.to(torch.float64, copy=True).sub_(self._offset())

    def _narrow(self, wide: Tensor) -> Tensor:
        return wide if self.bits == 32 else wide.float()

    def fields(self) -> tuple[str, ...]:
        """Name the meaning of each bit, least significant first; an unsigned code is all magnitude."""
        return ("magnitude",) * (self.bits - 1) + ("sign" if self.signed else "magnitude",)

    def _rounded(self, steps: Tensor, wide: Tensor, qparams: Mapping[str, Tensor]) -> Tensor:
        nearest = steps.round()
        if self.rounding == "half-even":
            return nearest if not self.saturate else nearest.clamp_(*self._nearest_inside())
        # a decoded code, and the end of a range, may lie a rounding error below themselves; truncating those would
        # lose a step at each pass
        error = (wide - (nearest * qparams["scale"] + qparams["low"])).abs()
        exact = error <= wide.abs() * (2.0**-52 if self.bits == 32 else 2.0**-23)
        # the release casts to an integer after adding the offset, so unsigned codes round down and signed to zero
        return torch.where(exact, nearest, steps.trunc() if self.signed else steps.floor())

    @property
    def _balanced(self) -> bool:
        """Whether steps lie on both sides of step zero."""
        return self.symmetric or self.centred

    def _span(self) -> tuple[int, int]:
        """Return the least and most steps; balanced ranges leave the lowest code to faults."""
        half = 2 ** (self.bits - 1)
        return (-(half - 1), half - 1) if self._balanced else (0, 2 * half - 1)

    def _reach(self) -> tuple[float, float]:
        """Return how many steps from step zero the ends of the range lie; epsilon puts them inside the span."""
        least, most = self._span()
        if not self.symmetric:
            return least / (1 + self.epsilon), most / (1 + self.epsilon)
        inside = self.clip / (self.clip + self.epsilon) if self.range == "fixed" and self.clip is not None else 1.0
        return least * inside, most * inside

    def _nearest_inside(self) -> tuple[float, float]:
        """Return the whole step nearest to each end of the range, the inner one of two that are equally near.

        A value at an end is stored with a rounding error of its own and could otherwise go either way.
        """
        inner = 1 - (2.0**-50 if self.bits == 32 else 2.0**-22)  # twice or more what float64 or float32 rounds off
        near, far = (math.copysign(math.floor(abs(end) * inner + 0.5), end) for end in self._reach())
        return near, far

    def _offset(self) -> int:
        """Return what is added to a step count to give its code."""
        half = 2 ** (self.bits - 1)
        if self._balanced:
            return 0 if self.signed else half
        return -half if self.signed else 0

    def _range(self, wide: Tensor) -> dict[str, Tensor]:
        return self.range_of(*self.sharing.extremes(wide))

    def range_of(self, least: Tensor, most: Tensor) -> dict[str, Tensor]:
        """Return ``scale`` and ``low`` of parts with these extremes after clipping, float64, any shape."""
        if self.range == "fixed" and self.clip is not None:
            least = torch.full_like(least, -self.clip if self.low is None else self.low)
            most = torch.full_like(most, self.clip)
        if self.symmetric:
            bound = torch.maximum(most.abs(), least.abs()) + self.epsilon
            bound = bound.clamp(max=self.clip) if self.range == "clipped" else bound
            return symmetric_range(least, most, bound, self.bits)
        return asymmetric_range(least, most, self._span(), self.epsilon, self.bits)
