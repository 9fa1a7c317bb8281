"""Campaigns over trials and their records: one model, or the same faults with and without guards, and the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import nn

from holdfast._files import making_folder, write_atomic
from holdfast.assessment.campaign_facts import facts_of, faults_of
from holdfast.assessment.context import Announce, silent, tool
from holdfast.data import Dataset, Text
from holdfast.errors import InvalidConfig, NoSuchSite
from holdfast.evidence.digest import digest_bytes
from holdfast.evidence.record import Measurement, Record
from holdfast.execution import (
    MEASURES,
    CampaignReport,
    ListedFaults,
    Structure,
    campaign,
    describe_platform,
    faults,
    paired,
    read_structures,
    reliability_of,
    write_fault_list,
)
from holdfast.execution.fault_files import fault_list_suffix
from holdfast.execution.fit import require_fit
from holdfast.execution.reliability import FLUX, describe_reliability, require_hit
from holdfast.execution.run import device_of
from holdfast.faults import BitFlip
from holdfast.hardening import harden, method_of
from holdfast.models import card, model_subject, select

STORE = "campaign.sqlite"
KINDS = ("fault-campaign", "fault-campaign-hardened")


@dataclass(frozen=True, kw_only=True)
class TrialOptions:
    """What a campaign over trials takes.

    Attributes:
        folder: receives the store, a record per arm and the page.
        plan: keywords of :func:`holdfast.campaign`: ``at``, ``trials`` or ``margin``, ``seed``, ``executor``, ...
        guards: specifications of hardenings, which make a second arm.
        calibration: clean data that the hardenings learn from; never the data that judge them.
        traces: how many faults of each arm are followed through the model.
        command: what the user typed, for the page.
        announce: gets a title for each arm.
        watch: gets the report so far, now and then.
        save_faults: .jsonl or .parquet file for the faults of the first arm, which are those of the second.
        cross_sections: TOML file with the structures of a machine, for FIT and MTTF; see docs/reliability.md.
        about: further facts for the records.
    """

    folder: Path
    plan: Mapping[str, Any]
    guards: tuple[str, ...] = ()
    calibration: Dataset | None = None
    traces: int = 3
    command: str = "holdfast campaign"
    announce: Announce = silent
    watch: Callable[[CampaignReport], None] | None = None
    save_faults: Path | None = None
    cross_sections: Path | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


def campaign_records(model: nn.Module, data: Dataset | Text, fault: str, options: TrialOptions) -> list[Record]:
    """Run one campaign, and a second one on the hardened model if there are guards; write records and page.

    Both arms draw the same faults and inputs, so their difference is paired.

    Args:
        model: any module.
        data: inputs are drawn from it.
        fault: specification, e.g. ``bit-errors:rate=0.001``.
        options: where, how many, and which guards.

    Raises:
        InvalidConfig: calibration data that the guards would be judged by, or a list of faults asked for that a table
            cannot hold.
        NoSuchSite: cross-sections of sites that the campaign does not strike.
    """
    data = data.to(device_of(model))
    if options.calibration is not None:
        options = replace(options, calibration=options.calibration.to(device_of(model)))
    _require_apart(data, options)
    for images in (data, options.calibration) if options.guards else ():
        if isinstance(images, Dataset):
            require_fit(model, images, labels=False)  # the task of the campaign knows whether there are classes
    _require_listable(data, faults.build(fault), options)
    machine = _machine(model, data, options)
    with making_folder(options.folder):
        arms = [("plain", model)]
        if options.guards:
            arms.append((" + ".join(options.guards), _hardened(model, options)))
        reports = [_run(arm, data, fault, options, name) for (_, arm), name in zip(arms, KINDS, strict=False)]
    records = []
    for (title, arm), report in zip(arms, reports, strict=True):
        facts = facts_of(arm, data, report, traces=options.traces) | {"arm": title, **options.about}
        if report is not reports[0]:
            facts["against"] = _against(reports[0], report)
        if machine:
            facts["reliability"] = _reliability(report, machine)
        records.append(_record(arm, data, fault, options, report, facts))
    _write(records, options, title=data.name)
    if options.save_faults is not None and isinstance(data, Dataset):
        write_fault_list(options.save_faults, faults_of(model, data, reports[0], faults.build(fault)))
    return records


def _require_apart(data: Dataset | Text, options: TrialOptions) -> None:
    if options.guards and options.calibration is not None and options.calibration.digest == data.digest:
        raise InvalidConfig(
            "the guards would be calibrated on the very data that judge them",
            hint="name another split or dataset with --calibrate",
        )


def _require_listable(data: Dataset | Text, fault: object, options: TrialOptions) -> None:
    """Refuse before the first trial what cannot be written after the last."""
    if options.save_faults is None:
        return
    fault_list_suffix(options.save_faults)
    if not isinstance(data, Dataset):
        raise InvalidConfig("the faults of a language model's campaign are not listed", hint="leave out --save-faults")
    if not isinstance(fault, (BitFlip, ListedFaults)):
        raise InvalidConfig(
            "the table holds no faults of several bits", hint="write them with holdfast.execution.fault_list instead"
        )


def _machine(model: nn.Module, data: Dataset | Text, options: TrialOptions) -> list[Structure]:
    """Return the structures that faults are charged to; none without a file."""
    if options.cross_sections is None:
        return []
    found = read_structures(options.cross_sections)
    if isinstance(data, Dataset):
        require_fit(model, data, labels=False)
        struck = select(model, str(options.plan["at"]), data.example)
        require_hit(found, [site.address for site in struck])
    return found


def _reliability(report: CampaignReport, machine: Sequence[Structure]) -> dict[str, Any]:
    """Return FIT and MTTF, of silent failures alone as well; or why there are none: the trials are not lost for it."""
    try:
        found = {name: reliability_of(report, machine, outcome=name) for name in ("critical-or-due", "critical", "due")}
    except (NoSuchSite, InvalidConfig) as error:
        return {"missing": f"{error}: {error.hint}"}
    return {"flux": FLUX, **{name: describe_reliability(item) for name, item in found.items()}}


def _hardened(model: nn.Module, options: TrialOptions) -> nn.Module:
    built = [method_of(spec).calibrated(model, options.calibration) for spec in options.guards]
    for method in built:
        model = harden(model, method)
    return model


def _run(model: nn.Module, data: Dataset | Text, fault: str, options: TrialOptions, name: str) -> CampaignReport:
    return campaign(
        model,
        data,
        faults.build(fault),
        store=options.folder / STORE,
        name=name,
        progress=options.announce("trials" if name == KINDS[0] else "trials, hardened"),
        watch=options.watch,
        **options.plan,
    )


def measures(report: CampaignReport) -> dict[str, Measurement]:
    """Return the share of every outcome, and of critical and DUE together, under the campaign's law."""
    return {name: report[name].measurement() for name in MEASURES}


