"""The rows of ``model_stealing`` for people: a line per arm as it is done, and the tables of the documentation.

One seed has Wilson's interval over test images, and its lead over the black box is paired over them. Several have
Student's interval over seeds, each of which is a repetition of everything; where seeds happen to agree it is no
narrower than the images alone allow.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scipy import stats

Row = Mapping[str, Any]
Arm = tuple[str, str, bool]
_LEAD = "ahead of the black box"


def line(row: Row) -> str:
    """Return one arm of one seed."""
    prior = "public known" if row["public"] else "no prior"
    cells = [
        f"{point['budget']}: {figure([point['fidelity']], 0.0)}, accuracy {figure([point['accuracy']], 0.0)}"
        for point in row["points"]
    ]
    return " | ".join([f"seed {row['seed']}", row["victim"], row["placement"], prior, *cells])


def tables(rows: Sequence[Row]) -> Iterator[str]:
    """Yield what victims are, what no question buys under each rule, and what questions buy, as Markdown."""
    arms = grouped(rows)
    for part in (victims(arms), unasked(arms), asked(arms)):
        yield from part
        yield ""


def grouped(rows: Sequence[Row]) -> dict[Arm, list[Row]]:
    """Return the seeds of each arm."""
    groups: dict[Arm, list[Row]] = {}
    for row in rows:
        groups.setdefault((row["victim"], row["placement"], row["public"]), []).append(row)
    return groups


def victims(arms: Mapping[Arm, Sequence[Row]]) -> Iterator[str]:
    """Yield accuracy, similarity to the public model, and the bars, of each victim."""
    yield "| victim | accuracy | cosine to the public weights | nats per weight | constant answer | public model |"
    yield "|---|---|---|---|---|---|"
    seen: set[str] = set()
    for (victim, _, _), rows in arms.items():
        if victim not in seen:
            seen.add(victim)
            shares = [figure([row[key] for row in rows], 0.0) for key in ("victim accuracy", "constant answer")]
            near = [sum(row["similarity"][key] for row in rows) / len(rows) for key in ("cosine", "information")]
            public = figure([row["public accuracy"] for row in rows], 0.0)
            yield f"| {victim} | {shares[0]} | {near[0]:.3f} | {near[1]:.2f} | {shares[1]} | {public} |"


def unasked(arms: Mapping[Arm, Sequence[Row]]) -> Iterator[str]:
    """Yield the fidelity of copies without a question: a line per rule, a column per victim and prior."""
    heads = sorted({(victim, public) for victim, _, public in arms}, key=lambda head: (_order(arms, head[0]), head[1]))
    words = [f"{victim}, {'public known' if public else 'no prior'}" for victim, public in heads]
    yield f"| no question, under | {' | '.join(words)} |"
    yield f"|---|{'---|' * len(heads)}"
    for placement in dict.fromkeys(placement for _, placement, _ in arms):
        found = [arms.get((victim, placement, public)) for victim, public in heads]
        cells = [figure([row["points"][0]["fidelity"] for row in rows], 0.0) if rows else "-" for rows in found]
        yield f"| {placement} | {' | '.join(cells)} |"


def asked(arms: Mapping[Arm, Sequence[Row]]) -> Iterator[str]:
    """Yield fidelity by budget, and the lead over the black box, of all arms in which questions were asked."""
    budgets = [point["budget"] for rows in arms.values() for point in rows[0]["points"] if point["budget"]]
    columns = list(dict.fromkeys(budgets))
    heads = " | ".join(f"{budget} questions | ahead of the black box" for budget in columns)
    yield f"| victim | public model | under | {heads} |"
    yield f"|---|---|---|{'---|---|' * len(columns)}"
    for (victim, placement, public), rows in arms.items():
        if len(rows[0]["points"]) > 1 and "shows what it does" not in rows[0]:
            cells = [cell for number in range(1, len(columns) + 1) for cell in _pair(rows, number)]
            yield f"| {victim} | {'known' if public else '-'} | {placement} | {' | '.join(cells)} |"


def _pair(rows: Sequence[Row], number: int) -> tuple[str, str]:
    points = [row["points"][number] for row in rows]
    leads = [point[_LEAD] for point in points if _LEAD in point]
    return figure([point["fidelity"] for point in points], 0.0), figure(leads, -1.0, "+") if leads else "-"


def _order(arms: Mapping[Arm, Sequence[Row]], victim: str) -> int:
    return list(dict.fromkeys(name for name, _, _ in arms)).index(victim)


def figure(values: Sequence[Mapping[str, Any]], least: float, sign: str = "") -> str:
    """Return a share in percent with its interval: its own for one seed, over seeds for several."""
    if len(values) == 1:
        value, low, high = (float(values[0][key]) for key in ("value", "low", "high"))
    else:
        value, low, high = over_seeds(values, least)
    return f"{100 * value:{sign}.1f} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def over_seeds(values: Sequence[Mapping[str, Any]], least: float) -> tuple[float, float, float]:
    """Return the mean over seeds with its interval, cut to ``least`` .. 1."""
    shares = [float(one["value"]) for one in values]
    mean, n = statistics.fmean(shares), len(shares)
    images = math.hypot(*((float(one["high"]) - float(one["low"])) / 2 for one in values)) / n
    half = max(float(stats.t.ppf(0.975, n - 1)) * statistics.stdev(shares) / math.sqrt(n), images)
    return mean, max(mean - half, least), min(mean + half, 1.0)


def modes(rows: Sequence[Row], budget: int) -> Iterator[str]:
    """Yield what each mode was worth against whoever knows the public model, for the threat model."""
    yield f"| mode | hidden of all parameters | no question | {budget} questions | ahead of the black box |"
    yield "|---|---|---|---|---|"
    arms = grouped(rows)
    for placement in dict.fromkeys(placement for _, placement, _ in arms):
        own = "private slices" if placement.startswith("private") else "fine-tuned"
        if (found := arms.get((own, placement, True))) is None:
            continue
        numbers = [number for number, point in enumerate(found[0]["points"]) if point["budget"] == budget]
        after = _pair(found, numbers[0]) if numbers else ("not measured", "-")
        hidden = f"{found[0]['hidden'] / found[0]['parameters']:.1%}"
        first = figure([row["points"][0]["fidelity"] for row in found], 0.0)
        yield f"| {placement} | {hidden} | {first} | {after[0]} | {after[1]} |"
