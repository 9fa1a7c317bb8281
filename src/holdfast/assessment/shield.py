"""Stage seven: inference through an untrusted worker, bit-equal, and its lies caught."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.assessment.context import Context, Findings
from holdfast.evidence.record import Measurement, Record
from holdfast.execution import accuracy, campaign
from holdfast.faults import BitFlip
from holdfast.models.outputs import logits_of
from holdfast.numerics.bits import bit_equal
from holdfast.shielding import Freivalds, Session, int8_model, integer_layers, shield

_REPEATS = 5


def shielded(context: Context) -> Record:
    """Compare a shielded session with the plain int8 model, time it, and let its worker's answers lie."""
    effort = context.effort
    images, _ = context.evaluation.take(effort.shield_images).all()
    parameters = {"check": "freivalds-z64", "blinding": "uniform-z32", "images": len(images), "lies": effort.lies}
    inputs = {"evaluation": context.evaluation.digest, "calibration": context.calibration.digest}

    def measure() -> Findings:
        plain = int8_model(context.model, context.calibration.take(256))
        with shield(plain, worker="spawn", check=Freivalds()) as session:
            facts: dict[str, Any] = {"bit_equal": _equal(plain, session, images)}
            times, facts["timings"] = _times(context.model, plain, session, images[:1])
            caught = campaign(
                session,
                context.evaluation,
                BitFlip(),
                at="offload",
                trials=effort.lies,
                seed=context.seed,
                store=context.store,
                name="shield",
                progress=context.announce("lies of the worker"),
            )["detected"]
        facts["offloaded"] = list(integer_layers(plain))
        int8 = accuracy(plain, context.evaluation.take(effort.images))
        return {"detected": caught.measurement(), "int8-accuracy": int8.measurement(), **times}, facts

    return context.stage("shield", parameters, inputs, measure)


def _equal(plain: nn.Module, session: Session, images: Tensor) -> bool:
    with torch.no_grad():
        return bit_equal(logits_of(plain(images)), logits_of(session(images)))


def _times(
    model: nn.Module, plain: nn.Module, session: Session, image: Tensor
) -> tuple[dict[str, Measurement], dict[str, float]]:
    """Return latencies of one image (median, least and most of five runs), and the session's seconds by phase."""
    session.prepare(2 * _REPEATS)
    before = session.timings
    runs = {"fp32-latency": model, "int8-latency": plain, "shielded-latency": session}
    times = {name: _latency(lambda subject=subject: subject(image)) for name, subject in runs.items()}  # type: ignore[misc]
    spent = {phase: (seconds - before[phase]) / (_REPEATS + 1) for phase, seconds in session.timings.items()}
    return times, spent


def _latency(action: Callable[[], Tensor]) -> Measurement:
    seconds = []
    with torch.no_grad():
        action()
        for _ in range(_REPEATS):
            start = time.perf_counter()
            action()
            seconds.append(time.perf_counter() - start)
    return Measurement(statistics.median(seconds), min(seconds), max(seconds), _REPEATS, "s")
