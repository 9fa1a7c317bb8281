"""Fault campaigns: many independent trials, each compared with its golden run, counted with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from holdfast.data import Dataset, Text
from holdfast.errors import InvalidConfig
from holdfast.evidence import canonical
from holdfast.evidence.digest import digest_bytes
from holdfast.execution.condition import Fault, require_untimed
from holdfast.execution.executors import build_executor
from holdfast.execution.injection import computed_alike, population_of
from holdfast.execution.plan import Block, describe_fault, draw_trials, trial_count
from holdfast.execution.platform import describe_platform
from holdfast.execution.report import CampaignReport
from holdfast.execution.run import Progress, evaluating, one_thread
from holdfast.execution.store import Store
from holdfast.execution.tasks import Task, describe_task, task_for
from holdfast.execution.trials import Row, TrialRunner
from holdfast.execution.watchdog import Watchdog
from holdfast.models import manifest_of

_WATCHDOG = Watchdog()


def campaign(
    model: nn.Module,
    data: Dataset | Text,
    fault: Fault,
    *,
    at: str,
    trials: int | None = None,
    margin: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    executor: str = "inline",
    engine: str = "hooks",
    store: Path | str | None = None,
    name: str = "baseline",
    batch: int = 32,
    strict: bool = False,
    task: Task | None = None,
    rerun: bool = False,
    watchdog: Watchdog | None = _WATCHDOG,
    progress: Progress | None = None,
) -> CampaignReport:
    """Run a fault-injection campaign and return its table.

    Trial i draws its flips and its image from ``seed`` and i alone. Faults in what flows share forward passes,
    ``batch`` at a time, one fault per row; faults in what is stored are undone exactly after each trial. The table
    does not depend on the executor or on interruptions. Torch runs on one thread meanwhile.

    Args:
        model: any module, or a session that offloads layers.
        data: images to draw from, or a text that a language model reads and continues.
        fault: the law that draws the flips of a trial.
        at: selection of sites that may fail.
        trials: number of trials; or else
        margin: half-width of the wanted interval, from which the number follows (see :func:`trials_for`).
        confidence: of the intervals.
        seed: root of all draws.
        executor: ``inline`` or ``processes:N``.
        engine: how trials are computed: ``hooks`` runs whole forward passes.
        store: SQLite file that takes the rows block by block; a killed campaign resumes from it.
        name: of this campaign in the store.
        batch: trials per block.
        strict: raise when a trial crashes or hangs, instead of counting it as DUE.
        task: what the model is asked and when an answer is critical; None: ``Classification()`` of images,
            ``Language()`` of a text.
        rerun: run every trial that went wrong a second time, as a user who tries again would: flipped memory stays
            flipped, what flowed has gone by. The rows say ``transient`` or ``persistent``.
        watchdog: when a pass counts as hanging, which is a DUE; None: never.
        progress: called with (trials done, all trials).

    Raises:
        NoSuchSite: nothing matches ``at``.
        InvalidConfig: contradicting sizes, an empty dataset, one that the model does not take, a model that gives
            other bits when asked again, or a store that holds another campaign of this name.
        DigestMismatch: the store holds other golden answers than the model gives now.
        StorageError: the store cannot be written.
        TrialError: a trial crashed in strict mode, or not even one input fits in memory.
    """
    if batch < 1:
        raise InvalidConfig("a campaign needs at least one trial per block")
    require_untimed(fault, "a trial of a campaign")
    workers = build_executor(executor)
    with one_thread(), evaluating(model), computed_alike(model, at):
        chosen = task or task_for(data)
        runner = TrialRunner(model, data, engine=engine, strict=strict, task=chosen, rerun=rerun, watchdog=watchdog)
        population = population_of(model, at, runner.exam.example)
        count = trial_count(trials, margin, confidence, population)
        plan = _plan(model, data, fault, at=at, trials=count, seed=seed, batch=batch, engine=engine) | {
            "population_bits": population.bits,
            "sites": len(population.sites),
            "task": describe_task(chosen),
            "rerun": rerun,
            "watchdog": None if watchdog is None else asdict(watchdog),
        }
        if any(site.kind == "internals" for site in population.sites):
            plan["operators"] = "fused operators run step by step, in golden runs too"
        blocks = runner.blocks(draw_trials(fault, population, runner.exam.size, count, seed), batch)
        golden = runner.require_repeatable(batch)
        with ExitStack() as stack:
            table = stack.enter_context(Store(store, name, _fingerprint(plan), plan)) if store is not None else None
            if table is not None:
                table.confirm(golden)
            rows = table.rows() if table is not None else []
            for fresh in workers.run(runner, list(_unfinished(blocks, rows))):
                if table is not None:
                    table.append(fresh)
                rows.extend(fresh)
                if progress is not None:
                    progress(len(rows), count)
    return CampaignReport.of(rows, name=name, plan=plan, confidence=confidence)


def _plan(model: nn.Module, data: Dataset | Text, fault: Fault, **sizes: Any) -> dict[str, Any]:
    return sizes | {
        "type": "holdfast.campaign/v2",
        "fault": describe_fault(fault),
        "sampling": "flips drawn by the fault over all bits of the selected sites; images uniform, with replacement",
        "model": manifest_of(model).digest,
        "data": data.digest,
        "platform": describe_platform().digest,
    }


def _fingerprint(plan: dict[str, Any]) -> str:
    return digest_bytes(canonical.dumps(plan))


def _unfinished(blocks: Sequence[Block], rows: Iterable[Row]) -> Iterator[Block]:
    finished = {row.trial for row in rows}
    return (block for block in blocks if not all(trial.number in finished for trial in block))
