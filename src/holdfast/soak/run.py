"""Hours of the golden loop on a real machine: made ready, watched, written down, and read back as rates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from holdfast._files import make_folder, write_atomic
from holdfast.data import Dataset
from holdfast.errors import DigestMismatch, InvalidConfig
from holdfast.evidence import canonical
from holdfast.evidence.digest import digest_bytes, digest_file
from holdfast.evidence.record import Measurement, Record
from holdfast.evidence.statement import Subject
from holdfast.execution.executors.processes import Processes
from holdfast.execution.platform import describe_platform
from holdfast.models import model_subject
from holdfast.models.tensor_file import tensor_spans
from holdfast.soak.analysis import Analysis, analyse
from holdfast.soak.benches import Bench, kernel_benches, model_bench
from holdfast.soak.counters import Counters, changes, read_counters
from holdfast.soak.counts import Counts
from holdfast.soak.devices import Device, parse_devices
from holdfast.soak.golden import DESCRIPTION, TENSORS, Golden, golden_bytes, keep_golden, open_golden, require_same
from holdfast.soak.journal import Journal
from holdfast.soak.logs import read_log
from holdfast.soak.watchdog import Progress, Tally, Watchdog
from holdfast.soak.worker import Disturb, Orders

KIND = "soak"
_SECONDS = 3600


@dataclass(frozen=True, kw_only=True)
class Soak:
    """How to soak; what to compute is given to :func:`soak`.

    Attributes:
        devices: ``cpu`` (every usable core), a number of cores, or a list such as ``cpu:0,cpu:3``, ``cuda:0``.
        hours: until the run ends by itself; None with ``iterations``.
        iterations: of each device, over all benches together.
        samples, batch_size: of the model's data.
        patience: seconds without a finished iteration that count as a hang; at least ten times the longest seen.
        audit_every: seconds between looks at all stored tensors, for changes that no output shows.
        mirror: ``udp:HOST:PORT`` of a supervisor that gets every line.
        log_dir: where logs go; ``logs`` below the output folder by default.
    """

    devices: str = "cpu"
    hours: float | None = None
    iterations: int | None = None
    samples: int = 40
    batch_size: int = 4
    patience: float = 30.0
    audit_every: float = 60.0
    mirror: str | None = None
    log_dir: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.hours is None) == (self.iterations is None):
            raise InvalidConfig("a soak run lasts for hours or for iterations", hint="give one of the two")
        for name in ("hours", "iterations", "patience", "audit_every"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise InvalidConfig(f"{name} is above zero, not {value}")


@dataclass(frozen=True)
class SoakReport:
    """What one run did, and what all logs in its folder say together.

    Attributes:
        tallies: of this run, by device.
        analysis: of all logs, earlier runs of the same call included; None where no log tells any exposure.
        interrupted: whether somebody ended it early.
        events: of this run, over all devices.
        lost: lines of the mirror that the network refused.
    """

    record: Record
    tallies: dict[str, Tally]
    analysis: Analysis | None
    before: Counters
    after: Counters
    logs: Path
    interrupted: bool = False
    events: Counter[str] = field(default_factory=Counter)
    lost: int = 0

    @property
    def iterations(self) -> int:
        """Of all devices in this run."""
        return sum(tally.iterations for tally in self.tallies.values())


def soak(
    how: Soak,
    *,
    out: Path | str,
    model: nn.Module | None = None,
    data: Dataset | None = None,
    name: str = "model",
    kernels: Sequence[str] = (),
    disturb: Disturb | None = None,
    progress: Progress = lambda iterations, events: None,
    announce: Callable[[str], None] = lambda text: None,
) -> SoakReport:
    """Compute the same batches again and again, hold every output against the golden one, and say what went wrong.

    Args:
        how: for how long, where, and how closely.
        out: folder of the golden file, the logs and the record; the same call goes on with them.
        model: computes on ``data``; or None with ``kernels`` alone.
        data: whose first samples are its inputs.
        name: of the model, in logs.
        kernels: ``gemm``, ``attention``, ``norm``.
        disturb: called in the worker before each iteration, for drills: what it breaks is to be found.
        progress: called about twice a second with iterations and events so far.
        announce: called with what is being done.

    Raises:
        InvalidConfig: nothing to compute, a model that gives other bits each time, or a golden file of something else.
        MissingDevice: a device that is not there, or a system without ``fork``.
        DigestMismatch: the golden file was changed.
        TrialError: no worker survived its first iteration on any device.
    """
    folder, devices = make_folder(out), parse_devices(how.devices)
    if len({device.kind for device in devices}) > 1:
        raise InvalidConfig("processors and accelerators round differently", hint="soak them one after the other")
    benches = _benches(how, model, data, name, kernels)
    golden = _golden(folder / "golden", benches, devices, announce)
    before = read_counters()
    logs = how.log_dir or folder / "logs"
    orders = [Orders(item, benches, golden, how.iterations, how.audit_every, disturb) for item in devices]
    with Journal(logs, ecc=before.ecc, mirror=how.mirror) as journal:
        journal.event("counters", **before.to_json())
        headers = {bench.name: _header(bench, golden, how) for bench in benches}
        dog = Watchdog(
            orders, journal, headers, patience=how.patience, progress=progress,
            minutely=lambda: journal.event("counters", **read_counters().to_json()),
        )  # fmt: skip
        try:
            dog.run(None if how.hours is None else how.hours * _SECONDS)
        finally:
            after = read_counters()
            journal.event("counters", **after.to_json(), rose=changes(before, after))
        events: Counter[str] = sum((tally.events for tally in dog.tallies.values()), Counter())
        lost = journal.lost
    analysis = _analysis(logs)
    subject = model_subject(model, name) if model is not None else _kernels_subject(golden)
    record = _record(subject, how, golden, dog, analysis, (before, after), kernels)
    write_atomic(folder / f"{KIND}.json", record.to_bytes())
    return SoakReport(record, dog.tallies, analysis, before, after, logs, dog.interrupted, +events, lost)


def _benches(
    how: Soak, model: nn.Module | None, data: Dataset | None, name: str, kernels: Sequence[str]
) -> tuple[Bench, ...]:
    if (model is None) != (data is None):
        raise InvalidConfig("a model computes on data", hint="give both, or --kernels alone")
    found = kernel_benches(kernels, seed=how.seed)
    if model is not None and data is not None:
        found = (model_bench(name, model, data, samples=how.samples, batch_size=how.batch_size), *found)
    if len({bench.name for bench in found}) < len(found):
        raise InvalidConfig(f"two things to compute are called {found[0].name}", hint="name the model otherwise")
    if not found:
        raise InvalidConfig("there is nothing to compute", hint="give a model with --data, or --kernels gemm")
    return found


def _golden(
    folder: Path, benches: Sequence[Bench], devices: Sequence[Device], announce: Callable[[str], None]
) -> Golden:
    """Open the golden file, or make it twice in two processes, on two devices where there are two."""
    if (folder / DESCRIPTION).exists():
        golden = open_golden(folder)
        [(_, platform)] = Processes(workers=1).map(lambda _: _platform(devices[0]), [0])
        require_same(golden, benches, platform)
        announce(f"golden file: {folder}, every byte checked")
        return golden
    announce("golden file: made twice, in two processes")
    places = (devices[0], devices[-1])
    made = dict(Processes(workers=2).map(lambda place: _make(folder, benches, places[place], place), [0, 1]))
    first, second = (folder / f"{TENSORS}.{place}" for place in range(2))
    data = first.read_bytes()
    try:
        _require_equal(first, second)
    finally:
        first.unlink()
        second.unlink()
    return keep_golden(folder, data, benches, made[0])


def _platform(device: Device) -> dict[str, Any]:
    device.pin()
    return {**describe_platform().to_json(), "device": device.kind}


def _make(folder: Path, benches: Sequence[Bench], device: Device, place: int) -> dict[str, Any]:
    platform = _platform(device)
    data = golden_bytes([bench.on(device.torch) for bench in benches])
    write_atomic(folder / f"{TENSORS}.{place}", data)
    return platform


def _require_equal(first: Path, second: Path) -> None:
    """Refuse a golden file whose repetition gave other bits."""
    if digest_file(first).blake3 == digest_file(second).blake3:
        return
    one, other = first.read_bytes(), second.read_bytes()
    pairs = zip(tensor_spans(first), tensor_spans(second), strict=True)
    wrong = [a.name for a, b in pairs if one[a.start : a.stop] != other[b.start : b.stop]]
    outputs = [name for name in wrong if "/golden_" in name]
    if outputs:
        raise InvalidConfig(
            f"the golden run was repeated and {len(outputs)} of its outputs had other bits, the first {outputs[0]}",
            hint="the model draws random numbers, a kernel is not deterministic, or the device errs already",
        )
    raise DigestMismatch(f"two processes read other bits of {wrong[0]}", hint="the memory errs already")


def _header(bench: Bench, golden: Golden, how: Soak) -> dict[str, object]:
    goal = "classify" if bench.decides else "compare"
    return {
        "holdfast_version": version("holdfast"),
        "torch_version": str(golden.platform["torch"]),
        "platform": digest_bytes(canonical.dumps(dict(golden.platform)))[:16],
        "goal": goal,
        "topk": 1,
        "float_threshold": 0,
        "iterations": how.iterations or "hours",
        "testsamples": how.samples,
        "batchsize": how.batch_size,
        "goldpath": "_".join(str(golden.folder).split()),
        "model": "_".join(bench.name.split()),
        "hardenedid": bench.hardened,
    }


def _analysis(logs: Path) -> Analysis | None:
    """Read all logs back, as anybody else would."""
    rows: list[Counts] = [read_log(path).counts for path in sorted(logs.glob("*.log"))]
    timed = [row for row in rows if row.seconds + row.unseen > 0]
    return analyse(timed) if timed else None


def _kernels_subject(golden: Golden) -> Subject:
    return Subject("kernels", {"blake3": digest_file(golden.folder / TENSORS).blake3})


def _record(
    subject: Subject,
    how: Soak,
    golden: Golden,
    dog: Watchdog,
    analysis: Analysis | None,
    counters: tuple[Counters, Counters],
    kernels: Sequence[str],
) -> Record:
    before, after = counters
    measured: dict[str, Measurement] = {} if analysis is None else analysis.measurements()
    devices = {
        device: {"iterations": tally.iterations, "events": dict(+tally.events), "given_up": tally.given_up}
        for device, tally in dog.tallies.items()
    }
    counted = {"before": before.to_json(), "after": after.to_json(), "rose": changes(before, after)}
    parameters = {"devices": how.devices, "hours": how.hours, "iterations": how.iterations, "kernels": list(kernels)}
    data = {"samples": how.samples, "batch_size": how.batch_size}
    return Record(
        kind=KIND,
        subject=subject,
        procedure={"type": KIND, "version": 1, **parameters, **data},
        measured=measured,
        inputs={"golden": digest_file(golden.folder / DESCRIPTION).blake3},
        facts={"this_run": devices, "interrupted": dog.interrupted, "counters": counted},
        seed=how.seed,
        platform=golden.platform,
        tool={"name": "holdfast", "version": version("holdfast")},
    )
