"""The plan of a campaign as sentences a reader can check the numbers against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.execution.planner_design import Design

_LISTED = "ListedFaults"  # of a stratification that a list of faults does not have


def plan_in_words(plan: Mapping[str, Any], design: Design) -> str:
    """Say what was drawn from which population, how, until when, and which interval follows."""
    drawn = [_law(plan), _strata(plan, design)]
    if _LISTED in str(plan.get("stratify")):
        drawn = ["The faults are those of a list: the shares are of its trials, and of no population."]
    said = [_population(plan, design), *drawn, _stop(design), _interval(design), _task(plan), _operators(plan)]
    said.append(_engine(plan))
    return " ".join(filter(None, said))


def _task(plan: Mapping[str, Any]) -> str:
    """Say what makes an answer critical, where it is not that another class wins."""
    task = dict(plan.get("task") or {})
    name = task.pop("name", "classification")
    if name == "language" or (name == "classification" and task.get("critical", "top-1") == "top-1"):
        return ""
    if task.get("critical") != "margin":
        task.pop("margin", None)
    return f"Task: {name}, {', '.join(f'{key} {value}' for key, value in task.items() if value is not None)}."


def _engine(plan: Mapping[str, Any]) -> str:
    if (computed := plan.get("computed")) is None:
        return ""
    how = {"hooks": "whole passes", "suffix": "suffix re-execution"}.get(str(computed), str(computed))
    said = f"Computed by {how}" + (f": {plan['computed_because']}." if "computed_because" in plan else ".")
    return said + (f" One trial a pass: {plan['rows_apart']}." if "rows_apart" in plan else "")


def _population(plan: Mapping[str, Any], design: Design) -> str:
    bits, sites, inputs = (plan.get(key) for key in ("population_bits", "sites", "inputs"))
    size = _counted(bits, "bit")
    if (chosen := _chosen(plan, design)) and chosen != bits:
        size = f"{chosen:,} of the {size}"
    return f"Population: {size} in {_counted(sites, 'site')}, with {_counted(inputs, 'input')}."


def _counted(count: object, thing: str) -> str:
    if not isinstance(count, int) or not count:
        return f"unknown {thing}s"
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def _chosen(plan: Mapping[str, Any], design: Design) -> int:
    """Return how many bits the strata hold: fewer than there are where only some positions may fail."""
    numel = {address: count for address, count, _ in plan.get("population", ())}
    cells = {(site, bit) for part in design.parts for site, positions, _ in part.cells for bit in positions}
    return sum(numel.get(site, 0) for site, _ in cells)


def _operators(plan: Mapping[str, Any]) -> str:
    told = str(plan.get("operators", ""))
    return f"{told[:1].upper()}{told[1:]}." if told else ""


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
        return f"{_counted(int(min(design.budget, design.cases)), 'trial')}."
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
