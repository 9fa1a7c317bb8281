"""Stages three to five: single-bit faults in activations before and after hardening, and in weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from holdfast._files import making_folder, write_atomic
from holdfast.assessment.context import Context, Findings, tool
from holdfast.data import Dataset
from holdfast.evidence.record import Measurement, Record
from holdfast.execution import (
    MEASURES,
    CampaignReport,
    Progress,
    Proportion,
    accuracy,
    campaign,
    describe_platform,
    faults,
    paired,
)
from holdfast.faults import BitFlip
from holdfast.hardening import RangeRestriction, harden, profile
from holdfast.models import card, model_subject, save
from holdfast.numerics.formats import formats

ACTIVATIONS, WEIGHTS = "activations", "weights"
SLACK = 1.3  # MaxiMals (Roquet et al., DAC 2024) widens profiled bounds by this factor


@dataclass(frozen=True)
class _Arm:
    kind: str
    name: str  # in the store
    at: str
    trials: int
    title: str


def campaigns(context: Context) -> list[Record]:
    """Run the three campaigns; the first two meet the same faults on the same inputs."""
    trials = context.effort.trials
    plain = _Arm("fault-campaign", "baseline", ACTIVATIONS, trials, "faults, plain model")
    hard = _Arm("fault-campaign-hardened", "hardened", ACTIVATIONS, trials, "faults, hardened model")
    weights = _Arm("fault-campaign-weights", "weights", WEIGHTS, context.effort.weight_trials, "faults in weights")
    hardened = hardened_model(context)
    return [
        _record(context, plain, context.model),
        _record(context, hard, hardened),
        _record(context, weights, context.model),
    ]


def hardened_model(context: Context) -> nn.Module:
    """Return the model with range guards at every activation, profiled on the calibration part, and save it."""
    bounds = profile(context.model, context.calibration, at=ACTIVATIONS)
    hardened = harden(context.model, RangeRestriction(bounds, slack=SLACK))
    if card(hardened).architecture is not None:
        save(hardened, context.folder / "hardened")
    return hardened


def _record(context: Context, arm: _Arm, model: nn.Module) -> Record:
    parameters = {"fault": "bit-flip", "at": arm.at, "trials": arm.trials, "inputs": len(context.evaluation)}
    inputs = {"evaluation": context.evaluation.digest}
    if model is not context.model:
        parameters |= {"hardening": "range-restriction", "slack": SLACK}
        inputs["calibration"] = context.calibration.digest
    return context.stage(arm.kind, parameters, inputs, lambda: _measure(context, arm, model))


def _measure(context: Context, arm: _Arm, model: nn.Module) -> Findings:
    report = _run(context, arm, model)
    fields = {str(bit): meaning for bit, meaning in enumerate(formats.build("fp32").fields())}
    facts = _tables(report) | {"bit_fields": fields}
    measured = measures(report)
    if model is not context.model:
        plain = CampaignReport.load(context.store, "baseline")
        facts["mcnemar"] = paired(plain, report).p_value
        measured["clean-accuracy"] = accuracy(model, context.evaluation).measurement()
        facts["guards"] = len(card(model).guards)
    return measured, facts


def _run(context: Context, arm: _Arm, model: nn.Module) -> CampaignReport:
    return campaign(
        model,
        context.evaluation,
        BitFlip(),
        at=arm.at,
        trials=arm.trials,
        seed=context.seed,
        store=context.store,
        name=arm.name,
        progress=context.announce(arm.title),
    )


def measures(report: CampaignReport) -> dict[str, Measurement]:
    """Return the share of every outcome, and of critical and DUE together."""
    return {name: report[name].measurement() for name in MEASURES}


def campaign_record(
    model: nn.Module, data: Dataset, fault: str, *, folder: Path, progress: Progress | None = None, **options: Any
) -> Record:
    """Run one campaign into ``folder``/campaign.sqlite and return its record, also written beside it.

    Args:
        model: any module.
        data: inputs are drawn from it.
        fault: specification, e.g. ``bit-errors:rate=0.001``.
        folder: where the store and the record go.
        progress: called with (trials done, all).
        options: of :func:`holdfast.campaign` (``at``, ``trials``, ``margin``, ``confidence``, ``seed``, ``executor``).
    """
    law = faults.build(fault)
    with making_folder(folder):
        report = campaign(
            model, data, law, store=folder / "campaign.sqlite", name="campaign", progress=progress, **options
        )
    record = Record(
        kind="fault-campaign",
        subject=model_subject(model),
        procedure={
            "type": "fault-campaign",
            "version": 1,
            "fault": fault,
            "at": options["at"],
            "trials": report.trials,
        },
        measured=measures(report),
        inputs={"evaluation": data.digest},
        facts=_tables(report),
        seed=options["seed"],
        platform=describe_platform().to_json(),
        lineage=tuple(step.to_json() for step in card(model).lineage),
        tool=tool(),
    )
    write_atomic(folder / "fault-campaign.json", record.to_bytes())
    return record


def _tables(report: CampaignReport) -> dict[str, Any]:
    return {
        "table": report.digest,
        "by_site": report.by_site(),
        "by_bit": {str(bit): list(counts) for bit, counts in report.by_bit().items()},
        "plan": report.words,
        "site_shares": {site: _share(share) for site, share in report.site_shares().items()},
        "bit_shares": {str(bit): _share(share) for bit, share in report.bit_shares().items()},
    }


def _share(share: Proportion) -> list[float]:
    return [share.value, share.low, share.high, share.n]
