"""What an attacker reaches without gradients, at the same budget: the baseline that every search should beat."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from holdfast.errors import InvalidConfig
from holdfast.execution.condition import Flips
from holdfast.faults.adversarial.budget import Budget
from holdfast.faults.adversarial.changes import Place, flips_of
from holdfast.faults.adversarial.ledger import Ledger
from holdfast.faults.adversarial.protocol import attacks
from holdfast.faults.adversarial.victim import Victim
from holdfast.models.site import Site
from holdfast.seeds import Seed, derive

_SHUFFLED = 2**22  # so many bits are shuffled whole
_REDRAWN = 64  # times that rows are drawn before it is said that no rows hold so many bits


@attacks.register("random-bits")
@dataclass(frozen=True, slots=True, kw_only=True)
class RandomBits:
    """Exactly as many random bits as the budget allows, drawn ``restarts`` times; the worst draw stays."""

    restarts: int = 1
    msb: bool = False  # only the most significant bit of each code

    def __post_init__(self) -> None:
        if self.restarts < 1:
            raise InvalidConfig(f"random bits are drawn at least once, not {self.restarts} times")

    def search(self, victim: Victim, budget: Budget, seed: Seed) -> None:
        """Draw and leave the worst draw; of equal ones, the first.

        Raises:
            InvalidConfig: the attacked sites have fewer bits than the budget.
        """
        best, found = -math.inf, victim.flips
        for restart in range(self.restarts):
            victim.assign(draw_flips(victim, budget, derive(seed, "restart", restart), msb=self.msb))
            if (score := victim.score()) > best or not found:
                best, found = score, victim.flips
                victim.keep(score)
            victim.progress(restart + 1, self.restarts)
        victim.assign(found)


def draw_flips(victim: Victim, budget: Budget, seed: Seed, *, msb: bool = False, exact: bool = True) -> list[Flips]:
    """Return exactly ``budget.bits`` different random bits of the attacked sites, within the budget.

    Without further limits every such set is equally likely. With a limit of rows, the rows are drawn first, each in
    proportion to its attacked bits, and the bits within them; rows that hold too few are drawn again.

    Raises:
        InvalidConfig: there are fewer such bits, and ``exact`` does not make do with them.
    """
    generator, best = seed.numpy(), dict[Site, list[Place]]()
    for _ in range(1 if budget.rows is None else _REDRAWN):
        left, chosen = _drawn(victim, budget, generator, msb=msb)
        if left == 0:
            return [flips_of(site, places) for site, places in chosen.items()]
        best = max(best, chosen, key=lambda found: sum(map(len, found.values())))
    if exact:
        raise InvalidConfig(
            f"there are no {budget.bits} bits to flip within the budget", hint="ask for fewer, or select more sites"
        )
    return [flips_of(site, places) for site, places in best.items()]


def _drawn(
    victim: Victim, budget: Budget, generator: np.random.Generator, *, msb: bool
) -> tuple[int, dict[Site, list[Place]]]:
    """Return one draw by site, and how many bits it is short of the budget."""
    ledger, chosen = Ledger(budget, victim.memory), dict[Site, list[Place]]()
    for site, element, bit in _stream(victim, budget, generator):
        if (not msb or bit == site.bits - 1) and ledger.affords(site, element, bit):
            ledger.spend(site, [(element, bit)])
            chosen.setdefault(site, []).append((element, bit))
            if not ledger.bits_left:
                break
    return ledger.bits_left, chosen


def _stream(victim: Victim, budget: Budget, generator: np.random.Generator) -> Iterator[tuple[Site, int, int]]:
    """Yield attacked bits in random order, those of the drawn rows if rows are limited."""
    spans = list(_spans(victim, budget, generator))
    ends = np.cumsum([length for _, _, length in spans], dtype=np.int64)
    total = int(ends[-1]) if spans else 0
    for draw in _order(total, budget.bits, generator):
        number = int(np.searchsorted(ends, draw, side="right"))
        site, start, length = spans[number]
        yield site, *divmod(start + draw - (int(ends[number]) - length), site.bits)


def _spans(victim: Victim, budget: Budget, generator: np.random.Generator) -> Iterator[tuple[Site, int, int]]:
    """Yield (site, first bit within it, number of bits) of what may be flipped."""
    whole = [(site, 0, site.population) for site in victim.places if site.population]
    if budget.rows is None:
        yield from whole
        return
    row_bits, starts = victim.memory.row_bits, victim.memory.starts
    for row in _rows(victim, budget.rows, generator):
        for site, _, length in whole:
            first = max(row * row_bits - starts[site], 0)
            last = min((row + 1) * row_bits - starts[site], length)
            if last > first:
                yield site, first, last - first


def _rows(victim: Victim, count: int, generator: np.random.Generator) -> list[int]:
    """Return ``count`` different rows, or all there are: those of random attacked bits, as these come."""
    sites = [site for site in victim.places if site.population]
    row_bits, starts = victim.memory.row_bits, victim.memory.starts
    weight: dict[int, int] = {}
    for site in sites:
        first, end = starts[site], starts[site] + site.population
        for row in range(first // row_bits, -(-end // row_bits)):
            weight[row] = weight.get(row, 0) + min(end, (row + 1) * row_bits) - max(first, row * row_bits)
    share = np.array(list(weight.values()), np.float64)
    picked = generator.choice(len(weight), min(count, len(weight)), replace=False, p=share / share.sum())
    known = list(weight)
    return sorted(known[number] for number in picked.tolist())


def _order(total: int, wanted: int, generator: np.random.Generator) -> Iterator[int]:
    """Yield 0 .. total-1 in random order: each once, or, of very many, at random until far more than ``wanted``."""
    if total <= max(_SHUFFLED, 64 * wanted):
        yield from generator.permutation(total).tolist()
        return
    for _ in range(1024):  # the ledger refuses what comes twice; a bit of any width or weight is met 1,024 times over
        yield from generator.integers(total, size=max(64, wanted)).tolist()
