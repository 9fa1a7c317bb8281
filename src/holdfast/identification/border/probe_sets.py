"""The fewest border inputs that tell all known platforms apart from their labels alone.

The rows of a table are platforms, its columns inputs, its entries labels. Choosing the fewest columns that keep all
rows different is the test-cover problem: greedy is within 1 + 2 ln(platforms) of the best (Moret & Shapiro, 1985), and
small tables are solved exactly. A tree over the table (``probe_tree``) asks fewer still, as its next input depends on
the answers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from holdfast.errors import InvalidConfig
from holdfast.identification.matching_tree import ProbeTree

Table = Mapping[str, Sequence[int | None]]  # platform -> label of each input; None where it keeps none
_EXACT = 50_000  # subsets that are tried before greedy is good enough


@dataclass(frozen=True)
class ProbeSet:
    """Chosen inputs and what they tell apart.

    Attributes:
        inputs: columns of the table, in the order of choice.
        classes: platforms that these inputs separate from all others, grouped where they cannot be told apart.
        smallest: whether fewer inputs cannot do it, as every smaller choice was tried.
    """

    inputs: tuple[int, ...]
    classes: tuple[tuple[str, ...], ...]
    smallest: bool


def probe_set(table: Table) -> ProbeSet:
    """Return the fewest inputs that separate every pair of platforms that the whole table separates.

    A label that a platform does not keep (None) separates it from nobody.

    Raises:
        InvalidConfig: fewer than two platforms, or rows of different lengths.
    """
    count = _width(table)
    wanted = _separated(table, range(count))
    greedy = _greedy(table, count, wanted)
    exact = _exact(table, count, wanted, len(greedy))
    chosen = greedy if exact is None else exact
    return ProbeSet(tuple(chosen), _classes(table, wanted), exact is not None)


def _width(table: Table) -> int:
    lengths = {len(row) for row in table.values()}
    if len(table) < 2 or len(lengths) != 1:
        raise InvalidConfig("a table holds the labels of two platforms or more, for the same inputs each")
    return lengths.pop()


def _separated(table: Table, columns: Sequence[int] | range) -> set[tuple[str, str]]:
    return {
        (one, two)
        for one, two in itertools.combinations(sorted(table), 2)
        if any(_differ(table[one][column], table[two][column]) for column in columns)
    }


def _differ(one: int | None, two: int | None) -> bool:
    return one is not None and two is not None and one != two


def _greedy(table: Table, count: int, wanted: set[tuple[str, str]]) -> list[int]:
    parts = [_separated(table, [column]) for column in range(count)]
    chosen, left = list[int](), set(wanted)
    while left:
        best = max(range(count), key=lambda column: (len(parts[column] & left), -column))
        chosen.append(best)
        left -= parts[best]
    return chosen


def _exact(table: Table, count: int, wanted: set[tuple[str, str]], most: int) -> list[int] | None:
    """Return the smallest cover, or None where there are too many to try."""
    parts = [_separated(table, [column]) for column in range(count)]
    tried = 0
    for size in range(most + 1):
        tried += math.comb(count, size)
        if tried > _EXACT:
            return None
        for columns in itertools.combinations(range(count), size):
            if set[tuple[str, str]]().union(*(parts[column] for column in columns)) == wanted:
                return list(columns)
    return None


def _classes(table: Table, separated: set[tuple[str, str]]) -> tuple[tuple[str, ...], ...]:
    """Group platforms that are joined by a chain of pairs nobody separates."""
    groups: list[set[str]] = []
    for name in sorted(table):
        joined = [group for group in groups if any((other, name) not in separated for other in group)]
        groups = [group for group in groups if group not in joined] + [{name}.union(*joined)]
    return tuple(sorted(tuple(sorted(group)) for group in groups))


def named_right(tree: ProbeTree, chosen: ProbeSet, platform: str, labels: Sequence[int | None]) -> bool:
    """Whether labels that ``platform`` gives lead to it, and to none outside the class that it is in.

    Args:
        tree: over the recorded labels.
        chosen: what those labels tell apart.
        platform: who gives the labels.
        labels: of each input; None where it keeps none.
    """
    said, _ = tree.follow(labels)
    own = next((group for group in chosen.classes if platform in group), (platform,))
    return platform in said and set(said) <= set(own)
