"""The fewest probes that tell known classes apart: an optimal decision tree over their answers.

A class that keeps no answer of its own to a probe (None) may give any, and so goes along every branch.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from holdfast.errors import InvalidConfig

_EXACT = 200_000  # subsets of classes to visit before the search settles for the best split at each step


@dataclass(frozen=True)
class ProbeTree:
    """Asks one probe after another; each answer decides which comes next.

    Attributes:
        classes: labels that remain here; several at a leaf give the same answers to every probe.
        probe: index of the probe to ask, None at a leaf.
        branches: answer to subtree; an answer that is not among them belongs to no known class.
        optimal: whether no tree has a smaller number of probes in the worst case.
    """

    classes: tuple[str, ...]
    probe: int | None
    branches: Mapping[Hashable, ProbeTree]
    optimal: bool

    @cached_property
    def worst(self) -> int:
        """Probes in the worst case."""
        return 0 if self.probe is None else 1 + max(branch.worst for branch in self.branches.values())

    @cached_property
    def asked(self) -> tuple[int, ...]:
        """Every probe that some branch asks, ascending."""
        below = {probe for branch in self.branches.values() for probe in branch.asked}
        return tuple(sorted(below | ({self.probe} if self.probe is not None else set())))

    def follow(self, answers: Mapping[int, Hashable] | Sequence[Hashable]) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Return the classes that fit ``answers``, and the probes that were asked; none may fit."""
        node, asked = self, list[int]()
        while node.probe is not None:
            asked.append(node.probe)
            if answers[node.probe] not in node.branches:
                return (), tuple(asked)
            node = node.branches[answers[node.probe]]
        return node.classes, tuple(asked)


def probe_tree(answers: Mapping[str, Sequence[Hashable]]) -> ProbeTree:
    """Return a tree that separates classes as far as their answers differ, shallowest in the worst case.

    Args:
        answers: for each class the answer to every probe: a digest of the output's bits, or its label alone; None
            where it keeps none.

    Raises:
        InvalidConfig: no classes, or classes with different numbers of answers.
    """
    if not answers or len({len(row) for row in answers.values()}) != 1:
        raise InvalidConfig("a probe tree needs classes that answered the same probes")
    return _Search(answers).tree()


class _Search:
    def __init__(self, answers: Mapping[str, Sequence[Hashable]]) -> None:
        self._answers = answers
        self._probes = len(next(iter(answers.values())))
        self._known: dict[frozenset[str], int] = {}  # set of classes -> probes in the worst case
        self._exact = True

    def tree(self) -> ProbeTree:
        everyone = frozenset(self._answers)
        self._depth(everyone)
        return self._grown(everyone)

    def _splits(self, classes: frozenset[str]) -> list[tuple[int, dict[Hashable, frozenset[str]]]]:
        """Probes that split the classes, each partition once, the most even first."""
        found: dict[frozenset[frozenset[str]], tuple[int, dict[Hashable, frozenset[str]]]] = {}
        for probe in range(self._probes):
            given = {name: self._answers[name][probe] for name in sorted(classes)}
            parts = {answer: {name for name in given if given[name] in (answer, None)} for answer in given.values()}
            parts.pop(None, None)
            if len(parts) > 1:
                frozen = {answer: frozenset(part) for answer, part in parts.items()}
                found.setdefault(frozenset(frozen.values()), (probe, frozen))
        return sorted(found.values(), key=lambda item: max(len(part) for part in item[1].values()))

    def _depth(self, classes: frozenset[str]) -> int:
        """Return the worst case below ``classes``; exact while the budget lasts."""
        if classes in self._known:
            return self._known[classes]
        splits = self._splits(classes) if len(classes) > 1 else []
        self._exact = self._exact and len(self._known) < _EXACT
        best = 0 if not splits else len(classes)
        for _, parts in splits if self._exact else splits[:1]:
            best = min(best, 1 + max(self._depth(part) for part in parts.values()))
            if best == 1:
                break
        self._known[classes] = best
        return best

    def _grown(self, classes: frozenset[str]) -> ProbeTree:
        splits = self._splits(classes) if len(classes) > 1 else []
        labels = tuple(sorted(classes))
        if not splits:
            return ProbeTree(labels, None, {}, self._exact)
        probe, parts = min(splits, key=lambda item: max(self._depth(part) for part in item[1].values()))
        branches = {answer: self._grown(part) for answer, part in parts.items()}
        return ProbeTree(labels, probe, branches, self._exact)
