"""Tables of outcomes: how far silent corruption reaches, what made trials DUE, and what a second try recovers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from holdfast._registry import unknown
from holdfast.errors import InvalidConfig
from holdfast.execution.compare import Cause, Outcome
from holdfast.execution.row import Row
from holdfast.execution.statistics import Proportion

# edges of the buckets: what lies below the first is as good as nothing, what lies above the last is far out of line
EDGES: dict[str, tuple[float, ...]] = {
    "max_ulp": (2.0, 2.0**8, 2.0**16, 2.0**23),
    "max_relative": (1e-6, 1e-4, 1e-2, 1.0),
    "max_absolute": (1e-6, 1e-3, 1.0, 1e3),
    "divergence": (1e-9, 1e-6, 1e-3, 1e-1),
    "probability": (1e-6, 1e-4, 1e-2, 1e-1),
    "perplexity": (1.001, 1.01, 1.1, 2.0),
    "edits": (1.0, 2.0, 4.0, 8.0),
}


def by_distance(
    rows: Iterable[Row],
    measure: str = "max_relative",
    *,
    edges: Sequence[float] | None = None,
    outcomes: Sequence[str] = (Outcome.SDC.value,),
) -> dict[str, int]:
    """Return the number of trials in each bucket of a distance, from near to far.

    Buckets are half open: an edge belongs to the bucket above it. Trials without that distance are left out.

    Args:
        rows: of a campaign.
        measure: a distance of :class:`~holdfast.execution.row.Row`: ``max_ulp``, ``max_relative``, ``max_absolute``,
            ``divergence``, ``probability``, ``perplexity`` or ``edits``.
        edges: rising; None: those of :data:`EDGES`.
        outcomes: that are counted; tolerable silent corruption, unless others are asked for.

    Raises:
        UnknownName: another measure.
        InvalidConfig: edges that do not rise.
    """
    if measure not in EDGES:
        raise unknown("distance", measure, EDGES)
    edges = EDGES[measure] if edges is None else tuple(edges)
    if not edges or any(a >= b for a, b in pairwise(edges)):
        raise InvalidConfig("the edges of buckets rise", hint="for example edges=[1e-6, 1e-3]")
    names = [f"< {edges[0]:g}", *(f"{a:g} .. {b:g}" for a, b in pairwise(edges)), f">= {edges[-1]:g}"]
    found = Counter(_place(getattr(row, measure), edges) for row in rows if row.outcome in outcomes)
    return {name: found[place] for place, name in enumerate(names)}


def by_cause(rows: Iterable[Row]) -> dict[str, int]:
    """Return the number of DUEs of each cause; those of an older store, which holds none, are ``unknown``."""
    found = Counter(row.cause or "unknown" for row in rows if row.outcome == Outcome.DUE)
    return {cause.value: found[cause.value] for cause in Cause} | {
        name: count for name, count in found.items() if name not in set(Cause)
    }


def recovered(rows: Iterable[Row], confidence: float = 0.95) -> Proportion:
    """Return the share of trials that went wrong and that a second try set right, with Wilson's interval.

    Raises:
        InvalidConfig: nothing was run a second time.
    """
    again = [row.rerun for row in rows if row.rerun is not None]
    if not again:
        raise InvalidConfig("no trial of this campaign was run a second time", hint="run it with rerun=True")
    return Proportion.wilson(again.count("transient"), len(again), confidence)


def _place(value: float | None, edges: Sequence[float]) -> int | None:
    return None if value is None else sum(value >= edge for edge in edges)
