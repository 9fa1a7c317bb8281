"""The plan of a campaign as sentences a reader can check the numbers against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.execution.planner_design import Design


def plan_in_words(plan: Mapping[str, Any], design: Design) -> str:
    """Say what was drawn from which population, how, until when, and which interval follows."""
    return " ".join(
        [_population(plan), _law(plan), _strata(plan, design), _stop(design), _interval(design), _engine(plan)]
    ).strip()


def _engine(plan: Mapping[str, Any]) -> str:
    if (computed := plan.get("computed")) is None:
        return ""
    how = {"hooks": "whole passes", "suffix": "suffix re-execution"}.get(str(computed), str(computed))
    return f"Computed by {how}" + (f": {plan['computed_because']}." if "computed_because" in plan else ".")


def _population(plan: Mapping[str, Any]) -> str:
    bits, sites, inputs = (plan.get(key) for key in ("population_bits", "sites", "inputs"))
    size = f"{bits:,} bits" if isinstance(bits, int) else "unknown bits"
    return f"Population: {size} in {sites or 'unknown'} sites, with {inputs or 'unknown'} inputs."


def _law(plan: Mapping[str, Any]) -> str:
    drawn = str(plan.get("sampling", "bit-uniform"))
    target = str(plan.get("target", drawn))
    weightless = len(plan.get("without_weight", ()))
    apart = f" ({weightless} sites have no weight under it)" if weightless else ""
    if target == drawn:
        return f"Sampling law: {drawn}{apart}."
    return f"Sampling law: {drawn}{apart}, weighted to {target}."


def _strata(plan: Mapping[str, Any], design: Design) -> str:
    if design.exhaustive:
        return f"Every one of the {int(design.cases):,} cases is tried once."
    finite = sum(part.items is not None for part in design.parts)
    how = {0: "with replacement", len(design.parts): "without replacement"}.get(finite, "some without replacement")
    if len(design.parts) == 1:
        why = str(plan.get("stratify", "none"))
        reason = f" (stratification does not apply: {why[6:]})" if why.startswith("none: ") else ""
        return f"Simple random sampling, {how}{reason}."
    return (
        f"{len(design.parts)} strata ({plan.get('stratify')}), {how}; a pilot of {design.first} trials in proportion "
        "to their masses, then Neyman allocation."
    )


def _stop(design: Design) -> str:
    if design.exhaustive:
        return ""
    if design.margin is None:
        return f"{int(min(design.budget, design.cases)):,} trials."
    margin = f"{design.margin:.3g} of the share itself" if design.relative else f"{design.margin:.3g}"
    return f"Stops when the share of {design.of} is known to within {margin}, at most {design.budget:,} trials."


def _interval(design: Design) -> str:
    if design.exhaustive:
        return "The shares are exact."
    if design.simple and design.parts[0].items is not None:
        return f"Intervals: hypergeometric (mid-P), {design.confidence:.0%}."
    if design.simple:
        return f"Intervals: Wilson, {design.confidence:.0%}."
    return f"Intervals: {design.confidence:.0%} confidence sequence, valid whenever the campaign stops."
