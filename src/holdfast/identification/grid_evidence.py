"""Which format made these words: likelihoods for every candidate, an unknown class, and a confidence.

Every candidate is scored in nats relative to plain fp32. *unknown* is a universal code (Krichevsky-Trofimov) over
trailing zeros: it learns any habit of the low bits at a small price, so that words that fit no candidate well are not
pressed into the nearest one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln, logsumexp
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.identification.grid import CANNOT_TELL
from holdfast.identification.grid_formats import FLOAT_GRIDS, Flags, Values, lattice_step, micro_scaled

UNKNOWN_GRID = "unknown"
_STRAY = 1e-4  # share of words that may lie off the grid: struck, clipped or patched ones
_PLACES = range(1, 8)
_BITS = 24  # of an fp32 significand
_LEVELS = 255  # steps of an int8 tensor


@dataclass(frozen=True, slots=True)
class GridEvidence:
    """Formats that explain the values, and how surely.

    Attributes:
        formats: the smallest set of candidates that holds ``level`` of the probability, likeliest first.
        confidence: the probability of that set.
        posterior: probability of every candidate.
        log_likelihood: nats relative to fp32.
        words: values that counted.
    """

    formats: tuple[str, ...]
    confidence: float
    posterior: Mapping[str, float]
    log_likelihood: Mapping[str, float]
    words: int

    @property
    def dtype(self) -> str:
        """The one format left, ``one of {...}`` where several are, or ``cannot tell``."""
        plain = [name for name in self.formats if name in FLOAT_GRIDS or name in ("int8-dynamic", "mxint8")]
        if len(plain) < len(self.formats) or not plain or len(plain) > 3:
            return CANNOT_TELL
        return plain[0] if len(plain) == 1 else f"one of {{{', '.join(sorted(plain))}}}"


def grid_evidence(outputs: Tensor, *, prior: Mapping[str, float] | None = None, level: float = 0.99) -> GridEvidence:
    """Weigh the formats in which ``outputs`` may have been stored last.

    Args:
        outputs: float32, any shape; the last axis is the one along which MX blocks lie. Zeros and non-finite words say
            nothing and are left out.
        prior: weight of each candidate, 1 for those not named.
        level: probability that the reported set holds at least.

    Raises:
        InvalidConfig: not float32, or a level outside (0, 1).
    """
    if str(outputs.dtype) != "torch.float32" or not 0 < level < 1:
        raise InvalidConfig(f"the rules read float32 words at a level in (0, 1), not {outputs.dtype} at {level}")
    values = np.atleast_1d(outputs.detach().cpu().double().numpy())
    values = np.where(np.isfinite(values), values, 0.0)
    return weighed(_scores(values), int((values != 0).sum()), prior=prior, level=level)


def weighed(
    scores: Mapping[str, float], words: int, *, prior: Mapping[str, float] | None = None, level: float = 0.99
) -> GridEvidence:
    """Return the evidence that log likelihoods and prior weights make."""
    names = list(scores)
    weights = np.array([scores[name] + math.log((prior or {}).get(name, 1.0) or 1e-300) for name in names])
    posterior = dict(zip(names, np.exp(weights - logsumexp(weights)).tolist(), strict=True))
    ranked = sorted(names, key=lambda name: -posterior[name])
    mass = np.cumsum([posterior[name] for name in ranked])
    kept = min(int(np.searchsorted(mass, level)) + 1, len(ranked))
    return GridEvidence(tuple(ranked[:kept]), min(float(mass[kept - 1]), 1.0), posterior, dict(scores), words)


def _scores(values: Values) -> dict[str, float]:
    known = values != 0
    fine = FLOAT_GRIDS["fp32"].spacing(values)
    scores = {
        name: _score(grid.spacing(values) / fine, grid.holds(values), known) for name, grid in FLOAT_GRIDS.items()
    }
    spacing, on = micro_scaled(values)
    scores["mxint8"] = _score(spacing / fine, on, known)
    scores["int8-dynamic"] = _lattice_score(values[known], fine[known])
    for places in _PLACES:
        scores[f"{places} decimals"] = _decimal_score(values, fine, known, places)
    scores[UNKNOWN_GRID] = _universal(values[known], fine[known])
    return scores


def _score(ratio: Values, on: Flags, known: Flags) -> float:
    """Sum ln(share of words on the grid * its coarseness + strays) over words that are not zero."""
    terms = np.log(np.where(on, (1 - _STRAY) * np.maximum(ratio, 1.0), 0.0) + _STRAY)
    return float(terms[known].sum())


def _lattice_score(values: Values, fine: Values) -> float:
    """One step for the whole tensor, unknown: naming it costs the bits of one word."""
    if len(np.unique(values)) < 3 or len(np.unique(values)) > _LEVELS + 1:
        return len(values) * math.log(_STRAY)
    step = lattice_step(values, 2 * fine)
    if step is None or (values.max() - values.min()) / step > _LEVELS + 0.5:
        return len(values) * math.log(_STRAY)
    ratio = np.maximum(step / (4 * fine), 1.0)  # a window of four units: the product of step and integer rounds
    return float(np.log((1 - _STRAY) * ratio).sum()) - _BITS * math.log(2)


def _decimal_score(values: Values, fine: Values, known: Flags, places: int) -> float:
    decimal = np.rint(values * 10.0**places) / 10.0**places
    return _score(10.0**-places / fine, decimal.astype(np.float32) == values.astype(np.float32), known)


def _universal(values: Values, fine: Values) -> float:
    """Score the unknown class: a code that learns the distribution of trailing zeros as it goes."""
    if not len(values):
        return 0.0
    significands = np.rint(np.abs(values) / fine).astype(np.int64)
    zeros = np.log2((significands & -significands).astype(np.float64)).astype(np.int64)
    counts = np.bincount(zeros, minlength=_BITS)
    code = gammaln(_BITS / 2) - gammaln(len(zeros) + _BITS / 2) + (gammaln(counts + 0.5) - gammaln(0.5)).sum()
    # 2**(22 - t) of the 2**23 significands end in exactly t zeros, one in 23
    return float(code + np.log(2) * np.minimum(zeros + 1, _BITS - 1).sum())
