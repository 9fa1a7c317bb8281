"""Shares drawn without replacement: the interval holds what it says, also near zero and near the last case."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from holdfast.errors import InvalidConfig
from holdfast.execution.finite_population import without_replacement
from holdfast.execution.planner_design import Design, Part
from holdfast.execution.report_estimates import Estimates
from holdfast.execution.statistics import Proportion


def coverage(items: int, n: int, known: dict[int, Proportion], failing: int) -> float:
    """Return the exact chance that the interval holds the share where ``failing`` of ``items`` cases fail."""
    seen = range(max(0, n - items + failing), min(n, failing) + 1)
    inside = [k for k in seen if known[k].low - 1e-12 <= failing / items <= known[k].high + 1e-12]
    return float(np.sum(stats.hypergeom.pmf(inside, items, failing, n)))


@pytest.mark.parametrize(("items", "n"), [(20, 10), (20, 18), (100, 50), (100, 80), (100, 95), (300, 240)])
def test_the_interval_of_a_report_covers_every_population(items: int, n: int) -> None:
    """Wilson's interval with a corrected number of trials holds 1 of 100 failing cases in 80 % of samples of 80."""
    cell = ("weights:w", (0,), 1.0)
    design = Design((Part("w / all bits", 1.0, items, (cell,)),), first=n, budget=n)

    def rows(failed: int) -> list[Any]:
        outcomes = ["critical"] * failed + ["masked"] * (n - failed)
        return [SimpleNamespace(trial=k, site="weights:w", bit=0, outcome=o) for k, o in enumerate(outcomes)]

    known = {k: Estimates(design, rows(k), 0.95).share("critical") for k in range(n + 1)}
    found = [coverage(items, n, known, failing) for failing in range(items + 1)]
    assert min(found) > 0.91
    assert np.mean(found) > 0.95


def test_small_parts_of_large_populations_are_as_independent_draws() -> None:
    found, wilson = without_replacement(50, 1000, 10**9), Proportion.wilson(50, 1000)
    assert found.low == pytest.approx(wilson.low, rel=0.05)
    assert found.high == pytest.approx(wilson.high, rel=0.05)
    assert without_replacement(0, 1000, 10**9).low == 0


def test_ends_and_refusals() -> None:
    assert without_replacement(3, 10, 10) == Proportion(0.3, 0.3, 0.3, 10, 3)
    assert without_replacement(0, 9, 10).high == pytest.approx(0.1)
    assert without_replacement(0, 0, 10) == Proportion(0.0, 0.0, 1.0, 0, 0)
    with pytest.raises(InvalidConfig):
        without_replacement(3, 11, 10)
