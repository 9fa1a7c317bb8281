"""Stages three to five: single-bit faults in activations before and after hardening, and in weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from holdfast.assessment.context import Context, Findings
from holdfast.evidence.record import Measurement, Record
from holdfast.execution import CampaignReport, Proportion, accuracy, campaign, paired
from holdfast.faults import BitFlip
from holdfast.hardening import RangeRestriction, harden, profile
from holdfast.models import card, save
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
    facts: dict[str, Any] = {
        "table": report.digest,
        "by_site": report.by_site(),
        "by_bit": {str(bit): list(counts) for bit, counts in report.by_bit().items()},
        "bit_fields": {str(bit): meaning for bit, meaning in enumerate(formats.build("fp32").fields())},
    }
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
    counts = [report[outcome] for outcome in ("critical", "due")]
    failed = Proportion.wilson(sum(share.successes for share in counts), report.trials)
    names = ("masked", "sdc", "critical", "detected", "due")
    return {name: report[name].measurement() for name in names} | {"critical-or-due": failed.measurement()}
