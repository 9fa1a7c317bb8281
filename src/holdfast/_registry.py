"""Names to implementations: one registry per extension point, open to plugins through entry points.

A specification ``name:key=value,key=value`` builds the registered object with typed keyword arguments, so a
command-line flag, a TOML key and a Python keyword have one name.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from holdfast.errors import InvalidConfig, UnknownName

T = TypeVar("T")
C = TypeVar("C", bound=Callable[..., Any])


class Registry(Generic[T]):
    """The implementations of one extension point, by kebab-case name."""

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self._group = group
        self._known: dict[str, Callable[..., T]] = {}
        self._plugins_loaded = False

    def register(self, name: str) -> Callable[[C], C]:
        """Return a decorator that registers a class or factory under ``name``."""

        def add(factory: C) -> C:
            if name in self._known and self._known[name] is not factory:
                raise InvalidConfig(f"two {self.kind}s are called {name!r}")
            self._known[name] = factory
            return factory

        return add

    def names(self) -> list[str]:
        """Return all known names, sorted."""
        self._load_plugins()
        return sorted(self._known)

    def get(self, name: str) -> Callable[..., T]:
        """Return the factory called ``name``.

        Raises:
            UnknownName: with the nearest known names.
        """
        if name not in self._known:
            self._load_plugins()
        if name not in self._known:
            raise unknown(self.kind, name, self._known)
        return self._known[name]

    def build(self, spec: str, **overrides: object) -> T:
        """Build ``name:key=value,...``; ``overrides`` win over the specification's own keys."""
        if not isinstance(spec, str):
            raise InvalidConfig(f"a {self.kind} is named by a text, not {spec!r}", hint="for example 'name:key=value'")
        name, options = parse_spec(spec)
        factory, what = self.get(name), f"{self.kind} {name!r}"
        given = coerce(factory, options, what=what) | overrides
        _require_all(factory, given, what)
        return factory(**given)

    def name_of(self, factory: object) -> str:
        """Return the name under which ``factory`` is registered."""
        for name, known in self._known.items():
            if known is factory:
                return name
        raise UnknownName(f"{factory!r} is not a registered {self.kind}")

    def _load_plugins(self) -> None:
        if self._plugins_loaded:
            return
        self._plugins_loaded = True
        from importlib.metadata import entry_points  # takes longer than signing does

        for point in entry_points(group=self._group):
            self.register(point.name)(point.load())


def unknown(kind: str, name: str, known: Iterable[str], *, listed_by: str = "") -> UnknownName:
    """Return an :class:`UnknownName` whose hint shows the nearest known names.

    Where there is nothing near, all are shown; or, with ``listed_by``, three and the command that lists the others.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known) or 'none'}"
    if listed_by and not near and len(known) > 3:
        nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
        hint = f"the nearest of {len(known)}: {', '.join(nearest)}; {listed_by} lists them"
    return UnknownName(f"unknown {kind} {name!r}", hint=hint)


def parse_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Split ``name:key=value,key=value`` into its name and its options, all text.

    A value in parentheses may hold commas of its own, as a nested specification does: ``a:b=(c:d=1,e=2),f=3``.
    """
    name, _, tail = spec.partition(":")
    options: dict[str, str] = {}
    for item in filter(None, _split(tail, spec)):
        key, equals, value = item.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key or key in options:
            raise InvalidConfig(f"cannot read {item!r} in {spec!r}", hint="write name:key=value,key=value")
        options[key] = _bare(value.strip())
    return name.strip(), options


def _split(text: str, spec: str) -> list[str]:
    """Split at the commas outside values that are in parentheses; only ``=(`` opens such a value."""
    items, depth = [""], 0
    for place, letter in enumerate(text):
        if letter == "(" and (depth or text[place - 1 : place] == "="):
            depth += 1
        elif letter == ")" and depth:
            depth -= 1
        if letter == "," and not depth:
            items.append("")
        else:
            items[-1] += letter
    if depth:
        raise InvalidConfig(f"a parenthesis in {spec!r} is not closed", hint="write key=(name:key=value,key=value)")
    return items


def _bare(value: str) -> str:
    """Return ``value`` without the parentheses around all of it, if there are such."""
    depth = 0
    for place, letter in enumerate(value):
        depth += (letter == "(") - (letter == ")")
        if depth <= 0:
            return value[1:-1] if value.startswith("(") and place == len(value) - 1 else value
    return value


def coerce(factory: Callable[..., object], options: Mapping[str, object], *, what: str) -> dict[str, Any]:
    """Convert textual ``options`` to the annotated types of ``factory``'s parameters.

    Raises:
        InvalidConfig: an option the factory does not take, or a value of the wrong type.
    """
    inner = factory.func if isinstance(factory, functools.partial) else factory
    # the fields of a dataclass may be inherited from another module, whose names only the class itself resolves
    plain = inspect.isclass(inner) and not dataclasses.is_dataclass(inner)
    hints = typing.get_type_hints(inner.__init__ if plain else inner)
    taken = inspect.signature(factory).parameters
    result = {}
    for key, value in options.items():
        if key not in taken:
            near = difflib.get_close_matches(key, taken, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(taken) or 'no options'}"
            raise InvalidConfig(f"{what} has no option {key!r}", hint=hint)
        result[key] = _convert(value, hints.get(key, str), f"option {key!r} of {what}")
    return result


def _require_all(factory: Callable[..., object], given: Mapping[str, object], what: str) -> None:
    needed = [
        key
        for key, item in inspect.signature(factory).parameters.items()
        if item.default is item.empty and item.kind not in (item.VAR_POSITIONAL, item.VAR_KEYWORD)
    ]
    if missing := [key for key in needed if key not in given]:
        raise InvalidConfig(f"{what} needs {', '.join(missing)}", hint=f"write {missing[0].replace('_', '-')}=...")


_TRUTH = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}


def _convert(value: object, wanted: Any, what: str) -> Any:
    if not isinstance(value, str):
        return value
    choices = typing.get_args(wanted)
    if typing.get_origin(wanted) in (typing.Union, types.UnionType):
        if type(None) in choices and value.lower() in {"none", ""}:
            return None
        wanted = next(choice for choice in choices if choice is not type(None))
    if typing.get_origin(wanted) is typing.Literal:
        return _choose(value, typing.get_args(wanted), what)
    if wanted is bool:
        return _choose(value.lower(), tuple(_TRUTH), what) in {"true", "yes", "1"}
    if wanted in (int, float):
        return _number(value, wanted, what)
    return value


def _choose(value: str, choices: tuple[str, ...], what: str) -> str:
    if value not in choices:
        raise InvalidConfig(f"{what} is {value!r}", hint=f"choose one of {', '.join(map(str, choices))}")
    return value


def _number(value: str, wanted: type, what: str) -> int | float:
    try:
        number: int | float = wanted(value)
    except ValueError:
        raise InvalidConfig(f"{what} is {value!r}, not a number of type {wanted.__name__}") from None
    return number
