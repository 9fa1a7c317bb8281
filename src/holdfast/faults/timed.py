"""When a fault is there: in some forward passes of a run, and not in the others."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.errors import InvalidConfig
from holdfast.execution.condition import Fault, Flips, OnAnotherLaw, Population, faults
from holdfast.execution.injection import drawn_in_window
from holdfast.seeds import Seed


@faults.register("timed")
@dataclass(frozen=True, kw_only=True)
class Timed(OnAnotherLaw):
    """A fault that is present in some forward passes: ``timed:fault=(corruption:where=row),passes=3..7``.

    Passes are counted from 0: ``passes=5`` is once, ``3..7`` a window with both ends, ``3..`` from the third on for
    good, and ``..`` always. When a language model generates with a cache, pass 0 reads the prompt (prefill) and pass t
    makes token t. The same bits fail in every pass of a window, unless the fault is one of each read, which is drawn
    anew for every pass, as it would be without a time. Stored bits are put back when a pass ends in which they fail.

    One realisation, ``flips``, is that of the fault when it is present; a campaign whose trials are single passes
    refuses laws with a time.
    """

    fault: Fault | str  # or its specification
    passes: str = ".."

    def __post_init__(self) -> None:
        _ = self.law, self.window  # what cannot be built is refused here, not at the first pass

    @functools.cached_property
    def law(self) -> Fault:
        """The fault while it is present."""
        return faults.build(self.fault) if isinstance(self.fault, str) else self.fault

    @functools.cached_property
    def window(self) -> tuple[int, int | None]:
        """The first and the last pass; None: for good."""
        found = re.fullmatch(r"(\d*)\.\.(\d*)|(\d+)", str(self.passes).strip())
        if found is None:
            raise InvalidConfig(f"cannot read the passes {self.passes!r}", hint="write 5, 3..7, 3.. or ..")
        if found[3] is not None:
            return int(found[3]), int(found[3])
        first, last = int(found[1] or 0), int(found[2]) if found[2] else None
        if last is not None and last < first:
            raise InvalidConfig(f"the passes {self.passes} end before they begin", hint=f"write {last}..{first}")
        return first, last

    def in_pass(self, population: Population, seed: Seed, number: int) -> Sequence[Flips]:
        """Return what is present in forward pass ``number`` of a run under ``seed``."""
        return drawn_in_window(self.law, population, seed, number, *self.window)

    def flips(self, population: Population, seed: Seed) -> Sequence[Flips]:
        """Return one realisation of the fault, whenever it is present."""
        return self.law.flips(population, seed)
