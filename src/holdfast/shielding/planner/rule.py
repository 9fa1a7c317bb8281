"""What a rule is: a frozen dataclass that places every node, known by a name, and made again from its text."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from holdfast._registry import Registry
from holdfast.shielding.planner.costs import Placement
from holdfast.shielding.planner.laws import Machine
from holdfast.shielding.planner.workload import Workload

_NOTHING = ("", "none")


class Rule(Protocol):
    """A way to place nodes; a frozen dataclass whose fields are its parameters."""

    def place(self, work: Workload, machine: Machine, budget: int | None) -> dict[str, Placement]:
        """Return a placement for every node.

        Args:
            budget: bytes that the trusted world may hold: weights, check vectors, masks and activations.
        """
        ...


rules: Registry[Rule] = Registry("shield rule", "holdfast.shield_rules")


def specification(rule: Rule) -> str:
    """Return the text from which ``rules.build`` makes ``rule`` again; always the same for the same rule."""
    options = [(item.name, getattr(rule, item.name)) for item in dataclasses.fields(rule)]  # type: ignore[arg-type]
    given = [f"{name}={_text(value)}" for name, value in options if value is not None]
    return ":".join(filter(None, (rules.name_of(type(rule)), ",".join(given))))


def _text(value: object) -> str:
    if isinstance(value, frozenset):
        return "|".join(sorted(value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def trusted(work: Workload) -> dict[str, Placement]:
    """Return trusted for every node."""
    return {node.name: "trusted" for node in work.nodes}


def linear_at(work: Workload, word: Placement) -> dict[str, Placement]:
    """Return ``word`` for every linear node, and trusted for the others."""
    return trusted(work) | {node.name: word for node in work.linear()}


def patterns(text: str) -> tuple[str, ...]:
    """Return the globs of an option, which are joined by |."""
    return () if text in _NOTHING else tuple(text.split("|"))
