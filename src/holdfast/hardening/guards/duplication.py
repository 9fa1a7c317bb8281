"""Selective duplication: the operations that a budget allows are computed twice, and a third time where they differ.

The same kernel on the same operands gives the same bits, so any difference is a fault, and two of three results
outvote it. A fault in a weight is in all three; checksums and codes are for those.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig, NoSuchSite
from holdfast.execution import CampaignReport
from holdfast.execution.trials import Row
from holdfast.hardening.budget import Bound, Selection, Timer, macs, seconds, select_within, site_of
from holdfast.hardening.guards.checksum_method import example_of
from holdfast.hardening.guards.duplication_channels import ChannelGuard, channel_of, has_channels
from holdfast.hardening.guards.median_of_three import median_of_three
from holdfast.hardening.harden import methods
from holdfast.models import select
from holdfast.models.guard import Operands, guards
from holdfast.numerics import bits

Per = Literal["site", "channel"]
_MARK = "@"  # between a site and its channel in a selection


@guards.register("duplicate")
class DuplicateGuard:
    """Computes one site twice on every pass, and compares bits.

    Args:
        site: a leaf module or functional operation with one output, not in place.

    Attributes:
        events: int64, shape (batch,): elements that the second and third result outvoted.
        alarms: int64, shape (batch,): elements on which no two of the three agree; the middle one goes on.
    """

    kind = "duplicate"
    operands = True

    def __init__(self, site: str) -> None:
        self.site = site
        self.events: Tensor | None = None
        self.alarms: Tensor | None = None

    def __call__(self, output: Tensor, operands: Operands) -> Tensor:
        """Return the output (batch, ...), voted on where a second computation differs.

        Raises:
            InvalidConfig: the operation works in place or returns several tensors, so it cannot be repeated.
        """
        second = self._again(output, operands)
        if bits.bit_equal(output.contiguous(), second.contiguous()):
            self.events = self.alarms = torch.zeros(len(output), dtype=torch.int64)
            return output
        result, split = median_of_three(output, second, self._again(output, operands))
        changed = bits.int_view(output.contiguous()) != bits.int_view(result.contiguous())
        self.events, self.alarms = ((mask.reshape(len(output), -1)).sum(1) for mask in (changed & ~split, split))
        return result if output.requires_grad else output.copy_(result)

    def _again(self, output: Tensor, operands: Operands) -> Tensor:
        in_place = getattr(operands.call, "inplace", False) or any(item is output for item in operands.args)
        second = None if in_place else operands.again()
        if not isinstance(second, Tensor):
            raise InvalidConfig(f"{self.site} works in place or returns several tensors", hint="leave it out with at=")
        return second

    def to_json(self) -> dict[str, Any]:
        """Return kind and site."""
        return {"kind": self.kind, "site": self.site}


@dataclass(frozen=True, slots=True)
class Duplication:
    """Duplication of the sites of a selection.

    Attributes:
        selection: from :func:`holdfast.hardening.budget.select_within`, or :meth:`within`.
    """

    selection: Selection

    @classmethod
    def within(
        cls,
        model: nn.Module,
        report: CampaignReport,
        *,
        budget: float,
        example: Tensor,
        bound: Bound = "low",
        timer: Timer | None = None,
        per: Per = "site",
    ) -> Duplication:
        """Return the duplication that spares most of the failures that ``report`` saw, for at most ``budget``.

        Args:
            model: unprotected.
            report: of a campaign on ``activations`` of this model.
            budget: share of one forward pass.
            example: one sample.
            bound: which end of the interval of a site's failures counts.
            timer: measure costs with it, ``time.process_time`` for example; None counts multiply-accumulates.
            per: ``site``, or ``channel`` of linear layers and convolutions; a campaign that is to tell channels apart
                has to be larger.
        """
        costs = macs(model, example) if timer is None else seconds(model, example, timer)
        repeatable = {site: cost for site, cost in costs.items() if _repeatable(model, site)}
        if per == "site":
            return cls(select_within(report, repeatable, budget, bound=bound))
        shares, place = _channels(model, repeatable, example)
        return cls(select_within(report, shares, budget, bound=bound, place=place))

    def guards(self, model: nn.Module) -> Sequence[DuplicateGuard | ChannelGuard]:
        """Return one guard per selected site, or per site with selected channels.

        Raises:
            NoSuchSite: nothing fits the budget.
        """
        if not self.selection.sites:
            raise NoSuchSite("no vulnerable site is cheap enough to compute twice", hint="allow a larger budget")
        whole = [DuplicateGuard(site) for site in self.selection.sites if _MARK not in site]
        some: dict[str, list[int]] = {}
        for site, _, channel in (name.rpartition(_MARK) for name in self.selection.sites if _MARK in name):
            some.setdefault(site, []).append(int(channel))
        return [*whole, *(ChannelGuard(site, channels) for site, channels in some.items())]

    def describe(self) -> dict[str, Any]:
        """Return the sites, their cost and what they cover."""
        found = self.selection.coverage
        return {
            "method": "duplicate",
            "sites": list(self.selection.sites),
            "cost": self.selection.cost,
            "coverage": [found.value, found.low, found.high],
        }


def _repeatable(model: nn.Module, site: str) -> bool:
    """Say whether a site is a single output of something that does not work in place, as far as its name tells."""
    module = dict(model.named_modules()).get(site.partition("#")[0])
    return "." not in site.partition("#")[2] and not getattr(module, "inplace", False)


def _channels(
    model: nn.Module, costs: Mapping[str, float], example: Tensor
) -> tuple[dict[str, float], Callable[[Row], str]]:
    """Return the cost of each channel of layers that have some, and the channel that a trial's fault struck."""
    modules = {site: layer for site, layer in model.named_modules() if site in costs and has_channels(layer)}
    flowing = {site.name: site for site in select(model, "activations:**", example)}
    shares = {
        f"{site}{_MARK}{channel}": costs[site] / len(layer.get_parameter("weight"))
        for site, layer in modules.items()
        for channel in range(len(layer.get_parameter("weight")))
    }

    def place(row: Row) -> str:
        site = site_of(row)
        if site not in modules:
            return site
        return f"{site}{_MARK}{channel_of(modules[site], flowing[site], row.element)}"

    return shares, place


@methods.register("duplicate")
@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateMethod:
    """Duplication within ``budget``, chosen by a campaign kept in the file ``campaign`` under ``name``, or first."""

    campaign: str
    name: str | None = None
    budget: float = 0.03
    bound: Bound = "low"
    cost: Literal["macs", "seconds"] = "macs"
    per: Per = "site"

    def calibrated(self, model: nn.Module, data: Dataset | None) -> Duplication:
        """Return the selection for ``model``; ``data`` gives an input to count or time operations on.

        Raises:
            InvalidConfig: neither data nor a model that knows its input, or no such campaign.
        """
        report, timer = CampaignReport.load(self.campaign, self.name), time.process_time
        return Duplication.within(
            model,
            report,
            budget=self.budget,
            example=example_of(model, data),
            bound=self.bound,
            timer=timer if self.cost == "seconds" else None,
            per=self.per,
        )
