"""Any trial of a campaign again, from its seed and number alone; and all of them written down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig
from holdfast.execution.condition import Fault, Flips, require_untimed
from holdfast.execution.fault_list import FaultList, ListedTrial
from holdfast.execution.injection import STORED, computed_alike, population_of, tap_sites
from holdfast.execution.plan import Trial, describe_fault, draw_trial
from holdfast.execution.run import one_thread
from holdfast.execution.trials import Row, TrialRunner
from holdfast.models import manifest_of, stored
from holdfast.models.outputs import logits_of
from holdfast.models.site import Site
from holdfast.models.subject import evaluating
from holdfast.numerics import bits


@dataclass(frozen=True)
class Replay:
    """One trial run again.

    Attributes:
        row: what became of it.
        listed: its input, its changes, and the values they met.
        golden: the output without the fault, (1, classes).
    """

    row: Row
    listed: ListedTrial
    golden: Tensor


def fault_list(
    model: nn.Module, data: Dataset, fault: Fault, *, at: str, trials: int, seed: int = 0, values: bool = True
) -> FaultList:
    """Return the trials that ``campaign`` draws with the same arguments, written out.

    Args:
        model: the model.
        data: images to draw from.
        fault: the law.
        at: selection of sites.
        trials: how many.
        seed: root of all draws.
        values: whether to look what the changed elements hold: memory is read, and what flows takes a forward pass
            of every trial's input alone.

    Raises:
        NoSuchSite: nothing matches ``at``.
        InvalidConfig: no trials or no images, or a law with a time.
    """
    require_untimed(fault, "a list of trials")
    if trials < 1 or not len(data):
        raise InvalidConfig("a list of faults takes one trial or more, and images")
    with one_thread(), evaluating(model), computed_alike(model, at), torch.no_grad():
        population = population_of(model, at, data.example)
        drawn = [draw_trial(fault, population, len(data), number, seed) for number in range(trials)]
        found = [_listed(model, data, trial, values) for trial in drawn]
    about = {
        "fault": describe_fault(fault),
        "seed": seed,
        "at": at,
        "inputs": len(data),
        "model": manifest_of(model).digest,
        "data": data.digest,
    }
    return FaultList(tuple(found), about)


def replay(model: nn.Module, data: Dataset, fault: Fault, *, at: str, trial: int, seed: int = 0) -> Replay:
    """Run trial number ``trial`` of a campaign again, alone, and look at the values it met.

    Raises:
        NoSuchSite: nothing matches ``at``.
        InvalidConfig: no such trial, or a law with a time.
    """
    require_untimed(fault, "a trial")
    if trial < 0 or not len(data):
        raise InvalidConfig("trials are numbered from 0, and meet an image")
    with one_thread(), evaluating(model), computed_alike(model, at), torch.no_grad():
        population = population_of(model, at, data.example)
        drawn = draw_trial(fault, population, len(data), trial, seed)
        golden: Tensor = logits_of(model(data.batch(torch.tensor([drawn.input]))[0]))
        return Replay(TrialRunner(model, data)((drawn,))[0], _listed(model, data, drawn, True), golden)


def _listed(model: nn.Module, data: Dataset, trial: Trial, values: bool) -> ListedTrial:
    if not values:
        return ListedTrial(trial, tuple(None for _ in trial.flips))
    seen: dict[Site, Tensor] = {}
    flowing = [item for item in trial.flips if item.site.kind not in STORED]
    if flowing:
        with tap_sites(model, {item.site: _look(item, seen) for item in flowing}):
            model(data.batch(torch.tensor([trial.input]))[0])
    for item in trial.flips:
        if item.site.kind in STORED:
            seen[item.site] = stored(model, item.site).at(item.index)
    return ListedTrial(trial, tuple(_met(item, seen.get(item.site)) for item in trial.flips))


def _look(item: Flips, seen: dict[Site, Tensor]) -> Callable[[Tensor], Tensor]:
    def tap(output: Tensor) -> Tensor:
        flat = output.detach().contiguous().view(-1)
        seen[item.site] = bits.int_view(flat)[item.index.to(flat.device)]
        return output

    return tap


def _met(item: Flips, codes: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """Return the codes before and after, without the bits above the site's width that signed integers have."""
    if codes is None:
        return None
    low = -1 if item.site.bits == 64 else (1 << item.site.bits) - 1
    before = codes.to(torch.int64) & low
    return before.cpu(), ((before ^ item.against(before)) & low).cpu()
