"""Whether what a model says to one input depends on the inputs beside it, found out by striking the neighbours.

Faults in what flows share whole passes, one in each row of a batch. That is right only where rows keep to themselves. A
model that scales its activations by the largest value of the batch, as dynamic quantisation does, carries the fault
of one row into all the others, and every one of them would be counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

import torch
from torch import Tensor, nn

from holdfast.execution.condition import Flips
from holdfast.execution.injection import STORED, flip_rows, population_of, tap_sites
from holdfast.execution.memory import is_out_of_memory
from holdfast.execution.strata import bit_classes
from holdfast.execution.tasks import Exam
from holdfast.execution.watchdog import Hang, Watchdog, deadline
from holdfast.models.site import Site
from holdfast.numerics import bits
from holdfast.numerics.formats import formats

APART = "what the model says to an input depends on the inputs beside it"
_ROWS = 4
_LARGE = 256.0  # beyond what flows in most nets, and finite in every format
_LOUDER = 4.0  # times another input, so that it has the largest value of the batch
_ELEMENTS = 64  # of a row that are struck at every site, evenly spaced

Strike = Callable[[Site, Tensor], Flips]


def flowing(model: nn.Module, exam: Exam, at: str) -> list[Site]:
    """Return the sites at ``at`` whose faults may share a pass."""
    return [site for site in population_of(model, at, exam.example).sites if site.kind not in (*STORED, "offload")]


def are_mixed(
    model: nn.Module, exam: Exam, sites: Sequence[Site], watchdog: Watchdog | None, rows: int = _ROWS
) -> bool:
    """Say whether rows of a batch depend on each other; where not even two fit in memory, none ever share a pass.

    Every second row gets another input, then the others do, and every second row is struck at all ``sites``, then the
    others are; the rows left alone must come out as they do beside those first ones, bit for bit. Struck values have
    the top bit of their exponent flipped, which makes many of them infinite or NaN, or else are large and finite: what
    is blind to the one sees the other.
    """
    images = exam.batch([number % exam.size for number in range(rows)])
    try:
        began = monotonic()
        healthy = exam.read(model(images))
        limit = None if watchdog is None else watchdog.seconds(monotonic() - began)
        batch = _Batch(model, exam, images, sites, limit)
        if any(_leaks(healthy, batch.beside_others(first), 1 - first) for first in (0, 1)):
            return True
        tries = [(first, strike) for first in (0, 1) for strike in (_flipped, _large)]
        return any(_leaks(healthy, batch.beside(range(first, rows, 2), strike), 1 - first) for first, strike in tries)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    return rows > 2 and are_mixed(model, exam, sites, watchdog, rows // 2)


@dataclass(frozen=True)
class _Batch:
    model: nn.Module
    exam: Exam
    images: Tensor
    sites: Sequence[Site]
    limit: float | None

    def beside_others(self, first: int) -> Tensor | None:
        """Return the output where every second row from ``first`` on has its neighbour's input, numbers scaled up."""
        images = self.images.clone()
        others = self.images.roll(1, 0)[first::2]
        images[first::2] = others * _LOUDER if others.is_floating_point() else others
        return self._answer(images, {})

    def beside(self, struck: Sequence[int], strike: Strike) -> Tensor | None:
        """Return the output where rows ``struck`` are struck; None for a pass that breaks or does not end."""
        return self._answer(self.images, {site: _at(site, struck, strike) for site in self.sites})

    def _answer(self, images: Tensor, taps: dict[Site, Callable[[Tensor], Tensor]]) -> Tensor | None:
        try:
            with deadline(self.limit), tap_sites(self.model, taps):
                return self.exam.read(self.model(images))
        except (Exception, Hang) as error:  # trials that break a shared pass run alone anyway
            if is_out_of_memory(error):
                raise
        return None


def _leaks(healthy: Tensor, beside: Tensor | None, first: int) -> bool:
    """Say whether every second row from ``first`` on is another one than it was beside healthy rows."""
    if beside is None:
        return False
    return beside.shape != healthy.shape or not bits.bit_equal(beside[first::2], healthy[first::2])


def _at(site: Site, struck: Sequence[int], strike: Strike) -> Callable[[Tensor], Tensor]:
    index = torch.linspace(0, site.numel - 1, min(site.numel, _ELEMENTS), dtype=torch.float64).long()
    flips = Flips.joined([strike(site, index)] * len(struck))
    return lambda output: flip_rows(output, torch.tensor(struck).repeat_interleave(len(index)), flips)


def _flipped(site: Site, index: Tensor) -> Flips:
    position = bit_classes(site.format, site.bits).index("exponent-high")
    return Flips(site, index, torch.full_like(index, 1 << position))


def _large(site: Site, index: Tensor) -> Flips:
    code = int(formats.build(site.format).encode(torch.tensor([_LARGE])).codes)
    rise = torch.full_like(index, code)
    return Flips(site, index, torch.zeros_like(index), rise=rise, fall=rise ^ ((1 << (site.bits - 1)) - 1))
