"""Campaigns over chips and their records: robust error by rate, two models on the same chips, and sensitivity."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from holdfast._device import device_named
from holdfast._files import make_folder, write_atomic
from holdfast.assessment.context import silent, tool
from holdfast.assessment.laws import laws
from holdfast.assessment.standing import require_same_question
from holdfast.data import Dataset
from holdfast.evidence.record import Measurement, Record
from holdfast.execution import (
    ChipPairs,
    Fault,
    Guarantee,
    MeanEstimate,
    Progress,
    Proportion,
    RobustError,
    Sensitivity,
    describe_platform,
    guarantee,
    pair_chips,
    robust_error,
    sensitivity,
)
from holdfast.models import card, manifest_of, model_subject
from holdfast.quantization import placed
from holdfast.seeds import derive

STORE = "chips.sqlite"
WORST, QUANTILES, DELTA = 0.1, (0.5, 0.9), 0.01


@dataclass(frozen=True, kw_only=True)
class ChipOptions:
    """What every campaign over chips takes; ``folder`` receives the store and the record.

    Raises:
        InvalidConfig: ``device`` means nothing.
        MissingDevice: it is not here.
    """

    folder: Path
    at: str = "weights"
    chips: int = 50
    half_width: float | None = None
    max_chips: int = 1000
    confidence: float = 0.95
    seed: int = 0
    images: int | None = None  # the first of the data; None: all
    executor: str = "inline"
    device: str | None = None  # where models compute and chips are drawn; None: where each model is
    announce: Callable[[str], Progress] = silent

    def __post_init__(self) -> None:
        if self.device is not None:
            device_named(self.device)

    def placing(self, model: nn.Module) -> AbstractContextManager[None]:
        """Have ``model`` and its codes on the device for the length of a block."""
        return nullcontext() if self.device is None else placed(model, self.device)

    def measured(self) -> dict[str, Any]:
        """Return the keyword arguments of one measurement."""
        names = ("at", "chips", "half_width", "max_chips", "confidence", "seed", "executor")
        return {name: getattr(self, name) for name in names} | {"store": make_folder(self.folder) / STORE}

    def procedure(self, kind: str, fault: str) -> dict[str, Any]:
        """Return what a record says about how it was measured."""
        names = ("at", "chips", "half_width", "max_chips", "confidence", "images")
        found = {"type": kind, "version": 1, "fault": fault} | {name: getattr(self, name) for name in names}
        return found if self.device is None else found | {"device": self.device}

    def require_same(
        self, kind: str, model: nn.Module, procedure: Mapping[str, Any], inputs: Mapping[str, str]
    ) -> None:
        """Raise :class:`InvalidConfig` where the record that stands in the folder answers another question."""
        require_same_question(self.folder / f"{kind}.json", model, procedure, inputs, self.seed)

    def of(self, data: Dataset) -> Dataset:
        """Return the images that are evaluated."""
        return data if self.images is None else data.take(self.images)


def robust_error_record(
    model: nn.Module,
    data: Dataset,
    fault: str,
    options: ChipOptions,
    *,
    rates: Sequence[float] = (),
    against: nn.Module | None = None,
) -> Record:
    """Measure robust error at every rate and write ``robust-error.json`` beside the store.

    Args:
        model: any classifier.
        data: labelled images.
        fault: specification, ``bit-errors:rate=0.01``, or ``bit-errors`` with ``rates``.
        options: sizes, seed and folder.
        rates: several, on common chips: the errors of a lower rate are among those of a higher one.
        against: a second model on the same chips; differences are its error minus that of ``model``.

    Raises:
        InvalidConfig: the folder holds an answer to another question.
    """
    data, known = options.of(data), laws(fault, rates)
    procedure = options.procedure("robust-error", fault) | {"rates": list(rates)}
    inputs = {"evaluation": data.digest}
    if against is not None:
        inputs["other-model"] = manifest_of(against).digest
    options.require_same("robust-error", model, procedure, inputs)
    measured: dict[str, Measurement] = {}
    points: dict[str, Any] = {}
    warnings: list[str] = []
    for label, law in known.items():
        first = _error(model, data, law, options, label)
        measured |= _measures(first, label)
        points[label] = _facts(first, options.seed)
        warnings += _doubts(data, first.clean, "the model")
        if against is not None:
            second = _error(against, data, law, options, f"{label}, other model")
            found = pair_chips(first, second)
            warnings += _doubts(data, second.clean, "the other model")
            measured[f"difference@{label}"] = found.difference.measurement("proportion", least=-1.0, most=1.0)
            points[label] |= {"other": _facts(second, options.seed), "pairs": _pairs(found)}
    facts = {"points": points, "warnings": list(dict.fromkeys(warnings))}
    return write_record("robust-error", model, options, procedure, inputs, measured, facts)


def sensitivity_record(model: nn.Module, data: Dataset, fault: str, options: ChipOptions, *, by: str) -> Record:
    """Measure every group of bits by itself and write ``bit-error-sensitivity.json`` beside the store.

    Args:
        model: any classifier.
        data: labelled images.
        fault: specification with its rate.
        options: sizes, seed and folder.
        by: ``site``, ``role``, ``bit`` or ``field``.

    Raises:
        InvalidConfig: the folder holds an answer to another question.
    """
    data = options.of(data)
    ((label, law),) = laws(fault).items()
    procedure, inputs = options.procedure("bit-error-sensitivity", fault) | {"by": by}, {"evaluation": data.digest}
    options.require_same("bit-error-sensitivity", model, procedure, inputs)
    progress = options.announce(f"by {by}, {label}")
    with options.placing(model):
        here = data if options.device is None else data.to(options.device)
        parts = sensitivity(model, here, law, by=by, progress=progress, name=label, **options.measured())
    measured = {f"increase[{part.group}]": _cut(part.increase) for part in parts}
    measured["error"] = parts[0].error.clean.measurement()
    doubts = _doubts(data, parts[0].error.clean, "the model")
    facts = {"by": by, "warnings": doubts, "groups": [_group(part, options.seed) for part in parts]}
    return write_record("bit-error-sensitivity", model, options, procedure, inputs, measured, facts)


def _error(model: nn.Module, data: Dataset, law: Fault, options: ChipOptions, label: str) -> RobustError:
    progress = options.announce(f"chips, {label}")
    with options.placing(model):
        return robust_error(model, data, law, name=label, progress=progress, **options.measured())


def _doubts(data: Dataset, clean: Proportion, who: str) -> list[str]:
    """Return a warning where the error without faults is no better than that of guessing."""
    guessing = 1 - 1 / max(1, len(data.classes))
    if not guessing or clean.high < guessing:
        return []
    return [f"{who} is no better than guessing without any fault ({clean.value:.2%} wrong)"]


def _measures(error: RobustError, label: str) -> dict[str, Measurement]:
    found = {
        "robust-error": error.mean.measurement("proportion"),
        "robust-error-or-clean": error.mean_or_clean.measurement("proportion"),
        "robust-error-anytime": error.anytime.measurement("proportion"),
        "robust-error-test-set": error.test_set.measurement("proportion"),
    }
    found |= {f"robust-error-q{100 * q:g}": error.quantile(q).measurement("proportion") for q in QUANTILES}
    return {"error": error.clean.measurement()} | {f"{name}@{label}": item for name, item in found.items()}


def _facts(error: RobustError, seed: int) -> dict[str, Any]:
    """Return what has no interval, as JSON."""
    chip = error.worst_chip
    return {
        "random": error.random,
        "chips": list(error.per_chip),
        "chips_or_clean": list(error.per_chip_or_clean),
        "std": finite(error.mean.std),
        "cvar": {"share": WORST, "error": error.cvar(WORST)},
        "worst": {"chip": chip, "error": error.worst, "seed": f"{derive(seed, 'chip', chip).key:032x}"},
        "flips": list(error.flips),
        "nonfinite_images": list(error.nonfinite),
        "nonfinite_chips": error.nonfinite_chips,
        "guarantee": _bounds(guarantee(error, DELTA)) if error.random else None,
    }


def _bounds(found: Guarantee) -> dict[str, Any]:
    numbers = {"delta": found.delta, "published": found.published, "split": found.split, "adaptive": found.adaptive}
    return numbers | {"sentences": found.sentences()}


def _pairs(found: ChipPairs) -> dict[str, Any]:
    return {
        "anytime": [found.anytime.low, found.anytime.high],
        "over_images": [finite(found.over_images.low), finite(found.over_images.high)],
        "p_t_test": finite(found.t_test),
        "p_wilcoxon": found.wilcoxon,
        "p_sign": found.sign,
        "first_better": found.first_better,
        "second_better": found.second_better,
        "correlation": finite(found.correlation),
    }


def _group(part: Sensitivity, seed: int) -> dict[str, Any]:
    facts = _facts(part.error, seed)
    kept = ("chips", "std", "worst", "flips", "nonfinite_chips")
    return {"group": part.group, "bits": part.bits, "per_flip": part.per_flip} | {key: facts[key] for key in kept}


def _cut(change: MeanEstimate) -> Measurement:
    return change.measurement("proportion", least=-1.0, most=1.0)


def finite(value: float) -> float | None:
    """Return the value, or None where there is none, as of a spread over one chip: JSON has no NaN."""
    return value if math.isfinite(value) else None


def write_record(
    kind: str,
    model: nn.Module,
    options: ChipOptions,
    procedure: dict[str, Any],
    inputs: dict[str, str],
    measured: dict[str, Measurement],
    facts: dict[str, Any],
) -> Record:
    """Return the record of a campaign over chips, also written into its folder as ``KIND.json``."""
    record = Record(
        kind=kind,
        subject=model_subject(model),
        procedure=procedure,
        measured=measured,
        inputs=inputs,
        facts=facts,
        seed=options.seed,
        platform=describe_platform().to_json(),
        lineage=tuple(step.to_json() for step in card(model).lineage),
        tool=tool(),
    )
    write_atomic(make_folder(options.folder) / f"{kind}.json", record.to_bytes())
    return record
