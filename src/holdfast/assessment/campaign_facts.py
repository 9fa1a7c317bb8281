"""What the record of a campaign holds besides its shares: tables by place and bit, costs, and faults followed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from holdfast.data import Dataset, Text
from holdfast.errors import HoldfastError, InvalidConfig
from holdfast.execution import CampaignReport, FaultList, ListedTrial, propagation, recovered
from holdfast.execution.condition import Fault
from holdfast.execution.injection import population_of
from holdfast.execution.plan import Trial, draw_trial
from holdfast.execution.report import FAILURES
from holdfast.execution.sampling import masses
from holdfast.execution.sampling_draws import SingleBit
from holdfast.execution.sampling_macs import count_macs
from holdfast.execution.trials import Row
from holdfast.models import Site, select
from holdfast.numerics.formats import formats

_LONGEST = 400  # places of a trace; a longer one is not drawn


def facts_of(model: nn.Module, data: Dataset | Text, report: CampaignReport, *, traces: int) -> dict[str, Any]:
    """Return tables, the plan in words, costs and ``traces`` faults followed, in values that JSON can hold."""
    found: dict[str, Any] = {
        "table": report.digest,
        "plan": [report.words],
        "by_site": report.by_site(),
        "by_bit": {str(bit): list(counts) for bit, counts in report.by_bit().items()},
        "bit_fields": _fields(report),
        "heat": _heat(report),
    }
    if any(row.rerun is not None for row in report.rows):
        again = recovered(report.rows, report.confidence)
        found["rerun"] = {"transient": again.successes, "persistent": again.n - again.successes}
    if isinstance(data, Dataset):
        sites = select(model, str(report.plan["at"]), data.example)
        found["costs"] = _costs(model, data, report, sites)
        found["traces"] = list(_traces(model, data, report, sites, traces))
    return found


def _fields(report: CampaignReport) -> dict[str, str]:
    """Return the meaning of each bit where all sites share one number format."""
    names = {str(item) for item in report.plan.get("formats", ())}
    if len(names) != 1 or (name := names.pop()) not in formats.names():
        return {}
    return {str(bit): meaning for bit, meaning in enumerate(formats.build(name).fields())}


def _heat(report: CampaignReport) -> dict[str, dict[str, list[int]]]:
    """Return site -> bit -> (failures, trials) of single-bit faults, sites in the order of the population."""
    table: dict[str, dict[str, list[int]]] = {}
    for row in (row for row in report.rows if row.bit >= 0):
        counts = table.setdefault(row.site, {}).setdefault(str(row.bit), [0, 0])
        counts[0] += row.outcome in FAILURES
        counts[1] += 1
    order = {address: place for place, (address, *_) in enumerate(report.plan.get("population", ()))}
    return dict(sorted(table.items(), key=lambda item: order.get(item[0], len(order))))


def _costs(
    model: nn.Module, data: Dataset, report: CampaignReport, sites: tuple[Site, ...]
) -> dict[str, dict[str, float]]:
    """Return of each tried site its share of the arithmetic, and how likely a fault anywhere begins there and hurts."""
    try:
        macs = count_macs(model, data.example, sites)
    except InvalidConfig:  # integer products have kernels of their own, which torch does not count
        return {}
    if not macs:
        return {}
    kinds = Counter[str]()  # a product counts for its weights and for what flows out of it: for the model only once
    for address, count in macs.items():
        kinds[address.partition(":")[0]] += count
    total = max(kinds.values())
    mass = _masses(report, sites, macs)
    return {
        name: {
            "cost": macs.get(name, 0) / total,
            "share": mass[name] * share.value,
            "low": mass[name] * share.low,
            "high": mass[name] * share.high,
        }
        for name, share in report.site_shares().items()
        if name in mass
    }


def _masses(report: CampaignReport, sites: tuple[Site, ...], macs: Mapping[str, int]) -> dict[str, float]:
    law = str(report.plan.get("target", report.plan.get("sampling", "bit-uniform")))
    return dict(zip((site.address for site in sites), masses(sites, law, macs), strict=True))


def _traces(
    model: nn.Module, data: Dataset, report: CampaignReport, sites: tuple[Site, ...], count: int
) -> Iterator[dict[str, Any]]:
    """Follow the first failures of single bits at different places."""
    seen: set[str] = set()
    for row in (row for row in report.rows if row.bit >= 0 and row.outcome in FAILURES):
        if len(seen) == count:
            return
        if row.site in seen:
            continue
        seen.add(row.site)
        if steps := _followed(model, data, sites, row):
            title = f"Trial {row.trial}: {row.site}, element {row.element}, bit {row.bit}, input {row.input}: "
            yield {"trial": row.trial, "title": title + row.outcome, "steps": steps}


def _followed(model: nn.Module, data: Dataset, sites: tuple[Site, ...], row: Row) -> list[list[object]]:
    """Return place, changed share and largest difference of every place; none where the fault cannot be followed."""
    site = next(site for site in sites if site.address == row.site)
    try:
        trace = propagation.propagation(model, data, propagation.one_bit_trial(site, row))
    except (HoldfastError, RuntimeError, ValueError):  # a crash has no trace
        return []
    if len(trace) > _LONGEST:
        return []
    return [[step.place, step.changed, step.largest if math.isfinite(step.largest) else None] for step in trace]


def faults_of(model: nn.Module, data: Dataset, report: CampaignReport, fault: Fault) -> FaultList:
    """Return the trials of a campaign as a list that another campaign can meet: drawn again, and held against its rows.

    Raises:
        InvalidConfig: faults that the rows do not tell and that another law drew than that of the fault alone.
    """
    at, seed = str(report.plan["at"]), int(report.plan["seed"])
    population = population_of(model, at, data.example)
    sites = {site.address: site for site in population.sites}

    def again(row: Row) -> Trial:
        if isinstance(fault, SingleBit) and row.bit >= 0:
            return Trial(row.trial, (fault.place(sites[row.site], row.element, row.bit),), row.input)
        drawn = draw_trial(fault, population, len(data), row.trial, seed)
        if (*drawn.address, drawn.input) != (row.site, row.element, row.bit, row.input):
            hint = "write them with holdfast.execution.fault_list, or sample bit-uniform"
            raise InvalidConfig(f"trial {row.trial} cannot be drawn again from its number", hint=hint)
        return drawn

    about = {"at": at, "inputs": len(data), "model": report.plan["model"], "data": data.digest}
    about |= {"fault": report.plan["fault"], "seed": seed}
    return FaultList(tuple(ListedTrial(trial, (None,) * len(trial.flips)) for trial in map(again, report.rows)), about)
