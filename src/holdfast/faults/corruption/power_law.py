"""Relative errors with a heavy tail: what a hardware fault does to the result of an instruction, as measured in RTL.

A corrupted result is ``r`` times the right one, and r follows a power law, ``r = xmin * (1 - u) ** (-1 / (alpha - 1))``
with u uniform in [0, 1). The parameters were fitted to faults in a register-transfer model of a GPU (FlexGrip), for
each opcode and three magnitudes of the right result. They are those of the injector that CAROL derived from NVBitFI
(github.com/UFRGS-CAROL/nvbitfi, injector/flex_grip_error_model.h, commit 2458d52). That program multiplies the opcode
by the number of opcodes, not of magnitudes, and so reads most rows from another opcode or past the end of its table;
here an opcode gets its own row. Its file names the order of opcodes and of magnitudes but not the layout of its 21
numbers: that three in a row belong to one opcode is our reading, since such three are alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Literal

import numpy as np
import torch

from holdfast.errors import InvalidConfig
from holdfast.execution.condition import Flips
from holdfast.execution.rewrites import Scaled
from holdfast.faults.corruption.catalogue import Region, values
from holdfast.faults.corruption.effects import require_whole, rewriting
from holdfast.faults.marks import words
from holdfast.models.site import Site
from holdfast.numerics.values import number_kind
from holdfast.seeds import Seed

LIMITS = (1e-3, 1e3)  # small, medium and large results: |v| < 1e-3, between, > 1e3

Opcode = Literal["fadd", "fmul", "ffma", "iadd", "imul", "imad", "mufu"]

# opcode -> (xmin, alpha) for small, medium and large results
TABLE: dict[str, tuple[tuple[float, float], ...]] = {
    "fadd": ((1.0728769e-07, 1.0868737), (2.0230031, 1.0568325), (8.1847715e-08, 1.0820710)),
    "fmul": ((1.3602772e05, 27.119400), (3.0, 1.0678725), (3.5176080e-02, 1.1896030)),
    "ffma": ((3.4028237e38, 4.4310700e05), (2.0, 1.4543958), (1.0238367e-02, 1.1181921)),
    "iadd": ((1.3968560e-09, 1.0846596), (2.6865074e-10, 1.0769672), (1.3970158e-09, 1.0851440)),
    "imul": ((6.6699225e-01, 23.798765), (6.6699225e-01, 23.798765), (6.6699225e-01, 23.922783)),
    "imad": ((7.5000001e-01, 1.2143508e08), (6.1141304e-01, 3.4316596), (7.5000001e-01, 1.2143508e08)),
    "mufu": ((0.0, 1.0821200), (7.0958774e-08, 1.0821160), (0.0, 1.0821200)),
}


@values.register("power-law")
@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLaw:
    """Multiply by a factor that follows a power law: that of an opcode's table, or of given ``xmin`` and ``alpha``.

    A product beyond the format's range becomes infinite, in an integer format the end of the range.
    """

    opcode: Opcode = "ffma"  # the instruction whose result is hit; a matrix product is made of ffma
    xmin: float | None = None  # least factor
    alpha: float | None = None  # exponent, above 1; large is narrow
    same: bool = False  # one factor for all elements, not one for each

    def __post_init__(self) -> None:
        if self.opcode not in TABLE:
            raise InvalidConfig(f"no table for the opcode {self.opcode!r}", hint=f"one of {', '.join(TABLE)}")
        if (self.xmin is None) != (self.alpha is None):
            raise InvalidConfig("a power law of your own has both xmin and alpha", hint="xmin=0.1,alpha=1.5")
        if self.alpha is not None and not (_is_number(self.alpha) and 1 < self.alpha < math.inf):
            raise InvalidConfig(f"alpha lies above 1, not at {self.alpha!r}")
        if self.xmin is not None and not (_is_number(self.xmin) and 0 <= self.xmin < math.inf):
            raise InvalidConfig(f"xmin is zero or a positive number, not {self.xmin!r}")

    @property
    def rows(self) -> tuple[tuple[float, float], ...]:
        """(xmin, alpha) for each magnitude that is told apart."""
        return ((self.xmin, self.alpha),) if self.xmin is not None and self.alpha is not None else TABLE[self.opcode]

    def factors(self, uniform: np.ndarray) -> np.ndarray:
        """Return the factors for u in [0, 1), shape (n,): shape (n, magnitudes)."""
        columns = [xmin * (1 - uniform) ** (-1 / (alpha - 1)) for xmin, alpha in self.rows]
        return np.stack(columns, axis=1)

    def changes(self, site: Site, region: Region, seed: Seed) -> Flips:
        """Return the multiplication of every element.

        Raises:
            UnsupportedFormat: the codes of the site are no numbers.
        """
        require_whole(region, "a relative error")
        number_kind(site.format)
        index = np.zeros_like(region.index) if self.same else region.index
        uniform = (words(seed, index).view(np.uint64) >> np.uint64(11)) * 2.0**-53
        with np.errstate(over="ignore"):
            factors = torch.from_numpy(self.factors(uniform))
        return rewriting(site, region, Scaled(factors, LIMITS if factors.shape[1] > 1 else ()))


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
