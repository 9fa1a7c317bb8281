"""Stage one: what the model is, and how right it is without faults."""

from __future__ import annotations

from holdfast.assessment.context import Context, Findings
from holdfast.evidence.record import Record
from holdfast.execution import accuracy
from holdfast.models import card, manifest_of


def artifact(context: Context) -> Record:
    """Measure clean accuracy over the whole test set, on the float model."""

    def measure() -> Findings:
        clean = accuracy(context.model, context.test, progress=context.announce("clean accuracy"))
        facts = {
            "architecture": card(context.model).architecture,
            "dataset": context.test.name,
            "weights": sum(value.numel() for value in context.model.parameters()),
            "leaves": len(manifest_of(context.model).leaves),
            "correct": clean.successes,
        }
        return {"clean-accuracy": clean.measurement()}, facts

    return context.stage("artifact", {}, {"test": context.test.digest}, measure)
