"""The same trials under another sampling law: importance weights from the masses that the plan records."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from holdfast.errors import InvalidConfig
from holdfast.execution.planner_design import Design
from holdfast.execution.sampling import masses
from holdfast.models.site import Site

_FIRST = 32  # trials of the first round into which one sample is cut, so that later ones know the spread


def reweighted(plan: Mapping[str, Any], design: Design, law: str) -> dict[str, Any]:
    """Return ``plan`` with the trials weighted to ``law``.

    Raises:
        UnknownName: no such law; InvalidConfig: the law counts what was never drawn, or needs what was never counted.
    """
    if "population" not in plan:
        raise InvalidConfig("this campaign did not record its population", hint="run it again")
    if law == "mac-weighted" and not plan["macs"]:
        raise InvalidConfig("this campaign counted no multiply-accumulates", hint="run it with target='mac-weighted'")
    sites = [_site(address, numel, bits) for address, numel, bits in plan["population"]]
    drawn = dict(zip([s.address for s in sites], masses(sites, plan["sampling"], plan["macs"]), strict=True))
    wanted = dict(zip([s.address for s in sites], masses(sites, law, plan["macs"]), strict=True))
    if design.parts[0].cells:
        drawn, wanted = _within(design, {site.address: site.bits for site in sites}, wanted)
    ratios = ratios_of(drawn, wanted)
    first = min(_FIRST, design.first) if design.simple else design.first
    plain = law == plan["sampling"]
    fresh = replace(design, ratios={} if plain else ratios, first=design.first if plain else first)
    return dict(plan) | {"target": law, "design": fresh.to_json()}


def chances(plan: Mapping[str, Any]) -> dict[str, float]:
    """Return the chance of one bit of each site under the law that a campaign's shares are about.

    Of a plan that is older than populations, nothing is returned: it drew every bit alike.
    """
    sites = [_site(address, numel, bits) for address, numel, bits in plan.get("population", ())]
    if not sites:
        return {}
    law = plan.get("target", plan["sampling"])
    pairs = zip(sites, masses(sites, law, plan.get("macs")), strict=True)
    return {site.address: mass / site.population for site, mass in pairs if site.population}


def ratios_of(drawn: Mapping[str, float], wanted: Mapping[str, float]) -> dict[str, float]:
    """Return target over sampling probability of each site.

    Raises:
        InvalidConfig: a site counts under the target but is never drawn.
    """
    for site, mass in wanted.items():
        if mass and not drawn.get(site):
            raise InvalidConfig(f"{site} counts under the target law but is never drawn", hint="swap the two laws")
    return {site: wanted.get(site, 0.0) / mass for site, mass in drawn.items() if mass}


def _within(
    design: Design, widths: Mapping[str, int], wanted: Mapping[str, float]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return both laws over the bits that the strata hold, which may be some positions only."""
    drawn, kept = defaultdict[str, float](float), defaultdict[str, float](float)
    for part in design.parts:
        for site, positions, mass in part.cells:
            drawn[site] += mass
            kept[site] += len(positions) / widths[site]
    raw = {site: mass * kept[site] if site in kept else mass for site, mass in wanted.items()}  # refused if never drawn
    total = math.fsum(raw.values())
    return dict(drawn), {site: mass / total for site, mass in raw.items()}


def _site(address: str, numel: int, bits: int) -> Site:
    kind, _, name = address.partition(":")
    return Site(kind, name, (numel,), "", bits)
