"""Campaigns over chips on language models, and their record."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import nn

from holdfast.assessment.chips import WORST, ChipOptions, finite, write_record
from holdfast.assessment.laws import laws
from holdfast.data import Text
from holdfast.errors import InvalidConfig
from holdfast.evidence.record import Measurement, Record
from holdfast.execution import LanguageRobustness, Reading, language_robustness, language_sensitivity

KIND = "language-bit-errors"


def language_record(
    model: nn.Module,
    text: Text,
    fault: str,
    options: ChipOptions,
    *,
    rates: Sequence[float] = (),
    by: str | None = None,
    reading: Reading | None = None,
    collapse: float = 10.0,
) -> Record:
    """Measure a language model at every rate, or every group of bits at one, and write ``language-bit-errors.json``.

    Args:
        model: any causal language model.
        text: what it reads.
        fault: specification, ``bit-errors:rate=1e-5``, or ``bit-errors`` with ``rates``.
        options: sizes, seed, folder and device; ``half_width`` does not apply.
        rates: several, on common chips.
        by: ``site``, ``role``, ``bit`` or ``field``: one group at a time.
        reading: how much is read and continued.
        collapse: times the clean perplexity from which a model counts as collapsed.

    Raises:
        InvalidConfig: a half-width, which is of an error that language models do not have, or a folder that holds an
            answer to another question.
    """
    if options.half_width is not None:
        raise InvalidConfig("a half-width is of a classifier's error", hint="give the number of chips for a text")
    how = reading or Reading()
    procedure = options.procedure(KIND, fault) | {"rates": list(rates), "by": by, "reading": asdict(how)}
    procedure |= {"collapse": collapse}
    inputs = {"text": text.digest}
    options.require_same(KIND, model, procedure, inputs)
    shared = options.measured() | {"reading": how, "collapse": collapse}
    shared = {key: value for key, value in shared.items() if key not in ("half_width", "max_chips")}
    with options.placing(model):
        found = (
            _grouped(model, text, fault, options, by, shared)
            if by
            else _by_rate(model, text, fault, options, rates, shared)
        )
    first = next(iter(found.values()))
    measured = {"perplexity": first.clean_perplexity.measurement()}
    for label, item in found.items():
        measured |= {f"{name}@{label}": value for name, value in _measures(item).items()}
    facts = {"by": by, "points": {label: _facts(item) for label, item in found.items()}}
    return write_record(KIND, model, options, procedure, inputs, measured, facts)


def _by_rate(
    model: nn.Module, text: Text, fault: str, options: ChipOptions, rates: Sequence[float], shared: Mapping[str, Any]
) -> dict[str, LanguageRobustness]:
    return {
        label: language_robustness(
            model, text, law, name=f"text, {label}", progress=options.announce(f"chips, {label}"), **shared
        )
        for label, law in laws(fault, rates).items()
    }


def _grouped(
    model: nn.Module, text: Text, fault: str, options: ChipOptions, by: str, shared: Mapping[str, Any]
) -> dict[str, LanguageRobustness]:
    ((label, law),) = laws(fault).items()
    progress = options.announce(f"by {by}, {label}")
    return language_sensitivity(model, text, law, by=by, name=f"text, {label}", progress=progress, **shared)


def _measures(found: LanguageRobustness) -> dict[str, Measurement]:
    """Return what is a finite number with a finite interval; the rest is among the facts."""
    measured = {
        "collapse-rate": found.collapse.measurement(),
        "predictions-moved": found.predictions_moved.measurement("proportion"),
        "texts-changed": found.changed.measurement("proportion"),
        "texts-changed-anytime": found.changed_anytime.measurement("proportion"),
        "edit-distance": found.edit_share.measurement("per new token"),
    }
    middle = found.median_ratio
    if math.isfinite(middle.high):
        measured["median-ratio"] = middle.measurement()
    return measured


def _facts(found: LanguageRobustness) -> dict[str, Any]:
    standing = found.mean_ratio_standing
    return {
        "chips": found.chips,
        "nll": [finite(value) for value in found.per_chip],
        "collapsed": found.collapse.successes,
        "median_ratio": finite(found.median_ratio.value),
        "mean_ratio": finite(found.mean_ratio),
        "mean_ratio_standing": None if standing is None else standing.value,
        "cvar_ratio": {"share": WORST, "ratio": finite(found.cvar_ratio(WORST))},
        "moved": list(found.moved),
        "texts_changed": list(found.changed_per_chip),
        "first_divergence": found.first_divergence,
        "flips": list(found.flips),
        "nonfinite_chips": sum(count > 0 for count in found.nonfinite),
    }
