"""NF4: sixteen levels at the quantiles of a normal distribution, one absolute maximum per block.

Dettmers et al., *QLoRA*, NeurIPS 2023, section 3 and appendix E. The maxima are stored in float32; the paper's second
quantisation of the maxima themselves is not done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.numerics.formats.protocol import Encoded, require_finite
from holdfast.numerics.formats.ranges import positive
from holdfast.numerics.granularity import Granularity

# appendix E: quantiles of N(0, 1) over their greatest, eight below zero and eight from it on, rounded to float32
LEVELS = torch.tensor(
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
     -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
     0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0],
    dtype=torch.float64,
)  # fmt: skip
_BETWEEN = (LEVELS[1:] + LEVELS[:-1]) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalFloat:
    """``value = LEVELS[code] * scale``; a code is the number of a level, 0..15, in uint8, and code 7 is zero."""

    block: int = 64  # elements of a row that share a scale

    def __post_init__(self) -> None:
        Granularity("group", self.block)

    @property
    def name(self) -> str:
        """Specification that rebuilds the format."""
        return f"nf4:block={self.block}"

    @property
    def bits(self) -> int:
        """Stored bits per element."""
        return 4

    @property
    def sharing(self) -> Granularity:
        """Which elements share a ``scale``."""
        return Granularity("group", self.block)

    def encode(self, x: Tensor, qparams: Mapping[str, Tensor] | None = None) -> Encoded:
        """Return the nearest levels of ``x``; with ``qparams`` (``scale``), under those scales.

        Raises:
            UnsupportedFormat: NaN, an infinity or a value beyond float32.
        """
        require_finite(x, "nf4")
        wide = x.detach().double()
        if qparams is None:
            least, most = self.sharing.extremes(wide)
            qparams = {"scale": positive(torch.maximum(most.abs(), least.abs()))}
        part = wide / self.sharing.spread(qparams["scale"], x.shape).double()
        return Encoded(torch.bucketize(part, _BETWEEN.to(part.device)).to(torch.uint8), dict(qparams))

    def decode(self, encoded: Encoded) -> Tensor:
        """Return float32 numbers; bits above the fourth are ignored."""
        return _decoded(encoded.codes, self.sharing.spread(encoded.qparams["scale"], encoded.codes.shape))

    def decode_at(self, encoded: Encoded, index: Tensor) -> Tensor:
        """Return the numbers at flat ``index``."""
        scale = self.sharing.at(encoded.qparams["scale"], index, encoded.codes.shape)
        return _decoded(encoded.codes.view(-1)[index], scale)

    def fields(self) -> tuple[str, ...]:
        """Name the meaning of each bit: the number of a level is all magnitude."""
        return ("magnitude",) * 4


def _decoded(codes: Tensor, scale: Tensor) -> Tensor:
    levels = LEVELS.to(codes.device)[codes.long() & 15]
    return (levels * scale.double()).float()
