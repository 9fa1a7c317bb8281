"""A campaign over trials as the command line runs and tells it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.cli._common import Stage, aligned, say, stages
from holdfast.cli._offloaded import struck

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.assessment.fault_campaign import TrialOptions
    from holdfast.data import Dataset, Text
    from holdfast.evidence.record import Record
    from holdfast.execution import CampaignReport

TEXTS = ("wikitext2:", "text:")


@dataclass(frozen=True, kw_only=True)
class TrialRequest:
    """What the user asked for; ``plan`` holds keywords of :func:`holdfast.campaign`."""

    model: Path
    arch: str | None
    data: str
    fault: str
    out: Path
    plan: dict[str, Any]
    guards: tuple[str, ...]
    calibrate: str | None
    calibration_images: int
    save_faults: Path | None
    traces: int
    cross_sections: Path | None = None
    worker: str | None = None
    placing: Path | None = None
    device: str = "cpu"


def run_trials(asked: TrialRequest) -> list[Record]:
    """Run the campaign, tell its shares, and return the record of each arm."""
    from holdfast._device import device_named
    from holdfast.assessment.fault_campaign import TrialOptions, campaign_records
    from holdfast.models import load

    with stages() as announce, ExitStack() as stack:
        bars: list[Stage] = []

        def begin(title: str) -> Stage:
            bars.append(announce(title))
            return bars[-1]

        place = device_named(asked.device, start=True)
        model, data = load(asked.model, arch=asked.arch).to(place), evaluation_data(asked.data, asked.model)
        at = str(asked.plan["at"])
        subject, about = stack.enter_context(struck(model, asked.model, at, asked.worker, asked.placing))
        options = TrialOptions(
            folder=asked.out,
            plan=asked.plan,
            guards=asked.guards,
            calibration=_calibration(asked) if asked.guards else None,
            traces=asked.traces,
            command=shlex.join(["holdfast", *sys.argv[1:]]),
            announce=begin,
            watch=_newsreader(bars),
            save_faults=asked.save_faults,
            cross_sections=asked.cross_sections,
            about=about,
        )
        records = campaign_records(subject, data, asked.fault, options)
    for line in _lines(records, options):
        say(line)
    return records


def evaluation_data(spec: str, model: Path) -> Dataset | Text:
    """Return the images or the text of ``spec``."""
    from holdfast.data import dataset

    return evaluation_text(spec, model) if spec.startswith(TEXTS) else dataset(spec)


def evaluation_text(spec: str, model: Path) -> Text:
    """Return the text of ``spec``; a tokenizer that lies beside the model reads it."""
    from holdfast.data import text

    beside = sorted(model.glob("tok*.bin")) if model.is_dir() else []
    return text(spec, tokenizer=beside[0] if len(beside) == 1 else None)


def _calibration(asked: TrialRequest) -> Dataset | None:
    from holdfast.data import dataset

    if asked.calibrate is None and asked.data.startswith(TEXTS):
        return None
    return dataset(asked.calibrate or asked.data, split="train").take(asked.calibration_images)


def _newsreader(bars: Sequence[Stage]) -> Callable[[CampaignReport], None]:
    """Return what shows the counts so far and the current interval below the last bar."""

    def tell(report: CampaignReport) -> None:
        share = report["critical-or-due"]
        counts = ", ".join(f"{name} {count}" for name, count in report.counts.items() if count)
        bars[-1].tell(f"critical or DUE {share.value:.3%} [{share.low:.3%}, {share.high:.3%}]   {counts}")

    return tell


def _lines(records: Sequence[Record], options: TrialOptions) -> Iterator[str]:
    yield from records[0].facts["plan"]
    for record in records:
        if len(records) > 1:
            yield f"\n{record.facts['arm']}:"
        for name, item in record.measured.items():
            yield f"{name:<16} {item.value:9.4%}  [{item.low:.4%}, {item.high:.4%}]  n = {item.n}"
        if again := record.facts.get("rerun"):
            yield f"run again: {again['transient']} came out right (transient), {again['persistent']} did not"
        yield from _rates(record.facts.get("reliability"))
    for record in records[1:]:
        found = record.facts["against"]
        yield (
            f"\ncritical or DUE against {records[0].facts['arm']}: {found['value']:+.4%} "
            f"[{found['low']:+.4%}, {found['high']:+.4%}], p = {found['p_value']:.2g}; "
            f"{found['only_first']} pairs failed only without the guards, {found['only_second']} only with them"
        )
    yield f"page: {options.folder / 'report.html'}"


def _rates(found: Mapping[str, Any] | None) -> Iterator[str]:
    """Yield FIT of each structure and MTTF, or why there is none."""
    if found is None:
        return
    if "missing" in found:
        yield f"no FIT: {found['missing']}"
        return
    whole = found["critical-or-due"]
    rows = [(name, "critical or DUE", whole["structures"][name], "FIT") for name in whole["structures"]]
    rows += [
        ("all", title, found[of]["total_fit"], "FIT")
        for of, title in (("critical-or-due", "critical or DUE"), ("critical", "critical"), ("due", "DUE"))
    ]
    rows += [("all", "MTTF", whole["mttf_hours"], "h")]
    yield f"failures in 10^9 h at {found['flux']:g} neutrons per cm2 and hour (FIT), {whole['confidence']:.0%}:"
    yield from aligned([(name, what, _three(item), unit) for name, what, item, unit in rows])


def _three(item: Mapping[str, float | None]) -> str:
    value, low, high = ("inf" if item[key] is None else f"{item[key]:.3g}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
