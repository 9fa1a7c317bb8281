"""The format of a language model's head from log-probabilities, whatever was subtracted, divided or added.

A log-probability is (z - log-sum) / T, so differences within one position are differences of logits over T. If logits
were stored in bf16 or fp16, some top logit z0 on that grid puts every z0 + T * difference on it too. z0 is integrated
out: the grid is finer in lower binades, so one position often fixes the magnitude, and with it tells 8 bits from 11.
Positions share the scale of their model, so magnitudes are integrated out together (``grid_magnitudes.py``).
Nothing is trained. Tokens whose logit was moved (a bias, a penalty) are strays of a mixture and are reported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.special import logsumexp

from holdfast.errors import InvalidConfig
from holdfast.identification.grid import CANNOT_TELL
from holdfast.identification.grid_evidence import GridEvidence, weighed
from holdfast.identification.grid_formats import FLOAT_GRIDS, Flags, FloatGrid, Values, lattice_step
from holdfast.identification.grid_magnitudes import UNUSUAL, Magnitudes
from holdfast.identification.grid_text import Rounding, is_known, rounding_of

_CANDIDATES = ("bf16", "fp16")
_STRAY = 0.02  # share of tokens whose logit something has moved
_COMMON = tuple(round(0.05 * k, 2) for k in range(1, 41))
_DIVIDED = 2.0**-16  # error that dividing two logits below 128 in fp32 leaves in their difference
_KEPT = 4  # temperatures that explain the first position best are tried on the others,
_HOPELESS = 60.0  # except such as fall this many nats behind
_UNIT = 0.5  # prior of temperature 1; the rest is shared by the others
_TRUTHFUL = 0.999  # prior of temperatures that one knows


@dataclass(frozen=True, slots=True)
class LogprobEvidence:
    """What log-probabilities tell about the head.

    Attributes:
        formats: evidence for fp32, fp16 and bf16.
        dtype: the format, ``one of {...}``, or ``cannot tell``.
        temperature: the likeliest divisor of the logits up to powers of two (logits twice as large in the next binade
            look the same), given in (0.5, 1]; None where no grid shows one.
        rounding: how the numbers were written.
        moved: (position, rank) of tokens off the grid of all others: biased or penalised.
    """

    formats: GridEvidence
    dtype: str
    temperature: float | None
    rounding: Rounding
    moved: tuple[tuple[int, int], ...]


def dtype_from_logprobs(
    positions: Sequence[Sequence[str | float]],
    *,
    temperatures: Sequence[float] = _COMMON,
    temperature: float | Sequence[float] | None = None,
    through_rounding: bool = False,
    level: float = 0.99,
    unusual: float = UNUSUAL,
) -> LogprobEvidence:
    """Tell the format of the logits behind one response.

    Args:
        positions: for each generated token the log-probabilities of its top tokens, as raw JSON text (rounding shows
            in it) or as floats.
        temperatures: divisors to try besides 1 and those that the gaps suggest; rounded numbers are taken for T = 1.
        temperature: what the server divided by as far as one knows, such as 1.0 (log-probabilities at temperature 0 are
            those of 1), or several such values; others count for one in a thousand, since servers are not all
            truthful.
        through_rounding: decide on rounded numbers too where the grid is coarser than the rounding; by default rounded
            numbers are ``cannot tell``.
        level: probability that the reported set of formats holds at least.
        unusual: share of heads, in (0, 1), whose top logits are not of the size that they have in language models.

    Raises:
        InvalidConfig: no position with two finite log-probabilities, positive ones, what is no number, a share outside
            (0, 1), or a temperature that divides nothing.
    """
    if not 0 < unusual < 1:
        raise InvalidConfig(f"a share of {unusual} is none between 0 and 1")
    known = _known(temperature)
    texts = [[item if isinstance(item, str) else repr(float(item)) for item in row] for row in positions]
    rounding = rounding_of([text for row in texts for text in row if is_known(text)])
    rows = [_Position.of([float(text) for text in row if is_known(text)], rounding) for row in texts]
    rows = [row for row in rows if len(row.gaps)]
    if not rows:
        raise InvalidConfig("no position has two finite log-probabilities", hint="ask the server for top log-probs")
    # rounding to decimals makes a lattice of its own, which some temperature would explain
    tried = () if rounding.rounded else (*temperatures, *_suggested(rows))
    best = {name: _over_temperatures(FLOAT_GRIDS[name], rows, tried, known, unusual) for name in _CANDIDATES}
    words = sum(len(row.gaps) for row in rows)
    evidence = weighed({"fp32": 0.0} | {name: score for name, (score, _) in best.items()}, words, level=level)
    shown = evidence.formats[0] if evidence.formats[0] != "fp32" else None
    divisor = best[shown][1] if shown else None
    moved = _moved(FLOAT_GRIDS[shown], rows, divisor, unusual) if shown and divisor else ()
    silent = rounding.rounded and not through_rounding
    octave = None if divisor is None else divisor * 2.0 ** -math.ceil(math.log2(divisor))
    return LogprobEvidence(evidence, CANNOT_TELL if silent else _named(evidence, rounding), octave, rounding, moved)


def _known(temperature: float | Sequence[float] | None) -> tuple[float, ...]:
    if temperature is None:
        return ()
    values = tuple(temperature) if isinstance(temperature, Sequence) else (float(temperature),)
    if not values or not all(0 < value < math.inf for value in values):
        raise InvalidConfig("logits are divided by a temperature above 0", hint="greedy log-probabilities have 1.0")
    return values


def _named(evidence: GridEvidence, rounding: Rounding) -> str:
    """Name the format; that rounded numbers show no grid does not make them fp32."""
    if "fp32" in evidence.formats and (rounding.rounded or len(evidence.formats) > 1):
        return CANNOT_TELL
    return evidence.dtype


@dataclass(frozen=True, slots=True)
class _Position:
    """Differences to a reference token, and what rounding may have done to each."""

    values: Values  # log-probabilities, descending
    error: Values  # largest error of each

    @staticmethod
    def of(values: Sequence[float], rounding: Rounding) -> _Position:
        found = np.array(values)
        if bool((found > 1e-3).any()):
            raise InvalidConfig("a log-probability is positive", hint="pass log-probabilities, not logits")
        found = -np.sort(-found)
        error = 2 * np.spacing(np.maximum(np.abs(found), 1.0).astype(np.float32)).astype(np.float64)
        return _Position(found, error + np.array([rounding.half_step(float(value)) for value in found]))

    def seen_from(self, reference: int) -> tuple[Values, Values]:
        """Return differences of all other tokens to one, and their slack."""
        others = np.arange(len(self.values)) != reference
        return (self.values - self.values[reference])[others], (self.error + self.error[reference])[others]

    @property
    def gaps(self) -> Values:
        return self.seen_from(0)[0] if len(self.values) > 1 else np.zeros(0)

    @property
    def slack(self) -> Values:
        return self.seen_from(0)[1]


def _over_temperatures(
    grid: FloatGrid, rows: Sequence[_Position], temperatures: Sequence[float], known: Sequence[float], unusual: float
) -> tuple[float, float]:
    """Return the log likelihood with the temperature integrated out, and the likeliest one."""
    expected, share = known or (1.0,), _TRUTHFUL if known else _UNIT
    divisors = sorted({value for value in temperatures if value > 0 and value not in expected})
    plain = [(value, math.log(share / len(expected))) for value in expected]
    others = _weighted([value for value in divisors if _on_finest(rows, value)], 1 - share)
    seen = {item: item[1] + _alone(grid, rows[0], item[0], unusual) for item in (*plain, *others)}
    near = [item for item in others if seen[item] > max(seen.values()) - _HOPELESS]
    tried = [*plain, *sorted(near, key=lambda item: -seen[item])[:_KEPT]]
    scores = [weight + _score(grid, rows, value, unusual) for value, weight in tried]
    return float(logsumexp(scores)), tried[int(np.argmax(scores))][0]


def _weighted(temperatures: Sequence[float], share: float) -> list[tuple[float, float]]:
    """Return temperatures with log prior weights: an octave from 1 is common, three are not."""
    return [(value, math.log(share / len(_COMMON)) - 0.5 * math.log2(value) ** 2) for value in temperatures]


def _suggested(rows: Sequence[_Position]) -> list[float]:
    """Temperatures that the common step of the first positions' gaps allows; a step fixes them up to powers of two."""
    for row in rows[:3]:
        step = lattice_step(row.gaps, row.slack)
        if step is not None:
            return [value for k in range(-14, 5) if 0.05 <= (value := 2.0**k / step) <= 2.5]
    return []


