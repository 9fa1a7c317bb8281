"""Adversarial bit errors by projected gradient ascent (Stutz et al., TPAMI 2022)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.execution.condition import Flips
from holdfast.faults.adversarial.budget import Budget
from holdfast.faults.adversarial.normalisation import Norm, normalised
from holdfast.faults.adversarial.projection import (
    best_rows,
    code_distance,
    differing_bits,
    highest_bits,
    largest,
    split_by_size,
)
from holdfast.faults.adversarial.protocol import attacks
from holdfast.faults.adversarial.random_bits import draw_flips
from holdfast.faults.adversarial.victim import Victim
from holdfast.models.site import Site
from holdfast.models.stored import Stored
from holdfast.numerics import bits
from holdfast.seeds import Seed, derive

Keep = Literal["projection", "ascent"]
Rank = Literal["codes", "values"]


@attacks.register("projected-gradient")
@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectedGradient:
    """Ascent on float weights, projected to the budget's flips and one flip per weight after every step.

    With the gradient g at the faulty weights: v <- ``momentum`` * v + N(g); w~ <- w~ + ``step`` * v; quantise w~ in
    the frozen range; project its codes onto the Hamming ball around the stored ones; decode, and score. The best of
    all iterations and restarts stays. The first restart begins at the clean weights, the others at random bit errors.

    Floating-point weights are ranked by what their one flip does to their value, since differences of their codes
    mean nothing; a flip that gives no finite number is left out. Under a limit of rows, the rows with the largest sums
    of differences are chosen first.
    """

    iterations: int = 20  # T, per restart
    restarts: int = 1  # R
    step: float = 0.1  # of N(g)
    momentum: float = 0.9
    norm: Norm = "linf"  # N, with the two choices below
    per_layer: bool = False
    relative: bool = True  # a step is a share of the weights' own norm
    keep: Keep = "projection"  # w~ goes on from its projection, or from where it was
    rank: Rank = "values"  # whose differences decide which weights stay flipped; codes is the released projection

    def __post_init__(self) -> None:
        if min(self.iterations, self.restarts) < 1 or not self.step > 0 or not 0 <= self.momentum < 1:
            raise InvalidConfig("an ascent has iterations, restarts, a positive step and a momentum of 0 .. 1")
        for name, choices in (("norm", Norm), ("keep", Keep), ("rank", Rank)):
            if getattr(self, name) not in get_args(choices):
                raise InvalidConfig(f"{name} is one of {', '.join(get_args(choices))}, not {getattr(self, name)!r}")

    def search(self, victim: Victim, budget: Budget, seed: Seed) -> None:
        """Ascend ``restarts`` times and leave the worst flips seen."""
        best, found, done = -math.inf, victim.flips, 0
        for restart in range(self.restarts):
            ascent = _Ascent(self, victim, budget, derive(seed, "restart", restart) if restart else None)
            for score in ascent.run():
                if score > best:
                    best, found = score, victim.flips
                    victim.keep(score)
                done += 1
                victim.progress(done, self.restarts * (self.iterations + 1))
        victim.assign(found)


class _Ascent:
    """One restart: float weights that move, and the stored codes to which they are held."""

    def __init__(self, attack: ProjectedGradient, victim: Victim, budget: Budget, start: Seed | None) -> None:
        victim.restore()
        self._attack, self._victim, self._budget = attack, victim, budget
        if start is not None:
            most = int(start.numpy().integers(1, budget.bits + 1))
            limits = replace(budget, bits=most, one_per_weight=True)
            victim.assign(draw_flips(victim, limits, derive(start, "flips"), exact=False))
        self._weights = {site: place.tensor.detach().clone() for site, place in victim.places.items()}
        self._velocity = {site: torch.zeros_like(weight) for site, weight in self._weights.items()}

    def run(self) -> Iterator[float]:
        """Yield the score of every state, the first before any step; the victim holds that state."""
        for _ in range(self._attack.iterations):
            score, gradients = self._victim.gradients()
            yield score
            self._victim.restore()  # what is stored is the clean model from here until flips are assigned
            self._move(gradients)
            self._victim.assign(self._projected())
            if self._attack.keep == "projection":
                for site, place in self._victim.places.items():
                    self._weights[site].copy_(place.tensor.detach())
        yield self._victim.score()

    def _move(self, gradients: dict[Site, Tensor]) -> None:
        attack = self._attack
        clean = {site: place.tensor.detach() for site, place in self._victim.places.items()}
        steps = normalised(gradients, clean, attack.norm, per_layer=attack.per_layer, relative=attack.relative)
        for site, step in steps.items():
            velocity = self._velocity[site].mul_(attack.momentum).add_(step)
            self._weights[site].add_(velocity * attack.step)  # in two roundings, which are those of every device

    def _projected(self) -> list[Flips]:
        """Return the flips of the Hamming projection of the moved weights, over all sites together."""
        parts = self._moved()
        if not parts:
            return []
        masks = highest_bits(torch.cat([part.differing for part in parts]))
        sizes = [len(part.index) for part in parts]
        flips = [Flips(part.site, part.index, mask) for part, mask in zip(parts, masks.split(sizes), strict=True)]
        distance = torch.cat([self._distance(part, item.mask) for part, item in zip(parts, flips, strict=True)])
        if self._budget.rows is not None:
            rows = [self._victim.memory.rows(item.site, item.index, bits.popcount(item.mask - 1)) for item in flips]
            distance = torch.where(best_rows(distance, torch.cat(rows), self._budget.rows), distance, 0)
        kept = split_by_size(largest(distance, self._budget.bits).nonzero().view(-1), sizes)
        chosen = [(item, keep) for item, keep in zip(flips, kept, strict=True) if len(keep)]
        return [Flips(item.site, item.index[keep], item.mask[keep]) for item, keep in chosen]

    def _moved(self) -> list[_Moved]:
        """Return what is no longer where it is stored, of the sites that have any."""
        places = self._victim.places
        after = {site: codes.reshape(-1) for site, codes in self._victim.encoded(self._weights).items()}
        before = {site: places[site].codes.reshape(-1) for site in after}
        changed = torch.cat([after[site] != before[site] for site in after]).nonzero().view(-1)
        parts = zip(after, split_by_size(changed, [len(codes) for codes in after.values()]), strict=True)
        return [_Moved(site, index, before[site][index], after[site][index]) for site, index in parts if len(index)]

    def _distance(self, part: _Moved, mask: Tensor) -> Tensor:
        """Return how far each moved element went, float64 (n,); 0 for one whose flip would give no finite number."""
        place = self._victim.places[part.site]
        if _is_integer(place) and self._attack.rank == "codes":
            return code_distance(part.before, part.after).double()
        clean = place.tensor.detach().take(part.index).double()
        if _is_integer(place):
            return (self._weights[part.site].take(part.index).double() - clean).abs()
        distance = (self._victim.values_with(part.site, part.index, mask).double() - clean).abs()
        return torch.where(distance.isfinite(), distance, 0)


@dataclass(frozen=True)
class _Moved:
    """Elements of one site whose code changed: where they are, int64, and both codes; (n,) each."""

    site: Site
    index: Tensor
    before: Tensor
    after: Tensor

    @property
    def differing(self) -> Tensor:
        """The bits that changed, int64 (n,)."""
        return differing_bits(self.before, self.after, self.site.bits)


def _is_integer(place: Stored) -> bool:
    return place.lens is not None and "exponent" not in place.lens.format.fields()
