"""Guards: corrections that live in a model and run at a site, or around the whole model, on every forward pass."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from holdfast._registry import Registry
from holdfast.errors import InvalidConfig, UnknownName, UnreadableArtifact
from holdfast.models.card import card, cards
from holdfast.models.guard_hooks import GuardHooks
from holdfast.models.guard_kinds import (
    AnyGuard,
    Guard,
    OperandGuard,
    Operands,
    WholeModelGuard,
    alarms_of,
    apply_guards,
    guards_by_site,
)
from holdfast.models.tap import require_place

__all__ = [
    "AnyGuard",
    "Guard",
    "OperandGuard",
    "Operands",
    "WholeModelGuard",
    "alarms_of",
    "apply_guards",
    "attach_guard",
    "guard_from_json",
    "guards",
    "guards_by_site",
    "without_guards",
]

guards: Registry[AnyGuard] = Registry("guard", "holdfast.guards")
_BUILT_IN = "holdfast.hardening"  # registers the guards that come with Holdfast; it lies on a floor above this one


def guard_from_json(value: Mapping[str, Any]) -> AnyGuard:
    """Rebuild a guard from its JSON form.

    Raises:
        UnknownName: no guard of that kind is installed.
        UnreadableArtifact: the kind takes other parameters.
    """
    options = {key: item for key, item in value.items() if key != "kind"}
    kind = str(value.get("kind"))
    try:
        factory = guards.get(kind)
    except UnknownName:  # a saved model opens in a process that has not imported its guards
        importlib.import_module(_BUILT_IN)
        factory = guards.get(kind)
    try:
        return factory(**options)
    except TypeError as error:
        raise UnreadableArtifact(f"the guard {kind} at {value.get('site')} is malformed: {error}") from error


@contextmanager
def without_guards(model: nn.Module) -> Iterator[None]:
    """Switch off the guards of ``model`` and of models inside it for the length of the block."""
    held = [(found, found.guards) for found in cards(model)]
    for found, _ in held:
        found.guards = []
    try:
        yield
    finally:
        for found, installed in held:
            found.guards = installed


def attach_guard(model: nn.Module, guard: AnyGuard) -> None:
    """Make ``guard`` part of ``model``: it runs on every forward and is saved with the model.

    Raises:
        NoSuchSite: no module of the model could compute the guard's site.
        InvalidConfig: the guard is neither callable nor one of the whole model.
    """
    if not isinstance(guard, WholeModelGuard):
        if not callable(guard):
            raise InvalidConfig(f"{type(guard).__name__} is no guard", hint="give it __call__, or before and after")
        require_place(model, guard.site)
    GuardHooks.on(model)
    card(model).guards.append(guard)
