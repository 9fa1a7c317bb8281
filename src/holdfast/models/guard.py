"""Guards: corrections that live in a model and run at a site on every forward pass."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from holdfast._registry import Registry
from holdfast.errors import UnreadableArtifact
from holdfast.models.card import card, cards
from holdfast.models.tap import Tap, require_place


@runtime_checkable
class Guard(Protocol):
    """Checks, and may correct, the output of one site.

    Attributes:
        kind: registry name.
        site: name of the guarded place.
        events: int64, shape (batch,): corrected elements of each sample in the last forward; None before the first.
    """

    kind: str
    site: str
    events: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """Return the checked output; may work in place."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return kind, site and bounds."""
        ...


guards: Registry[Guard] = Registry("guard", "holdfast.guards")


# Guards that come with Holdfast live on a floor above this one and are looked up by name, as a plugin's are, so
# that a saved model opens in a process that has not imported them.
_BUILT_IN = {"range-restriction": "holdfast.hardening"}


def guard_from_json(value: Mapping[str, Any]) -> Guard:
    """Rebuild a guard from its JSON form.

    Raises:
        UnknownName: no guard of that kind is installed.
        UnreadableArtifact: the kind takes other parameters.
    """
    options = {key: item for key, item in value.items() if key != "kind"}
    kind = str(value.get("kind"))
    if kind in _BUILT_IN:
        importlib.import_module(_BUILT_IN[kind])
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


def attach_guard(model: nn.Module, guard: Guard) -> None:
    """Make ``guard`` part of ``model``: it runs on every forward and is saved with the model.

    Raises:
        NoSuchSite: no module of the model could compute the guard's site.
    """
    require_place(model, guard.site)
    known = card(model)
    if not known.guards:
        runner = _Runner()
        model.register_forward_pre_hook(runner.before)
        model.register_forward_hook(runner.after, always_call=True)
    known.guards.append(guard)


class _Runner:
    """Opens the taps of all guards for the length of one forward pass; holds no reference to the model."""

    def __init__(self) -> None:
        self._open: list[Tap] = []

    def before(self, model: nn.Module, args: object) -> None:
        tap = Tap(model, _by_site(card(model).guards))
        tap.__enter__()
        tap.begin()
        self._open.append(tap)

    def after(self, model: nn.Module, args: object, output: object) -> None:
        if self._open:
            self._open.pop().__exit__(None, None, None)


def _by_site(installed: list[Guard]) -> dict[str, Callable[[Tensor], Tensor]]:
    chains: dict[str, list[Guard]] = {}
    for guard in installed:
        chains.setdefault(guard.site, []).append(guard)
    return {site: _chain(chain) for site, chain in chains.items()}


def _chain(chain: list[Guard]) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        for guard in chain:
            x = guard(x)
        return x

    return run
