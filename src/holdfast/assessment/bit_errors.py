"""Stage two: robust error against bit-error rate, for each way of storing the weights."""

from __future__ import annotations

from typing import Any

from torch import nn

from holdfast.assessment.context import Context, Findings
from holdfast.evidence.record import Measurement, Record
from holdfast.execution import RobustError, guarantee, robust_error
from holdfast.faults import BitErrors
from holdfast.models import manifest_of
from holdfast.quantization import quantize

TRAINED = "rquant8 + RandBET"


def bit_errors(context: Context) -> Record:
    """Sweep the rates over every arm on common chips."""
    effort, data = context.effort, context.evaluation.take(context.effort.images)
    parameters = {"rates": list(effort.rates), "chips": effort.chips, "images": len(data), "at": "weights"}
    if context.robust is not None:
        parameters["robust"] = manifest_of(context.robust).digest

    def measure() -> Findings:
        arms = arms_of(context)
        progress = context.announce("bit errors")
        results: dict[str, list[RobustError]] = {name: [] for name in arms}
        todo = [(name, rate) for rate in effort.rates for name in arms]
        for done, (name, rate) in enumerate(todo):
            fault = BitErrors(rate=rate)
            results[name].append(robust_error(arms[name], data, fault, chips=effort.chips, seed=context.seed))
            progress(done + 1, len(todo))
        deployed = list(arms)[-1]
        facts = {"curves": _curves(results, effort.rates), "deployed": deployed}
        facts["guarantees"] = _guarantees(results[deployed], effort.rates)
        return _measured(results, effort.rates), facts

    return context.stage("bit-errors", parameters, {"evaluation": data.digest}, measure)


def arms_of(context: Context) -> dict[str, nn.Module]:
    """Return the ways to store the weights; the last one is what the assessment would deploy."""
    arms = {
        "fp32": context.model,
        "int8": quantize(context.model, "int8"),
        "rquant8": quantize(context.model, "rquant8"),
    }
    if context.robust is not None:
        arms[TRAINED] = quantize(context.robust, "rquant8")
    return arms


def _measured(results: dict[str, list[RobustError]], rates: tuple[float, ...]) -> dict[str, Measurement]:
    found = {}
    for arm, errors in results.items():
        found[f"error[{arm}]"] = errors[0].clean.measurement()
        for rate, error in zip(rates, errors, strict=True):
            measurement = error.mean.measurement("proportion", least=0.0, most=1.0)
            found[f"robust-error[{arm}]@p={rate:g}"] = measurement
            if arm == list(results)[-1]:
                found[f"robust-error@p={rate:g}"] = measurement
    return found


def _curves(results: dict[str, list[RobustError]], rates: tuple[float, ...]) -> dict[str, list[dict[str, Any]]]:
    return {
        arm: [
            {
                "rate": rate,
                "mean": error.mean.value,
                "low": max(0.0, error.mean.low),
                "high": min(1.0, error.mean.high),
                "or_clean": error.mean_or_clean.value,
                "cvar": error.cvar(),
                "worst": error.worst,
                "nonfinite_chips": error.nonfinite_chips,
                "chips": list(error.per_chip),
            }
            for rate, error in zip(rates, errors, strict=True)
        ]
        for arm, errors in results.items()
    }


def _guarantees(errors: list[RobustError], rates: tuple[float, ...]) -> list[str]:
    """Return what each bound says about the lowest rate, where it says most, and what that is worth."""
    return [f"At a rate of {rates[0]:g}, {sentence}." for sentence in guarantee(errors[0]).sentences()]
