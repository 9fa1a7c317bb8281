"""What an unfinished campaign says: blocks run site by site or input by input, so that what is done is no sample."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from holdfast.execution.planner_design import EVERYTHING, Design, Part
from holdfast.execution.report_estimates import Estimates
from holdfast.execution.statistics import Proportion


def row(trial: int, failed: bool) -> Any:
    site = "activations:a" if failed else "activations:b"
    outcome = "critical" if failed else "masked"
    return SimpleNamespace(trial=trial, site=site, bit=0, outcome=outcome)


PARTS = {
    "independent": EVERYTHING,
    "without replacement": Part(
        "w / all bits", 1.0, 10_000, (("activations:a", (0,), 0.5), ("activations:b", (0,), 0.5))
    ),
}


@pytest.mark.parametrize("part", PARTS.values(), ids=list(PARTS))
def test_half_a_campaign_that_ran_one_site_first_does_not_rule_the_other_out(part: Part) -> None:
    """Every fault in a fails and none in b: one half. The engine runs all of a first."""
    design = Design((part,), first=400, budget=400)
    first = [row(trial, failed=True) for trial in range(0, 400, 2)]
    share = Estimates(design, first, 0.95).share("critical")
    assert (share.n, share.successes) == (200, 200)
    assert share.low < 0.5 < share.high == 1.0
    everything = sorted(
        [*first, *(row(trial, failed=False) for trial in range(1, 400, 2))], key=lambda item: item.trial
    )
    assert 0.45 < Estimates(design, everything, 0.95).share("critical").low < 0.5


def test_trials_that_ran_in_order_are_a_sample_at_any_time() -> None:
    design = Design((EVERYTHING,), first=400, budget=400)
    rows = [row(trial, failed=trial % 4 == 0) for trial in range(100)]
    assert Estimates(design, rows, 0.95).share("critical") == Proportion.wilson(25, 100)
    del rows[7]  # another process is still at it
    share, whole = Estimates(design, rows, 0.95).share("critical"), Proportion.wilson(25, 100)
    assert whole.low == share.low <= share.value <= whole.high < share.high < whole.high + 0.02
