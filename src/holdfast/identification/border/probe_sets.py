"""The fewest border inputs that tell all known platforms apart from their labels alone.

The rows of a table are platforms, its columns inputs, its entries labels. Choosing the fewest columns that keep all
rows different is the test-cover problem: greedy is within 1 + 2 ln(platforms) of the best (Moret & Shapiro, 1985), and
small tables are solved exactly. A decision tree asks fewer still, since what it asks next depends on the answers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from holdfast.errors import InvalidConfig

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


@dataclass(frozen=True)
class Question:
    """A node of a decision tree: which input to ask about, and where each label leads; a leaf has no input.

    Attributes:
        platforms: those that fit all answers so far.
        input: column to ask about next, or None at a leaf.
        answers: what follows from each label.
    """

    platforms: tuple[str, ...]
    input: int | None = None
    answers: Mapping[int, Question] | None = None

    @property
    def most(self) -> int:
        """Queries on the longest way to a leaf."""
        return 0 if not self.answers else 1 + max(item.most for item in self.answers.values())

    def follow(self, ask: Mapping[int, int] | Sequence[int]) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Return the platforms that fit the labels in ``ask``, and the inputs that were asked; none may fit."""
        node, asked = self, list[int]()
        while node.input is not None and node.answers is not None:
            asked.append(node.input)
            label = ask[node.input]
            if label not in node.answers:
                return (), tuple(asked)
            node = node.answers[label]
        return node.platforms, tuple(asked)


def decision_tree(table: Table) -> Question:
    """Return the tree that asks, at each step, about the input that leaves the fewest platforms to expect.

    Raises:
        InvalidConfig: as :func:`probe_set`.
    """
    _width(table)
    return _grown(table, tuple(sorted(table)))


def _grown(table: Table, platforms: tuple[str, ...]) -> Question:
    splits = []
    for column in range(len(table[platforms[0]])):
        labels = {table[name][column] for name in platforms} - {None}
        if len(labels) > 1:
            # who keeps no label may give any, and so goes along every branch
            parts = {
                label: tuple(name for name in platforms if table[name][column] in (label, None))
                for label in sorted(item for item in labels if item is not None)
            }
            splits.append((sum(len(part) ** 2 for part in parts.values()), column, parts))
    if not splits:
        return Question(platforms)
    _, column, parts = min(splits, key=lambda item: item[:2])
    return Question(platforms, column, {label: _grown(table, part) for label, part in parts.items()})
