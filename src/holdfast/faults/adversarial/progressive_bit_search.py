"""Progressive bit search, the bit-flip attack (Rakin, He and Fan, ICCV 2019).

Every iteration ranks bits inside each layer by the first-order gain of their flip, tries the best of each layer for
real, and commits those of the layer that suffers most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.faults.adversarial.budget import Budget
from holdfast.faults.adversarial.changes import Place, flips_of
from holdfast.faults.adversarial.ledger import Ledger
from holdfast.faults.adversarial.protocol import attacks
from holdfast.faults.adversarial.victim import Victim
from holdfast.models.site import Site
from holdfast.seeds import Seed

Ranking = list[tuple[Place, float]]  # bits and their gains, best first


@attacks.register("progressive-bit-search")
@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressiveBitSearch:
    """Greedy search for the flips that raise the score most, one bit at a time unless one bit raises nothing.

    In each layer the ``top`` weights of largest absolute gradient are candidates, and their bits are ranked by
    :func:`bit_gains`. If no layer's best bit raises the score, the best two of each layer are tried, and so on. A bit
    is flipped once and never back.
    """

    top: int | None = 10  # weights per layer, the paper's top-k; none ranks every bit of every weight
    shortlist: int | None = None  # try only so many layers, those of largest gain; the paper tries all

    def __post_init__(self) -> None:
        if any(value is not None and value < 1 for value in (self.top, self.shortlist)):
            raise InvalidConfig("a search looks at one weight and one layer at least", hint="top=10")

    def search(self, victim: Victim, budget: Budget, seed: Seed) -> None:
        """Flip bits until the budget is spent or no choice of bits raises the score; deterministic."""
        ledger = Ledger(budget, victim.memory)
        while ledger.bits_left:
            worst = self._worst_layer(victim, ledger)
            if worst is None:
                return
            site, places, score = worst
            victim.commit(flips_of(site, places))
            ledger.spend(site, places)
            victim.keep(score)
            victim.progress(budget.bits - ledger.bits_left, budget.bits)

    def _worst_layer(self, victim: Victim, ledger: Ledger) -> tuple[Site, list[Place], float] | None:
        """Return the site, the fewest bits that raise the score, and the highest score; None if nothing raises it."""
        now, gradients = victim.gradients()
        ranked = {site: self._ranked(victim, ledger, site, found) for site, found in gradients.items()}
        for count in range(1, ledger.bits_left + 1):
            offers = self._offers(ledger, ranked, count)
            if not offers:
                return None
            scores = []
            for site, places in offers:
                with victim.trying([flips_of(site, places)]):
                    scores.append(victim.score())
            if (best := max(scores)) > now:
                return *offers[scores.index(best)], best
        return None

    def _ranked(self, victim: Victim, ledger: Ledger, site: Site, gradient: Tensor) -> Ranking:
        """Return the bits of a site whose flip should raise the score, by falling gain."""
        slope = gradient.reshape(-1)
        index = self._candidates(ledger, site, slope)
        gain = bit_gains(victim, site, slope, index) * ledger.open(site, index)
        row, bit = (gain > 0).nonzero(as_tuple=True)
        order = gain[row, bit].sort(descending=True, stable=True).indices
        row, bit = row[order], bit[order]
        return list(zip(zip(index[row].tolist(), bit.tolist(), strict=True), gain[row, bit].tolist(), strict=True))

    def _candidates(self, ledger: Ledger, site: Site, slope: Tensor) -> Tensor:
        """Return the ``top`` elements of largest slope within reach, ascending."""
        within = ledger.reachable(site)
        reach = None if within is None else within.to(slope.device)
        size = slope.abs() if reach is None else slope[reach].abs()
        if ledger.budget.one_per_weight:
            spent = torch.tensor(ledger.spent(site), dtype=torch.int64, device=slope.device)
            size[spent if reach is None else torch.isin(reach, spent)] = 0
        place = size.topk(min(self.top or len(size), len(size))).indices
        chosen = place if reach is None else reach[place]
        return chosen.sort().values

    def _offers(self, ledger: Ledger, ranked: Mapping[Site, Ranking], count: int) -> list[tuple[Site, list[Place]]]:
        """Return what each site has to offer: its best ``count`` bits within the budget, if it has so many."""
        offers = []
        for site, ranking in ranked.items():
            places = ledger.choose(site, (place for place, _ in ranking), count)
            if len(places) == count:
                gains = dict(ranking)
                offers.append((sum(gains[place] for place in places), site, places))
        offers.sort(key=lambda offer: -offer[0])
        return [(site, places) for _, site, places in offers[: self.shortlist]]


def bit_gains(victim: Victim, site: Site, slope: Tensor, index: Tensor) -> Tensor:
    """Return the first-order gains of single flips, float64 (n, bits): dF/dw * (D(q xor 2^b) - D(q)).

    For two's complement this is the paper's bit gradient, whose sign bit weighs negative, times the direction of the
    flip; it holds for every other format too. A flip that gives no finite number gains nothing.

    Args:
        victim: holds the codes q and their decoder D.
        site: of the bits.
        slope: gradient of the score F at the decoded values, flat.
        index: int64 (n,), flat elements.
    """
    now = victim.places[site].tensor.detach().take(index).double().unsqueeze(1)
    flipped = victim.alternatives(site, index).double()
    gain = slope[index].double().unsqueeze(1) * (flipped - now)
    return torch.where(torch.isfinite(gain), gain, 0)
