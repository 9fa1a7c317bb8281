"""Fault campaigns: many trials, each one fault on one input, counted by outcome."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig
from holdfast.execution.condition import Fault, Population
from holdfast.execution.executors import Executor, Job, executor_from
from holdfast.execution.plan import Block, blocks, draw
from holdfast.execution.platform import describe_platform
from holdfast.execution.report import CampaignReport
from holdfast.execution.run import Progress
from holdfast.execution.statistics import trials_for
from holdfast.execution.store import Store
from holdfast.models import manifest_of, select

PLAN_VERSION = 1


def campaign(
    model: nn.Module,
    data: Dataset,
    fault: Fault,
    *,
    at: str = "activations",
    trials: int | None = None,
    margin: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    executor: str | Executor = "inline",
    store: Path | str | None = None,
    name: str = "campaign",
    batch: int = 32,
    strict: bool = False,
    progress: Progress | None = None,
) -> CampaignReport:
    """Run ``trials`` faults and count what became of them.

    Trial k draws its fault and its input from (seed, k) alone: any executor and any interruption give the same table,
    and two models with equal sites meet the same faults. Faults in what flows share a forward pass, one per row, and
    are compared with the golden output of that same batch; stored bits are flipped, run on one input, and restored.

    Args:
        model: evaluated in evaluation mode; unchanged afterwards.
        data: inputs are drawn from it uniformly.
        fault: the law of one fault.
        at: selection of sites; the population is every bit of theirs.
        trials: how many; or give ``margin`` and let :func:`trials_for` plan for the worst case p = 0.5.
        margin: half-width wanted for every outcome's share at ``confidence``.
        executor: ``inline``, ``processes:N`` or an object.
        store: SQLite file; an interrupted campaign resumes from it when called again with the same arguments.
        name: of this campaign in the store.
        batch: rows of a shared forward pass.
        strict: raise on a crashed trial instead of counting it as DUE.

    Raises:
        InvalidConfig: neither or both of ``trials`` and ``margin``; a model whose two clean runs differ; a store that
            holds another campaign of this name.
        NoSuchSite: ``at`` selects nothing.
    """
    model.eval()
    population = Population(select(model, at, data.example))
    count = _planned(trials, margin, confidence, population)
    plan = _plan(model, data, fault, at=at, trials=count, seed=seed, batch=batch)
    _require_deterministic(model, data, batch)
    runner = executor_from(executor) if isinstance(executor, str) else executor
    with Store(store) as table:
        table.open(name, plan)
        todo = _unfinished(blocks(draw(fault, population, len(data), count, seed), batch), table.finished(name))
        done = count - sum(len(block.trials) for block in todo)
        for rows in runner.map(Job(model, data, strict), todo):
            table.add(name, rows)
            done += len(rows)
            if progress is not None:
                progress(done, count)
        return CampaignReport(name, plan | {"population": population.bits}, tuple(table.rows(name)), confidence)


def _planned(trials: int | None, margin: float | None, confidence: float, population: Population) -> int:
    if (trials is None) == (margin is None):
        raise InvalidConfig("give either the number of trials or a margin", hint="trials=1000 or margin=0.01")
    if trials is not None:
        return trials
    return trials_for(margin or 0.0, confidence, population=population.bits)


def _plan(model: nn.Module, data: Dataset, fault: Fault, **parameters: Any) -> dict[str, Any]:
    return {
        "version": PLAN_VERSION,
        "model": manifest_of(model).digest,
        "data": data.digest,
        "platform": describe_platform().digest,
        "fault": describe_fault(fault),
        "sampling": "uniform over the bits of the population, uniform over inputs",
        **{key: str(value) if key == "seed" else value for key, value in parameters.items()},
    }


def describe_fault(fault: Fault) -> dict[str, Any]:
    """Return the class name and parameters of a fault."""
    fields = dataclasses.fields(fault) if dataclasses.is_dataclass(fault) else ()
    return {"type": type(fault).__name__, **{field.name: getattr(fault, field.name) for field in fields}}


def _require_deterministic(model: nn.Module, data: Dataset, batch: int) -> None:
    images, _ = data.batch(torch.arange(min(batch, len(data))))
    with torch.no_grad():
        first, second = model(images), model(images)
    if not torch.equal(torch.nan_to_num(first), torch.nan_to_num(second)):
        hint = "turn off sampling and dropout, or torch.use_deterministic_algorithms(True)"
        raise InvalidConfig("two clean runs of the model give different bits", hint=hint)


def _unfinished(all_blocks: list[Block], finished: set[int]) -> list[Block]:
    """Return the blocks with a trial missing; blocks are written whole, so none is half done."""
    return [block for block in all_blocks if block.trials[0].number not in finished]
