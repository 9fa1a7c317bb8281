"""How well labels were named: accuracy, F1 of each class and Matthews' correlation, with intervals over groups.

Examples that share an input are not independent, so the bootstrap (Efron, 1979; percentiles) draws whole groups. Where
all groups say the same it collapses to a point, and where nearly all do it is too short. So an interval is, where
fewer than five groups differ from the commonest, the hull of it and of Wilson's (1927) with as many observations as
there are effective groups (Kish, 1965): the square of the sum of their sizes over the sum of the squares. A group's
mean varies at most like a coin of the same mean, which is what Wilson's assumes. F1 is a mean over all times that a
label is true or named, so its groups are weighed by these; Matthews' correlation goes from -1 to 1 and is mapped to
0 .. 1 and back, which is no theorem but does not collapse either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast.errors import InvalidConfig
from holdfast.evidence.record import Measurement
from holdfast.execution.statistics import wilson_of_mean
from holdfast.seeds import derive

Table = npt.NDArray[np.float64]
_RESAMPLES = 1000
_ENOUGH = 5  # groups that differ, as the rule of thumb asks for of successes and failures


@dataclass(frozen=True, slots=True)
class Score:
    """One way of naming labels, judged.

    Attributes:
        name: of the way.
        labels: rows of ``confusion``; its columns are these and, last, any other answer.
        confusion: counts, (labels, labels + 1).
        f1: of each label; None for one that neither occurred nor was named.
        groups: independent units.
    """

    name: str
    labels: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    accuracy: Measurement
    mcc: Measurement
    f1: Mapping[str, Measurement | None]
    groups: int

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "name": self.name,
            "labels": list(self.labels),
            "confusion": [list(row) for row in self.confusion],
            "accuracy": self.accuracy.to_json(),
            "mcc": self.mcc.to_json(),
            "f1": {label: value.to_json() if value else None for label, value in self.f1.items()},
            "groups": self.groups,
        }


def score(
    name: str,
    truth: Sequence[str],
    named: Sequence[str],
    groups: Sequence[int] | npt.NDArray[np.int64],
    *,
    seed: int = 0,
) -> Score:
    """Judge what was named (n,) by what is true (n,); ``groups`` (n,) says which examples belong together.

    Labels go by name, never by position, and a class that does not occur takes no part in any mean.

    Raises:
        InvalidConfig: nothing to judge, or lengths that differ.
    """
    if not len(truth) or not len(truth) == len(named) == len(groups):
        raise InvalidConfig(f"{len(named)} answers in {len(groups)} places do not fit {len(truth)} labels")
    labels = tuple(sorted(set(truth)))
    tables = _tables(labels, truth, named, np.unique(np.asarray(groups), return_inverse=True)[1])
    generator = derive(seed, "bootstrap", name).numpy()
    drawn = generator.multinomial(len(tables), np.full(len(tables), 1 / len(tables)), size=_RESAMPLES)
    again = np.tensordot(drawn.astype(np.float64), tables, 1)
    whole, n = tables.sum(axis=0), len(truth)
    f1, spread = f1_of(whole), f1_of(again)
    (overall,) = _too_alike(_right(tables).sum(-1)[:, None], tables.sum((1, 2))[:, None])
    each = _too_alike(2 * _right(tables), _mentions(tables))
    return Score(
        name,
        labels,
        tuple(tuple(int(count) for count in row) for row in whole),
        _measured(float(accuracy_of(whole)), accuracy_of(again), n, overall),
        _measured(float(mcc_of(whole)), mcc_of(again), n, overall, least=-1.0),
        {
            label: None if math.isnan(f1[place]) else _measured(float(f1[place]), spread[:, place], n, each[place])
            for place, label in enumerate(labels)
        },
        len(tables),
    )


def accuracy_of(tables: Table) -> Table:
    """Return the share named rightly, (...), of tables of counts (..., labels, labels + 1)."""
    return np.asarray(_right(tables).sum(-1) / tables.sum((-2, -1)))


def f1_of(tables: Table) -> Table:
    """Return 2 TP / (2 TP + FP + FN) of each label, (..., labels); NaN for one that neither occurred nor was named."""
    right = _right(tables)
    total = _mentions(tables)
    return np.asarray(np.divide(2 * right, total, out=np.full(right.shape, np.nan), where=total > 0))


def mcc_of(tables: Table) -> Table:
    """Return Matthews' correlation for several classes (Gorodkin, 2004), (...); 0 where one side is constant."""
    total, true, said = tables.sum((-2, -1)), tables.sum(-1), tables.sum(-2)  # nothing is truly of the last, other kind
    agreed = _right(tables).sum(-1) * total - (true * said[..., :-1]).sum(-1)
    scale = np.sqrt((total**2 - (true**2).sum(-1)) * (total**2 - (said**2).sum(-1)))
    return np.asarray(np.divide(agreed, scale, out=np.zeros(agreed.shape), where=scale > 0))


def _right(tables: Table) -> Table:
    return np.diagonal(tables[..., :-1], axis1=-2, axis2=-1)


def _tables(labels: tuple[str, ...], truth: Sequence[str], named: Sequence[str], group: npt.NDArray[np.int64]) -> Table:
    place = {label: number for number, label in enumerate(labels)}
    rows = np.array([place[label] for label in truth])
    columns = np.array([place.get(label, len(labels)) for label in named])
    tables = np.zeros((int(group.max()) + 1, len(labels), len(labels) + 1))
    np.add.at(tables, (group, rows, columns), 1)
    return tables


def _mentions(tables: Table) -> Table:
    """Return how often each label, (..., labels), is true or named."""
    return np.asarray(tables.sum(-1) + tables[..., :-1].sum(-2))


def _too_alike(right: Table, sizes: Table) -> list[int | None]:
    """Return the effective number of groups for each column (groups, columns), or None where enough of them differ."""
    found: list[int | None] = []
    for part, size in zip(right.T, sizes.T, strict=True):
        shares = part[size > 0] / size[size > 0]
        alike = int(np.unique(shares, return_counts=True)[1].max(initial=0))
        effective = int(size.sum() ** 2 / max(float((size**2).sum()), 1.0) + 1e-9)
        found.append(max(1, effective) if len(shares) - alike < _ENOUGH else None)
    return found


def _measured(value: float, spread: Table, n: int, groups: int | None, *, least: float = 0.0) -> Measurement:
    """Return ``value`` in ``least`` .. 1 with percentiles, and Wilson's interval beyond them given ``groups``."""
    low, high = np.nanpercentile(spread, [2.5, 97.5])
    if groups is not None:
        coin = wilson_of_mean(min(max((value - least) / (1 - least), 0.0), 1.0), groups)
        low, high = min(low, least + (1 - least) * coin.low), max(high, least + (1 - least) * coin.high)
    return Measurement(value, min(float(low), value), max(float(high), value), n, "proportion")
