"""Number formats as grids of the real line, and how surprising values are that lie on one.

A value x of a smooth distribution lands on one point of grid F with probability f(x) * spacing_F(x), so n values on a
grid ``s`` times as coarse as fp32 speak for it by n * ln(s) nats: no training, and nothing to tune.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class FloatGrid:
    """The values of one floating-point format."""

    name: str
    significant: int  # bits, the leading one included
    lowest: int  # exponent of the smallest normal value; below it the spacing stays
    largest: float

    def spacing(self, values: Values) -> Values:
        """Return the distance of neighbouring points at each value."""
        exponent = np.frexp(values)[1] - 1
        return np.asarray(np.ldexp(1.0, np.maximum(exponent, self.lowest) - (self.significant - 1)))

    def holds(self, values: Values) -> Flags:
        """Say which values are points of the grid."""
        steps = values / self.spacing(values)
        return np.asarray((steps == np.rint(steps)) & (np.abs(values) <= self.largest))


FLOAT_GRIDS = MappingProxyType(
    {
        grid.name: grid
        for grid in (
            FloatGrid("fp32", 24, -126, float(np.finfo(np.float32).max)),
            FloatGrid("tf32", 11, -126, float(np.finfo(np.float32).max)),
            FloatGrid("fp16", 11, -14, 65504.0),
            FloatGrid("bf16", 8, -126, 3.39e38),
            FloatGrid("fp8-e4m3", 4, -6, 480.0),  # 448 by OCP; the saturating variant reaches 480
            FloatGrid("fp8-e5m2", 3, -14, 57344.0),
        )
    }
)
_BLOCK = 32  # elements that share a scale in MX formats


def micro_scaled(values: Values) -> tuple[Values, Flags]:
    """Return spacing and membership under mxint8: blocks of 32 on the last axis, steps of 2**(top exponent - 6)."""
    width = values.shape[-1]
    padded = np.concatenate([values, np.zeros((*values.shape[:-1], -width % _BLOCK))], axis=-1)
    blocks = padded.reshape(*values.shape[:-1], -1, _BLOCK)
    top = np.frexp(np.abs(blocks).max(axis=-1, keepdims=True))[1] - 1
    spacing = np.broadcast_to(np.ldexp(1.0, top - 6), blocks.shape).reshape(padded.shape)[..., :width]
    steps = values / spacing
    return spacing, steps == np.rint(steps)


def lattice_step(values: Values, tolerance: Values) -> float | None:
    """Return the step s > 0 of which every value is a multiple to within its tolerance, or None.

    Found from the smallest gaps: each is a small multiple of the step. From there, values are fitted in order of size,
    so that each is predicted well enough before it improves the estimate.
    """
    distinct = np.unique(np.abs(values))
    gaps = np.diff(distinct)
    wide = float(tolerance.max()) * 4
    small = np.sort(np.concatenate([gaps[gaps > wide], distinct[distinct > wide]]))[:4]
    order = np.argsort(np.abs(values))
    sized, slack = values[order], tolerance[order]
    for candidate in sorted({float(gap) / part for gap in small for part in range(1, 17)}, reverse=True):
        if candidate <= wide:
            break
        step = _refined(sized, candidate)
        if bool((np.abs(sized - np.rint(sized / step) * step) <= slack).all()):
            return step
    return None


def _refined(values: Values, step: float) -> float:
    """Fit a step to ever more values, smallest first."""
    count = 2
    while count < 2 * len(values):
        part = values[:count]
        multiples = np.rint(part / step)
        norm = float((multiples**2).sum())
        step = float((multiples * part).sum()) / norm if norm else step
        count *= 2
    return step
