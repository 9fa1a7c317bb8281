"""What to protect within a budget: the sites whose protection spares most failures for the cost that a user allows.

A knapsack (HarDNN: Mahmoud et al., 2020, choose feature maps by vulnerability; here the cost counts as well). The gain
of a site is the share of all trials of a campaign that failed because of a fault there, and of that the lower end of
its interval, so that one lucky hit does not buy a layer. Sites are chosen by one half of the trials, those of even
number, and what the choice covers is estimated on the other half: chosen and judged by the same trials it would look
better than it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.execution import CampaignReport, Proportion
from holdfast.execution.report import FAILURES
from holdfast.execution.trials import Row
from holdfast.models.guard import without_guards
from holdfast.models.subject import evaluating
from holdfast.models.tap import Watch

Bound = Literal["low", "value", "high"]
_STEPS = 20_000  # parts that the budget is cut into; costs are rounded up, so the budget holds


@dataclass(frozen=True, slots=True)
class Candidate:
    """A site that could be protected.

    Attributes:
        site: its name.
        cost: what protecting it costs, as a share of one forward pass.
        gain: share of all trials that failed by a fault there, with its interval.
    """

    site: str
    cost: float
    gain: Proportion


@dataclass(frozen=True, slots=True)
class Selection:
    """Sites to protect.

    Attributes:
        sites: their names, in the order of the candidates.
        cost: their cost together, as a share of one forward pass; at most the budget.
        coverage: share of failures that began at these sites, among trials that the choice did not see.
    """

    sites: tuple[str, ...]
    cost: float
    coverage: Proportion


Place = Callable[[Row], str]


def site_of(row: Row) -> str:
    """Return the name of the site where a trial's fault struck."""
    return row.site.removeprefix("activations:")


def select_within(
    report: CampaignReport, costs: Mapping[str, float], budget: float, *, bound: Bound = "low", place: Place = site_of
) -> Selection:
    """Return the ``activations`` sites whose protection spares most failures for at most ``budget``.

    Args:
        report: of a campaign on the unprotected model.
        costs: site -> cost of protecting it, as a share of one forward pass; other sites cannot be protected.
        budget: share of one forward pass, such as 0.03.
        bound: which end of the interval counts as a site's gain.
        place: what a trial's fault struck, by the names in ``costs``.

    Raises:
        InvalidConfig: a budget that is not positive, no trial at a site with a cost, or an unknown bound.
    """
    if not budget > 0 or bound not in get_args(Bound):
        raise InvalidConfig(f"no selection within {budget} by {bound!r}", hint="a budget of 0.03 is 3 % more time")
    found = candidates(report, costs, half=0, place=place)
    gains = [getattr(item.gain, bound) if item.gain.successes or bound == "high" else 0.0 for item in found]
    chosen = knapsack([item.cost for item in found], gains, budget)
    sites = tuple(found[number].site for number in chosen)
    failed = _failures(report, half=1, place=place)
    covered = sum(failed[site] for site in sites)
    coverage = Proportion.clopper_pearson(covered, sum(failed.values()), report.confidence)
    return Selection(sites, sum(costs[site] for site in sites), coverage)


def candidates(
    report: CampaignReport, costs: Mapping[str, float], *, half: int | None = None, place: Place = site_of
) -> list[Candidate]:
    """Return the sites with a cost at which faults were injected; ``half`` 0 or 1 takes every other trial.

    Raises:
        InvalidConfig: there are none.
    """
    failed = _failures(report, half=half, place=place)
    rows = [row for row in report.rows if half is None or row.trial % 2 == half]
    seen = {place(row) for row in rows}
    result = [
        Candidate(site, costs[site], Proportion.clopper_pearson(failed[site], len(rows), report.confidence))
        for site in sorted(seen & costs.keys())
    ]
    if not result:
        raise InvalidConfig("the campaign struck no site that can be protected", hint="run it at=activations")
    return result


def _failures(report: CampaignReport, *, half: int | None, place: Place) -> Counter[str]:
    return Counter(
        place(row) for row in report.rows if row.outcome in FAILURES and (half is None or row.trial % 2 == half)
    )


def knapsack(costs: Sequence[float], gains: Sequence[float], budget: float) -> list[int]:
    """Return which items, ascending, gain most for at most ``budget``; items without gain are left out.

    Exact for costs that are multiples of a 20,000th of the budget; others are rounded up to the next.
    """
    steps = [int(np.ceil(cost / budget * _STEPS - 1e-9)) for cost in costs]
    best = np.zeros(_STEPS + 1)
    taken = np.zeros((len(costs), _STEPS + 1), np.bool_)
    for number, (step, gain) in enumerate(zip(steps, gains, strict=True)):
        if gain > 0 and step <= _STEPS:
            with_it = np.full(_STEPS + 1, -np.inf)
            with_it[step:] = best[: _STEPS + 1 - step] + gain
            taken[number] = with_it > best
            best = np.maximum(best, with_it)
    left, chosen = _STEPS, []
    for number in reversed(range(len(costs))):
        if taken[number, left]:
            chosen.append(number)
            left -= steps[number]
    return chosen[::-1]


def macs(model: nn.Module, example: Tensor) -> dict[str, float]:
    """Return what computing each site once more costs, as a share of the multiply-accumulates of one forward pass.

    A linear layer or convolution costs its products, a product of two matrices as well, anything else one for each
    element that it writes; so does the comparison with the first result.
    """
    modules, work, written = dict(model.named_modules()), {}, {}

    def visit(name: str, output: Tensor) -> Tensor:
        written[name] = output.numel()
        work[name] = output.numel() * _terms(modules.get(name.partition("#")[0]))
        return output

    with evaluating(model), torch.no_grad(), without_guards(model), Watch(model, visit):
        model(example.unsqueeze(0))
    total = sum(work.values())
    return {name: (work[name] + written[name]) / total for name in work}


def _terms(module: nn.Module | None) -> int:
    """Return how many products one output element of ``module`` sums."""
    weight: object = None if module is None else module._parameters.get("weight")
    if isinstance(weight, Tensor) and weight.dim() > 1:
        return weight[0].numel()
    return 1


Timer = Callable[[], float]


def seconds(model: nn.Module, example: Tensor, timer: Timer, *, repeats: int = 5) -> dict[str, float]:
    """Return what computing each leaf module once more costs, as the share of one forward pass that it took.

    Args:
        model: run on one sample; functional operations are not timed, and so have no cost here.
        example: one sample, without the batch dimension.
        timer: such as ``time.process_time``.
        repeats: the median of so many passes counts.
    """
    modules = {path: module for path, module in model.named_modules() if path and not list(module.children())}
    spent: dict[str, list[float]] = {path: [] for path in modules}
    handles, begun, whole = [], dict.fromkeys(modules, 0.0), []
    for path, module in modules.items():
        handles.append(module.register_forward_pre_hook(lambda *_, path=path: begun.__setitem__(path, timer())))
        handles.append(module.register_forward_hook(lambda *_, path=path: spent[path].append(timer() - begun[path])))
    try:
        with evaluating(model), torch.no_grad(), without_guards(model):
            for _ in range(repeats):
                start = timer()
                model(example.unsqueeze(0))
                whole.append(timer() - start)
    finally:
        for handle in handles:
            handle.remove()
    total = float(np.median(whole))
    return {path: float(np.median(times)) / max(total, 1e-12) for path, times in spent.items() if times}
