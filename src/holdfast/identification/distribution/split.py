"""Splits that share nothing: by input, run, machine or model; and checks that fail when something is shared.

HSPI's own scripts score on the data they were fitted to, or split rows at random although every group of images occurs
once for each platform, so that each test row has its twins in training (see docs/papers/hspi.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from holdfast.errors import InvalidConfig, VerificationError
from holdfast.identification.distribution.examples import Examples, Indices
from holdfast.seeds import Seed, derive

KEYS = ("inputs", "run", "machine", "model")


@dataclass(frozen=True, eq=False)
class Fold:
    """Rows to learn from and rows to be judged by; rows that share something with both are in neither."""

    train: Indices
    test: Indices


def require_keys(by: Sequence[str]) -> None:
    """Raise :class:`InvalidConfig` unless everything that is to be held out is one of :data:`KEYS`."""
    if missing := [key for key in by if key not in KEYS]:
        raise InvalidConfig(f"examples have no {missing[0]!r} to split by", hint="inputs, run, machine or model")


def groups(examples: Examples, key: str) -> Indices:
    """Return a group number (n,) for each example: two that share a source are in one, also by way of others."""
    first: dict[str, int] = {}
    parent = list(range(len(examples)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for place, names in enumerate(examples.sources(key)):
        for name in names:
            parent[root(place)] = root(first.setdefault(name, place))
    roots = [root(place) for place in range(len(examples))]
    numbers = {value: number for number, value in enumerate(dict.fromkeys(roots))}
    return np.array([numbers[value] for value in roots], dtype=np.int64)


def grouped_folds(
    examples: Examples, *, folds: int = 5, by: Sequence[str] = ("inputs",), seed: Seed | int = 0
) -> Iterator[Fold]:
    """Yield folds whose two sides share no source of any kind in ``by``.

    Each kind is dealt into parts of its own; a fold is judged on what lies in its part of every kind, and learns from
    what lies in none of them. A kind with fewer groups than folds lends its parts several times.

    Raises:
        InvalidConfig: a kind with a single group, or a class that could not be learned without it.
    """
    if folds < 2 or not by:
        raise InvalidConfig(f"{folds} folds by {list(by)} hold nothing out", hint="two folds or more, by inputs")
    parts = [_dealt(examples, key, folds, derive(seed, "folds", key)) for key in by]
    for number in range(folds):
        inside = np.stack([part == number % (part.max() + 1) for part in parts])
        fold = Fold(np.flatnonzero(~inside.any(0)), np.flatnonzero(inside.all(0)))
        if not len(fold.test):
            continue
        _require_learnable(examples, fold, by)
        require_no_leakage(examples.take(fold.train), examples.take(fold.test), by=by)
        yield fold


def _dealt(examples: Examples, key: str, folds: int, seed: Seed) -> Indices:
    """Return the part (n,) of each example: whole groups, in random order, each to the smallest part so far."""
    group = groups(examples, key)
    sizes = np.bincount(group)
    if len(sizes) < 2:
        raise InvalidConfig(
            f"all examples share one {key.removesuffix('s')} or are linked by it: nothing can be held out",
            hint=f"record more of them, or split by something other than {key}",
        )
    held = np.zeros(min(folds, len(sizes)), dtype=np.int64)
    part = np.empty(len(sizes), dtype=np.int64)
    for number in seed.numpy().permutation(len(sizes)):
        part[number] = held.argmin()
        held[part[number]] += sizes[number]
    return np.asarray(part[group])


def _require_learnable(examples: Examples, fold: Fold, by: Sequence[str]) -> None:
    known = {examples.labels[place] for place in fold.train}
    lost = sorted({examples.labels[place] for place in fold.test} - known)
    if lost:
        raise InvalidConfig(
            f"without what is held out by {' and '.join(by)} nothing of {', '.join(lost)} is left to learn from",
            hint="record every platform in more than one run, on more than one machine",
        )


def require_no_leakage(train: Examples, test: Examples, *, by: Sequence[str] = ("inputs",)) -> None:
    """Raise :class:`VerificationError` if what judges was seen in training: equal sets, shared sources, or twins."""
    require_unseen(
        test,
        digest=train.digest,
        rows=set(train.row_digests),
        sources={key: set().union(*train.sources(key)) for key in by},
    )


def require_unseen(test: Examples, *, digest: str, rows: set[str], sources: dict[str, set[str]]) -> None:
    """Raise :class:`VerificationError` if ``test`` shares with a training set what is named here of the latter.

    Args:
        test: what a classifier is to be judged by.
        digest: of the whole training set.
        rows: digests of its examples.
        sources: its inputs, runs, machines or models.
    """
    if test.digest == digest:
        raise VerificationError("leakage: the test set is the training set", hint="record other inputs to judge by")
    for key, known in sources.items():
        shared = sorted(set().union(*test.sources(key)) & known)
        if shared:
            raise VerificationError(
                f"leakage: {len(shared)} {key} are in training and test, {shared[0]} for one",
                hint=f"hold whole {key} out" if key != "inputs" else "record other inputs, such as another --seed",
            )
    twins = [place for place, row in enumerate(test.row_digests) if row in rows]
    if twins:
        raise VerificationError(
            f"leakage: {len(twins)} test examples have a twin in training: {test.labels[twins[0]]} for one",
            hint="outputs recorded twice: hold out inputs as well; or outputs that do not depend on the input",
        )