def _against(first: CampaignReport, second: CampaignReport) -> dict[str, float]:
    found = paired(first, second)
    return {
        "value": found.difference,
        "low": found.low,
        "high": found.high,
        "p_value": found.p_value,
        "only_first": found.only_first,
        "only_second": found.only_second,
        "n": found.n,
    }


def _record(
    model: nn.Module, data: Dataset | Text, fault: str, options: TrialOptions, report: CampaignReport,
    facts: dict[str, Any],
) -> Record:  # fmt: skip
    hardened = report.name == KINDS[1]
    inputs = {"evaluation": data.digest}
    if hardened and options.calibration is not None:
        inputs["calibration"] = options.calibration.digest
    if options.cross_sections is not None:
        inputs["cross-sections"] = digest_bytes(options.cross_sections.read_bytes())
    asked = {key: value for key, value in options.plan.items() if key not in ("seed", "executor", "trials")}
    asked["task"] = report.plan["task"]
    return Record(
        kind=report.name,
        subject=model_subject(model),
        procedure={"type": "fault-campaign", "version": 2, "fault": fault, "trials": report.trials}
        | {key: list(value) if isinstance(value, tuple) else value for key, value in asked.items() if value is not None}
        | ({"guards": list(options.guards)} if hardened else {}),
        measured=measures(report),
        inputs=inputs,
        facts=facts,
        seed=options.plan["seed"],
        platform=describe_platform().to_json(),
        lineage=tuple(step.to_json() for step in card(model).lineage),
        tool=tool(),
    )


def _write(records: Sequence[Record], options: TrialOptions, *, title: str) -> None:
    from holdfast.reporting.campaign import render_campaign

    for record in records:
        write_atomic(options.folder / f"{record.kind}.json", record.to_bytes())
    name = records[0].subject.name
    extra = {
        "title": f"{name} on {title}",
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": options.command,
    }
    write_atomic(options.folder / "report.html", render_campaign(records, extra))
