"""Whether counts vary more than a Poisson law allows, and runs of events that are one episode.

An interval from a Poisson count assumes that events come one by one at a steady rate. A corrupted weight that stays, a
moved beam or a restarted flux break that: events come in bursts, and their count says less than it seems to.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from holdfast.errors import InvalidConfig
from holdfast.seeds import derive

_ENOUGH = 5.0  # expected events in each part, from which on chi-square is close
_DRAWS = 20_000


@dataclass(frozen=True, slots=True)
class Dispersion:
    """Index of dispersion of counts around one common rate: 1 under Poisson, above it when events cluster.

    ``basis`` says what the counts were taken over: ``logs``, ``sessions`` of one arm, or the ``arms`` of one subject.
    """

    index: float
    parts: int
    p: float  # of an index this large or larger, under one Poisson rate
    basis: str


def dispersion(counts: Sequence[int], seconds: Sequence[float], *, basis: str, seed: int = 0) -> Dispersion:
    """Test whether ``counts`` over exposures ``seconds`` share one Poisson rate.

    Given their sum, they are then multinomial with the shares of the exposure; the statistic is Pearson's chi-square
    over its degrees of freedom (Fisher's variance test). Its p-value is chi-square's where every expected count is at
    least 5, and else from 20,000 multinomial draws under ``seed``, which cannot fall below 5e-5.

    Raises:
        InvalidConfig: fewer than two counts, or an exposure of zero.
    """
    if len(counts) != len(seconds) or len(counts) < 2 or not min(seconds) > 0:
        raise InvalidConfig("dispersion needs two counts or more, each over an exposure above zero")
    total, shares = sum(counts), np.array(seconds) / sum(seconds)
    freedom = len(counts) - 1
    if total == 0:
        return Dispersion(0.0, len(counts), 1.0, basis)
    expected = total * shares
    chi2 = float(((np.array(counts) - expected) ** 2 / expected).sum())
    if float(expected.min()) >= _ENOUGH:
        return Dispersion(chi2 / freedom, len(counts), float(stats.chi2.sf(chi2, freedom)), basis)
    draws = derive(seed, "dispersion").numpy().multinomial(total, shares, size=_DRAWS)
    reached = int(((((draws - expected) ** 2) / expected).sum(1) >= chi2 * (1 - 1e-12)).sum())
    return Dispersion(chi2 / freedom, len(counts), (1 + reached) / (1 + _DRAWS), basis)


def widened(value: float, events: int, index: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return an interval around a rate from over-dispersed counts: quasi-Poisson, on the logarithmic scale.

    The variance of the count is ``index`` times its mean (McCullagh & Nelder, 1989, section 6.2).

    Raises:
        InvalidConfig: no events, whose logarithm has no spread.
    """
    if events < 1:
        raise InvalidConfig("without events there is no spread to widen", hint="take the Poisson bound")
    half = float(stats.norm.ppf(0.5 + confidence / 2)) * math.sqrt(max(index, 1.0) / events)
    return value * math.exp(-half), value * math.exp(half)


@dataclass(frozen=True, slots=True)
class Event:
    """One corrupted iteration: when it was, and what the corruption looked like."""

    iteration: int
    signature: Hashable


def episodes(events: Sequence[Event], *, gap: int = 1) -> list[list[Event]]:
    """Group the events of one log, in order: repeats of one signature, and iterations at most ``gap`` apart, are one.

    A corruption that stays shows the same wrong numbers whenever the same input comes round; independent faults do not.
    """
    found: list[list[Event]] = []
    for event in events:
        if found and _belongs(event, found[-1], gap):
            found[-1].append(event)
        else:
            found.append([event])
    return found


def _belongs(event: Event, episode: Sequence[Event], gap: int) -> bool:
    near = 0 <= event.iteration - episode[-1].iteration <= gap
    return near or any(event.signature == earlier.signature for earlier in episode)