def _on_finest(rows: Sequence[_Position], temperature: float) -> bool:
    """Say whether the gaps of one position lie mostly on the finest grid that any candidate has."""
    step = 2.0**-13
    row = rows[0]
    gaps, slack = row.gaps * temperature, (row.slack + _DIVIDED) * temperature
    return bool((np.abs(gaps - np.rint(gaps / step) * step) <= slack).mean() >= 0.6)


_magnitudes = cache(Magnitudes)


def _score(grid: FloatGrid, rows: Sequence[_Position], temperature: float, unusual: float) -> float:
    """Integrate over the law of top logits that the positions share, and in each over the reference and its logit."""
    magnitudes = _magnitudes(grid.significant, unusual)
    return magnitudes.together([_row_scores(grid, magnitudes.tops, row, temperature) for row in rows])


def _alone(grid: FloatGrid, row: _Position, temperature: float, unusual: float) -> float:
    """Return the log likelihood of one position."""
    magnitudes = _magnitudes(grid.significant, unusual)
    return float(logsumexp(magnitudes.alone + _row_scores(grid, magnitudes.tops, row, temperature)))


def _row_scores(grid: FloatGrid, tops: Values, row: _Position, temperature: float) -> Values:
    """Return the log likelihood under every top logit; the top token may itself be moved, so the second counts too."""
    references = range(min(2, len(row.values)))
    scores = [_terms(grid, tops, row, reference, temperature)[0].sum(axis=1) for reference in references]
    return np.asarray(np.logaddexp.reduce(scores) - math.log(len(references)))


