"""Plans that stop by themselves: coverage under many seeds, allocation, schedules, and what a design remembers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from holdfast.execution.planner import Course, apportion, rounds
from holdfast.execution.planner_design import EVERYTHING, Design, Part
from holdfast.execution.report_estimates import Estimates
from holdfast.execution.strata_profile import Share, profile_interval
from holdfast.execution.trials import Row

CLASSES = {"sign": (31, 0.01), "exponent-high": (30, 0.9), "exponent-low": (29, 0.02), "mantissa": (0, 0.0)}
MASSES = {"sign": 1 / 32, "exponent-high": 1 / 32, "exponent-low": 7 / 32, "mantissa": 23 / 32}
TRUTH = math.fsum(MASSES[name] * CLASSES[name][1] for name in CLASSES)


def design(margin: float | None, layers: int = 2, **options: object) -> Design:
    parts = tuple(
        Part(
            f"weights:{layer} / {name}",
            MASSES[name] / layers,
            None,
            ((f"weights:{layer}", (bit,), MASSES[name] / layers),),
        )
        for layer in range(layers)
        for name, (bit, _) in CLASSES.items()
    )
    return Design(parts, first=32, margin=margin, **({"budget": 10**6} | options))  # type: ignore[arg-type]


def play(plan: Design, seed: int) -> tuple[Course, list[Row]]:
    """Run a whole campaign on coins."""
    generator, course, rows = np.random.default_rng(seed), Course(plan), list[Row]()
    while any(counts := course.allocation()):
        wave: list[Row] = []
        for part, count in zip(plan.parts, counts, strict=True):
            (site, (bit,), _) = part.cells[0] if part.cells else ("", (0,), 1.0)
            share = dict(CLASSES.values())[bit] if part.cells else TRUTH
            for failed in generator.random(count) < share:
                outcome = "critical" if failed else "masked"
                wave.append(Row(len(rows) + len(wave), site, 0, bit, 0, outcome, None, None, 0))
        course.take(wave)
        rows += wave
    return course, rows


@pytest.mark.parametrize(("margin", "relative"), [(0.02, False), (0.3, True)])
def test_the_interval_at_the_stop_covers(margin: float, relative: bool) -> None:
    """120 campaigns at 90 % that stop as soon as they may: at most 10 % of their intervals miss the truth."""
    misses, runs = 0, 120
    for seed in range(runs):
        course, _ = play(replace(design(margin), relative=relative, confidence=0.9), seed)
        found = course.estimate
        assert course.stopped == "margin reached"
        assert found.width / 2 <= margin * (found.value if relative else 1.0)
        misses += not found.low <= TRUTH <= found.high
    assert misses / runs < 0.1 + 3 * math.sqrt(0.09 / runs)


def test_strata_stop_with_a_fifth_of_the_trials() -> None:
    stratified, _ = play(design(0.002), 1)
    simple, _ = play(Design((EVERYTHING,), 32, 10**6, margin=0.002), 1)
    assert simple.trials > 5 * stratified.trials


def test_trials_go_where_the_spread_is() -> None:
    course, rows = play(design(0.004), 0)
    drawn = dict.fromkeys(CLASSES, 0)
    for row in rows:
        drawn[next(name for name, (bit, _) in CLASSES.items() if bit == row.bit)] += 1
    assert drawn["exponent-high"] / len(rows) > 3 * MASSES["exponent-high"]
    assert drawn["mantissa"] > 0.2 * len(rows)  # what never failed yet may still fail: it keeps a share
    assert course.estimate.value == pytest.approx(TRUTH, abs=0.004)


def test_nothing_failing_is_no_certainty_and_a_relative_margin_then_spends_its_trials() -> None:
    plan = replace(design(0.1, budget=600), relative=True)
    course = Course(plan)
    number = 0
    while any(counts := course.allocation()):
        wave = []
        for part, count in zip(plan.parts, counts, strict=True):
            site, (bit,), _ = part.cells[0]
            wave += [Row(number + k, site, 0, bit, 0, "masked", None, None, 0) for k in range(count)]
            number += count
        course.take(wave)
    assert course.stopped == "trials spent"
    assert course.trials == 600
    assert (course.estimate.value, course.estimate.low) == (0.0, 0.0)
    assert 3 / 600 < course.estimate.high < 30 / 600


def test_what_a_round_runs_follows_from_the_rows_before_it() -> None:
    plan = design(0.005)
    course, rows = play(plan, 3)
    again = Course(Design.from_json(json.loads(json.dumps(plan.to_json()))))
    for own in rounds(plan, rows):
        counts = again.allocation()
        drawn = np.bincount([plan.place(row) for row in own], minlength=len(counts))
        assert drawn.tolist() == counts
        again.take(reversed(own))  # whatever order an executor returns them in
    assert again.estimate == course.estimate
    assert rounds(plan, rows[:-1]) == rounds(plan, rows)[:-1]  # an interrupted round is in no estimate


def test_schedules_end_at_the_budget_and_leave_no_crumbs() -> None:
    for budget in (33, 64, 100, 1000, 12345):
        ends = list(design(None, budget=budget).ends())
        assert ends[-1] == budget
        assert all(later - earlier >= 16 for earlier, later in pairwise(ends))


def test_apportioning() -> None:
    assert apportion(np.array([1.0, 1.0, 2.0]), 8, [math.inf] * 3) == [2, 2, 4]
    assert apportion(np.array([0.0, 1.0]), 10, [math.inf] * 2) == [1, 9]
    assert apportion(np.array([5.0, 1.0]), 10, [3, math.inf]) == [3, 7]
    assert apportion(np.array([1.0, 1.0]), 10, [2, 3]) == [2, 3]
    assert apportion(np.array([1.0, 1.0, 1.0]), 10, [0, 100, 100]) == [0, 5, 5]
    generator = np.random.default_rng(0)
    for _ in range(50):
        left = generator.integers(1, 40, 7).tolist()
        given = apportion(generator.random(7), 60, left)
        assert sum(given) == min(60, sum(left))
        assert all(1 <= count <= room for count, room in zip(given, left, strict=True))


def test_the_profile_interval_covers_a_sum_of_shares() -> None:
    generator, misses, runs = np.random.default_rng(0), 0, 150
    masses, shares, n = (0.1, 0.6, 0.3), (0.8, 0.01, 0.1), (12, 25, 8)
    truth = sum(m * p for m, p in zip(masses, shares, strict=True))
    for _ in range(runs):
        seen = [Share(m, int(generator.binomial(k, p)), k) for m, p, k in zip(masses, shares, n, strict=True)]
        found = profile_interval(seen, 0.9)
        assert 0 <= found.low <= found.value <= found.high <= 1
        misses += not found.low <= truth <= found.high
    assert misses / runs < 0.1


def test_the_profile_interval_at_its_ends() -> None:
    assert (profile_interval([Share(1.0, 0, 0)]).low, profile_interval([Share(1.0, 0, 0)]).high) == (0.0, 1.0)
    nothing, all_ = profile_interval([Share(1.0, 0, 50)]), profile_interval([Share(1.0, 50, 50)])
    assert nothing.low == 0.0
    assert 0.03 < nothing.high < 0.2
    assert nothing.high == pytest.approx(1 - all_.low)
    half = profile_interval([Share(0.5, 2, 4, 4.0), Share(0.5, 0, 0)])
    assert (half.low, half.high) == (pytest.approx(0.25), pytest.approx(0.75))  # one half known, the other not at all
    told = profile_interval([Share(0.5, 2, 4), Share(0.5, 0, 0, likely=0.1)])
    assert told.value == pytest.approx(0.3)
    assert told.high > 0.75
    exact = profile_interval([Share(0.5, 2, 4, 4.0), Share(0.5, 0, 3, 3.0)])
    assert exact.low == exact.high == exact.value == 0.25


def mean_values(shares: dict[str, float], margin: float | None, budget: int, seeds: range) -> tuple[float, float]:
    """Return the mean of the values of many campaigns, and its standard error, in units of the true share."""
    truth = math.fsum(MASSES[name] * share for name, share in shares.items())
    values = []
    for seed in seeds:
        generator, course, number = np.random.default_rng([seed, budget]), Course(design(margin, budget=budget)), 0
        while any(counts := course.allocation()):
            wave: list[Row] = []
            for part, count in zip(course.design.parts, counts, strict=True):
                ((site, (bit,), _),) = part.cells
                share = shares[part.label.rpartition(" / ")[2]]
                for failed in generator.random(count) < share:
                    wave.append(Row(number, site, 0, bit, 0, "critical" if failed else "masked", None, None, 0))
                    number += 1
            course.take(wave)
        values.append(course.estimate.value / truth)
    return float(np.mean(values)), float(np.std(values)) / math.sqrt(len(values))


RARE = {"sign": 0.02, "exponent-high": 0.3, "exponent-low": 0.02, "mantissa": 0.01}


@pytest.mark.parametrize(("margin", "budget"), [(None, 400), (None, 1500), (0.01, 10**6)])
def test_the_value_is_right_on_average_although_failures_decide_what_is_tried_next(
    margin: float | None, budget: int
) -> None:
    """Strata that show no failure are hardly tried again: the pooled share of each would be 5 to 20 % too low here."""
    mean, error = mean_values(RARE, margin, budget, range(90))
    assert abs(mean - 1) < 3.5 * error + 0.01
    assert error < 0.04  # or the line above would say little


def test_what_trials_count_adds_up_to_the_value() -> None:
    """Weights of rows, summed over failures, are the estimate; over all rows they are one; also when all is tried."""
    for items, budget in ((None, 300), (40, 200), (40, 320)):
        plan = design(None, budget=budget)
        plan = replace(plan, parts=tuple(replace(part, items=items) for part in plan.parts))
        generator, course, rows = np.random.default_rng(5), Course(plan), list[Row]()
        while any(counts := course.allocation()):
            wave = [
                Row(0, part.cells[0][0], 0, part.cells[0][1][0], 0, ("masked", "due")[int(failed)], None, None, 0)
                for part, count in zip(plan.parts, counts, strict=True)
                for failed in generator.random(count) < 0.3
            ]
            wave = [replace(row, trial=len(rows) + k) for k, row in enumerate(wave)]
            course.take(wave)
            rows += wave
        weights = Estimates(plan, rows, 0.95).weights()
        failed = [weight for weight, row in zip(weights, rows, strict=True) if row.outcome == "due"]
        assert math.fsum(weights) == pytest.approx(1.0)
        assert math.fsum(failed) == pytest.approx(course.estimate.value)
