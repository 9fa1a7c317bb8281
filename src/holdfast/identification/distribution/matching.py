"""Reference matching on the same recordings: what is left of the question once the inputs are known.

A second run of the same inputs is named by the class of the first run that shares most words with it, one input at a
time. It answers an easier question than a fingerprint does, and the one that a verifier who picks the inputs can ask.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.identification.distribution.recordings import Recording
from holdfast.identification.distribution.scores import Score, score
from holdfast.identification.identifier import UNKNOWN
from holdfast.numerics import bits


def match_runs(recordings: Sequence[Recording], *, seed: int = 0) -> Score:
    """Name every output of all runs but the first by the first; no unique nearest class makes ``unknown``.

    Raises:
        InvalidConfig: no model and inputs that were recorded in two runs.
    """
    truth: list[str] = []
    named: list[str] = []
    units: list[str] = []
    for key in dict.fromkeys((item.model, item.inputs) for item in recordings):
        alike = [item for item in recordings if (item.model, item.inputs) == key]
        first = min(item.run for item in alike)
        references = {item.label: item.trace.outputs for item in alike if item.run == first}
        for target in (item for item in alike if item.run != first and item.label in references):
            labels = _nearest(references, target.trace.outputs)
            truth.extend([target.label] * len(labels))
            named.extend(labels)
            units.extend(target.inputs)
    if not truth:
        raise InvalidConfig("nothing was recorded in two runs", hint="record the same inputs under another --run")
    place = {unit: number for number, unit in enumerate(dict.fromkeys(units))}
    return score("reference matching", truth, named, [place[unit] for unit in units], seed=seed)


def _nearest(references: dict[str, Tensor], outputs: Tensor) -> list[str]:
    labels = list(references)
    words = bits.int_view(outputs.contiguous())
    equal = torch.stack([(bits.int_view(item.contiguous()) == words).sum(1) for item in references.values()])
    best, place = equal.max(0)
    alone = (equal == best).sum(0) == 1
    return [labels[where] if one else UNKNOWN for where, one in zip(place.tolist(), alone.tolist(), strict=True)]
