"""Fault campaigns: many independent trials, each compared with its golden run, counted with intervals."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from torch import nn

from holdfast.data import Dataset, Text, require_data
from holdfast.errors import InvalidConfig
from holdfast.evidence import canonical
from holdfast.evidence.digest import digest_bytes
from holdfast.execution.condition import Fault, require_fault, require_untimed
from holdfast.execution.executors import Executor, build_executor
from holdfast.execution.injection import computed_alike
from holdfast.execution.knobs import knobs_of
from holdfast.execution.plan import Block, describe_fault
from holdfast.execution.planner import Course
from holdfast.execution.planner_choice import Choice, Wish, choose
from holdfast.execution.platform import describe_platform
from holdfast.execution.report import CampaignReport
from holdfast.execution.run import Progress, device_of, one_thread
from holdfast.execution.sampling_draws import draw_round
from holdfast.execution.store import Store
from holdfast.execution.tasks import Task, describe_task, task_for
from holdfast.execution.trials import Row, TrialRunner
from holdfast.execution.watchdog import Watchdog
from holdfast.models import manifest_of
from holdfast.models.subject import evaluating, require_open

Watch = Callable[[CampaignReport], None]
_WATCHDOG = Watchdog()
_PAUSE = 2.0  # seconds between two reports to whoever watches


def campaign(
    model: nn.Module,
    data: Dataset | Text,
    fault: Fault,
    *,
    at: str,
    trials: int | None = None,
    margin: float | None = None,
    relative: bool = False,
    confidence: float = 0.95,
    of: str = "critical-or-due",
    sampling: str = "bit-uniform",
    target: str | None = None,
    stratify: str = "auto",
    bits: Sequence[int] | str | None = None,
    exhaustive: bool = False,
    preset: str | None = None,
    max_trials: int = 1_000_000,
    seed: int = 0,
    executor: str = "inline",
    engine: str = "auto",
    store: Path | str | None = None,
    name: str = "baseline",
    batch: int = 32,
    strict: bool = False,
    task: Task | None = None,
    rerun: bool = False,
    watchdog: Watchdog | None = _WATCHDOG,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> CampaignReport:
    """Run a fault-injection campaign and return its table.

    A trial is a function of ``seed`` and its place in the plan. Faults in what flows share forward passes, ``batch``
    at a time, one fault per row; faults in what is stored are undone exactly after each trial. A campaign with a
    margin runs in rounds; what a round runs follows from the seed and the rows before it, so the table does not depend
    on the executor or on interruptions. Torch runs on one thread meanwhile.

    Args:
        model: any module, or a session that offloads layers; the campaign runs where its parameters are.
        data: images to draw from, or a text that a language model reads and continues.
        fault: the law that draws the flips of a trial.
        at: selection of sites that may fail.
        trials: number of trials; or else
        margin: half-width of the interval at which the campaign stops; a pilot and Neyman allocation over strata get
            there with few trials where the fault is of one bit, simple random sampling otherwise.
        relative: the margin is in units of the share itself: 0.1 is a tenth of it, however rare it is.
        confidence: of the intervals.
        of: the outcome whose share ``margin`` is about, or ``critical-or-due``.
        sampling: ``bit-uniform``, ``layer-uniform``, ``neuron-uniform`` or ``mac-weighted``: what a fault hits.
        target: the law that the shares are about, when it is not ``sampling``; trials get importance weights.
        stratify: ``layer-class``, ``layer-bit``, ``layer``, ``class``, ``bit`` or ``none``; ``auto`` is
            ``layer-class`` with a margin and ``none`` with a number of trials.
        bits: only these bit positions may fail, or one class: ``sign``, ``exponent-high``, ``mantissa``, ...
        exhaustive: try every bit with every input once; the shares are then exact.
        preset: ``leveugle`` (the number of trials follows from the margin and p = 0.5) or ``pytorchfi`` (layers alike).
        max_trials: where a campaign with a margin gives up.
        seed: root of all draws.
        executor: ``inline``, ``processes:N`` or ``ray[:ADDRESS]``.
        engine: how trials are computed: ``hooks`` runs whole forward passes, ``suffix`` only what a fault changes,
            one trial at a time, ``lockstep`` whole batches from their first fault on, ``auto`` one of the latter two
            where the model allows it.
        store: SQLite file that takes the rows block by block; a killed campaign resumes from it.
        name: of this campaign in the store.
        batch: trials per block.
        strict: raise when a trial crashes or hangs, instead of counting it as DUE.
        task: what the model is asked and when an answer is critical; None: ``Classification()`` of images,
            ``Language()`` of a text.
        rerun: run every trial that went wrong a second time, as a user who tries again would: flipped memory stays
            flipped, what flowed has gone by. The rows say ``transient`` or ``persistent``.
        watchdog: when a pass counts as hanging, which is a DUE; None: never.
        progress: called with (trials done, all trials); all may turn out fewer when a margin decides.
        watch: called with the report so far, at most every two seconds and at the end.

    Raises:
        NoSuchSite: nothing matches ``at``.
        UnknownName: no such law, stratification, outcome or preset.
        InvalidConfig: contradicting sizes, a plan that the fault does not allow, an empty dataset, one that the model
            does not take, a model that gives other bits when asked again, or a store that holds another campaign of
            this name.
        DigestMismatch: the store holds other golden answers than the model gives now.
        StorageError: the store cannot be written.
        TrialError: a trial crashed in strict mode, or not even one input fits in memory.
    """
    require_open(model)
    require_data(data)
    if batch < 1:
        raise InvalidConfig("a campaign needs at least one trial per block")
    require_fault(fault)
    require_untimed(fault, "a trial of a campaign")
    wish = Wish(
        trials=trials,
        margin=margin,
        relative=relative,
        confidence=confidence,
        of=of,
        sampling=sampling,
        target=target,
        stratify=stratify,
        bits=bits if bits is None or isinstance(bits, str) else tuple(bits),
        exhaustive=exhaustive,
        preset=preset,
        max_trials=max_trials,
        seed=seed,
    )
    workers, data = build_executor(executor), data.to(device_of(model))
    with one_thread(), evaluating(model), computed_alike(model, at):
        chosen = task or task_for(data)
        runner = TrialRunner(
            model, data, engine=engine, strict=strict, task=chosen, rerun=rerun, watchdog=watchdog, batch=batch
        )
        choice = choose(wish, model, runner.exam, fault, at)
        plan = _plan(model, data, fault, choice, at=at, seed=seed, batch=batch, engine=engine) | {
            "task": describe_task(chosen),
            "rerun": rerun,
            "watchdog": None if watchdog is None else asdict(watchdog),
        }
        golden = runner.require_repeatable(batch)
        plan |= runner.computed()
        if batch > 1 and (why := runner.apart_because(at)) is not None:
            plan["rows_apart"], batch = why, 1
        if knobs := knobs_of(runner.device):
            plan["knobs"] = knobs
        with ExitStack() as stack:
            table = stack.enter_context(Store(store, name, _fingerprint(plan), plan)) if store is not None else None
            if table is not None:
                table.confirm(golden)
            news = _News(name, plan, confidence, progress, watch)
            rows = _run(_Run(choice, runner, workers, table, batch, news))
    return CampaignReport.of(rows, name=name, plan=plan, confidence=confidence)


@dataclass(frozen=True)
class _Run:
    choice: Choice
    runner: TrialRunner
    workers: Executor
    table: Store | None
    batch: int
    news: _News


def _run(run: _Run) -> list[Row]:
    """Run round after round; rows of an interrupted run are taken as they are."""
    known = run.table.rows() if run.table is not None else []
    course, rows = Course(run.choice.design), {row.trial: row for row in known}
    while any(counts := course.allocation()):
        wave = draw_round(run.choice.draws, counts, course.drawn.tolist(), course.trials)
        blocks = list(_unfinished(run.runner.blocks(wave, run.batch), rows))
        for fresh in run.workers.run(run.runner, blocks):
            if run.table is not None:
                run.table.append(fresh)
            rows.update((row.trial, row) for row in fresh)
            run.news.tell(rows, course.expected)
        course.take(rows[trial.number] for trial in wave)
    run.news.end(rows)
    return list(rows.values())


class _News:
    """Tells those who asked how far a campaign is."""

    def __init__(
        self, name: str, plan: dict[str, Any], confidence: float, progress: Progress | None, watch: Watch | None
    ) -> None:
        self._about: dict[str, Any] = {"name": name, "plan": plan, "confidence": confidence}
        self._progress, self._watch, self._next = progress, watch, 0.0

    def tell(self, rows: Mapping[int, Row], expected: int) -> None:
        if self._progress is not None:
            self._progress(len(rows), max(len(rows), expected))
        if self._watch is not None and monotonic() >= self._next:
            self.end(rows)
            self._next = monotonic() + _PAUSE

    def end(self, rows: Mapping[int, Row]) -> None:
        if self._watch is not None:
            self._watch(CampaignReport.of(rows.values(), **self._about))


def _plan(model: nn.Module, data: Dataset | Text, fault: Fault, choice: Choice, **sizes: Any) -> dict[str, Any]:
    if any(address.startswith("internals:") for address, *_ in choice.stated["population"]):
        sizes["operators"] = "fused operators run step by step, in golden runs too"
    return sizes | {
        **choice.stated,
        "type": "holdfast.campaign/v2",
        "fault": describe_fault(fault),
        "design": choice.design.to_json(),
        "model": manifest_of(model).digest,
        "data": data.digest,
        "platform": describe_platform().digest,
    }


def _fingerprint(plan: dict[str, Any]) -> str:
    return digest_bytes(canonical.dumps(plan))


def _unfinished(blocks: Sequence[Block], finished: Container[int]) -> Iterator[Block]:
    return (block for block in blocks if not all(trial.number in finished for trial in block))