def _terms(grid: FloatGrid, tops: Values, row: _Position, reference: int, temperature: float) -> tuple[Values, Flags]:
    """Return ln(likelihood ratio to fp32) of every token under every top logit, and which tokens fit."""
    gaps, slack = row.seen_from(reference)
    logits = tops[:, None] + temperature * gaps[None, :]
    spacing = grid.spacing(np.where(logits == 0, 2.0**-20, logits))
    # the same window for every top logit: a narrower one for smaller logits would speak for them by itself
    window = temperature * (slack + (0.0 if temperature == 1 else _DIVIDED))[None, :]
    blind = spacing < 8 * window  # decimals and a grid of about their size agree too often by chance
    on = blind | (np.abs(logits - np.rint(logits / spacing) * spacing) <= window)
    ratio = np.where(blind, 1.0, spacing / (2 * window))
    return np.log(np.where(on, (1 - _STRAY) * ratio, 0.0) + _STRAY), on


def _moved(
    grid: FloatGrid, rows: Sequence[_Position], temperature: float, unusual: float
) -> tuple[tuple[int, int], ...]:
    """Return tokens off the grid under the best reference and top logit of their position."""
    magnitudes = _magnitudes(grid.significant, unusual)
    tops, prior = magnitudes.tops, magnitudes.alone
    found: list[tuple[int, int]] = []
    for position, row in enumerate(rows):
        best: tuple[float, list[int]] = (-math.inf, [])
        for reference in range(min(2, len(row.values))):
            terms, on = _terms(grid, tops, row, reference, temperature)
            place = int(np.argmax(prior + terms.sum(axis=1)))
            ranks = [rank for rank in range(len(row.values)) if rank != reference]
            off = [rank for rank, fits in zip(ranks, on[place], strict=True) if not fits]
            best = max(best, (float(prior[place] + terms[place].sum()), off))
        found.extend((position, rank) for rank in best[1])
    return tuple(found)
