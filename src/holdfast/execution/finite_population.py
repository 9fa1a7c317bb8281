"""A share of a finite population from a sample without replacement.

Which of N cases fail is fixed; K of them do, and k of a sample of n show it. The interval holds every K that neither
tail of the hypergeometric law rules out, counting half of the observed k in each tail (mid-P, Lancaster, 1961). A
normal approximation with a corrected number of trials fails where it matters: of 100 cases of which one fails, samples
of 80 miss it in one of five, and it would then rule that one out.
"""

from __future__ import annotations

from collections.abc import Callable

from scipy import stats

from holdfast.errors import InvalidConfig
from holdfast.execution.statistics import Proportion, check_confidence


def without_replacement(failed: int, n: int, items: int, confidence: float = 0.95) -> Proportion:
    """Return the share of ``items`` cases that fail, of which ``failed`` of ``n`` were seen to.

    Raises:
        InvalidConfig: counts that no sample without replacement has.
    """
    check_confidence(confidence)
    if not 0 <= failed <= n <= items:
        raise InvalidConfig(f"{failed} of {n} is no sample of {items} cases")
    if not n:
        return Proportion(0.0, 0.0, 1.0, 0, 0)
    tail = (1 - confidence) / 2

    def above(failing: int) -> bool:
        return _tail(stats.hypergeom.sf, failed, items, failing, n) > tail

    def below(failing: int) -> bool:
        return _tail(stats.hypergeom.cdf, failed, items, failing, n) <= tail

    least, most = failed, items - (n - failed)
    low = _first(above, least, most)
    high = _first(below, least, most + 1) - 1
    value = failed / n
    return Proportion(value, min(low / items, value), max(high / items, value), n, failed)


def _tail(law: Callable[..., float], failed: int, items: int, failing: int, n: int) -> float:
    """Return the chance of less than ``failed`` (cdf) or more (sf), and half of that of ``failed`` itself."""
    half = float(stats.hypergeom.pmf(failed, items, failing, n)) / 2
    return float(law(failed, items, failing, n)) + (half if law == stats.hypergeom.sf else -half)


def _first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Return the first number from ``low`` on for which ``holds``, ``high`` if there is none before."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
