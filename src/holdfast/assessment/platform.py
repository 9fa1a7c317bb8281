"""Stage six: which platform this is, told from output bits alone."""

from __future__ import annotations

from typing import Any

from holdfast.assessment.context import Context, Findings
from holdfast.data import Dataset, probes
from holdfast.evidence.record import Record
from holdfast.execution import Progress, Proportion
from holdfast.identification import (
    LOCAL_PLATFORMS,
    Identification,
    Identifier,
    collect_platforms,
    dtype_from_outputs,
    trace_on,
)
from holdfast.models import card

REFERENCES = ("default", "batch-1", "channels-last", "onednn-off", "bf16", "fp16")
OWN_PROCESS = ("onednn-avx2",)  # costs a start of torch each


def platform(context: Context) -> Record:
    """Fit references, then identify fresh passes of every one of them, and a fresh process of the default."""
    data = _probes(context)
    names = REFERENCES + (OWN_PROCESS if card(context.model).architecture is not None else ())
    parameters = {"references": list(names), "probes": len(data), "level": Identifier().level}

    def measure() -> Findings:
        progress = context.announce("platform traces")
        references = collect_platforms(context.model, data, names, progress=progress)
        identifier = Identifier().fit(list(references.items()))
        answers = _fresh_answers(context, data, identifier, progress)
        own = answers["default"]
        right = sum(name in answer.labels for name, answer in answers.items())
        facts: dict[str, Any] = {
            "class": own.label,
            "classes": len(identifier.classes_),
            "candidates": [
                {"label": " = ".join(item.labels), "equal_fraction": item.equal_fraction} for item in own.candidates
            ],
            "head": dtype_from_outputs(references["default"].outputs).dtype,
        }
        return {"identified": Proportion.wilson(right, len(answers)).measurement()}, facts

    return context.stage("platform", parameters, {"probes": data.digest}, measure)


def _probes(context: Context) -> Dataset:
    shape = tuple(context.test.raw.shape[1:])
    return probes("uniform", n=context.effort.probes, shape=shape, seed=context.seed)


def _fresh_answers(
    context: Context, data: Dataset, identifier: Identifier, progress: Progress
) -> dict[str, Identification]:
    """Identify one new trace of each in-process platform; the default's comes from a new process where possible."""
    answers = {}
    for done, name in enumerate(REFERENCES):
        fresh = name == "default" and card(context.model).architecture is not None
        answers[name] = identifier.predict(trace_on(LOCAL_PLATFORMS[name], context.model, data, fresh=fresh))
        progress(done + 1, len(REFERENCES))
    return answers
