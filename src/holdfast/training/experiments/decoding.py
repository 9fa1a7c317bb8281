"""Tables of TOML as dataclasses, read strictly: an unknown, missing or ill-typed key is an error that names it."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from holdfast.errors import InvalidConfig

T = TypeVar("T")
INTERNAL = {"internal": True}  # metadata of a field that no file sets


def decoded(kind: type[T], table: object, where: str) -> T:
    """Return the dataclass ``kind`` with the values of ``table``.

    Raises:
        InvalidConfig: not a table; a key that is unknown, missing or of the wrong type. ``where`` names the table.
    """
    found = checked(kind, table, where)
    for item in _fields(kind):
        needed = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if needed and item.name not in found:
            raise InvalidConfig(f"{where} lacks the key {item.name!r}")
    return kind(**found)


def checked(kind: Any, table: object, where: str) -> dict[str, Any]:
    """Return the values of ``table`` as the types of the dataclass ``kind`` ask for them; keys may be missing."""
    if not isinstance(table, dict):
        raise InvalidConfig(f"{where} is {_named(table)}, not a table")
    names = [item.name for item in _fields(kind)]
    for key in table:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(names)}"
            raise InvalidConfig(f"{where} has no key {key!r}", hint=hint)
    hints = typing.get_type_hints(kind)
    return {key: _value(hints[key], value, f"{where}: {key}") for key, value in table.items()}


def _fields(kind: Any) -> list[dataclasses.Field[Any]]:
    return [item for item in dataclasses.fields(kind) if item.metadata != INTERNAL]


def _value(wanted: Any, value: object, where: str) -> Any:
    origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted is Any:
        return tuple(value) if isinstance(value, list) else value
    if dataclasses.is_dataclass(wanted):
        return decoded(typing.cast(type[Any], wanted), value, where)
    if origin in (typing.Union, types.UnionType):
        return _value(next(item for item in inner if item is not type(None)), value, where)
    if origin is tuple:
        return _list(inner[0], value, where)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _table(inner[1], value, where)
    return _scalar(wanted, value, where)


def _list(wanted: Any, value: object, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise InvalidConfig(f"{where} is {_named(value)}, not an array", hint="write [first, second]")
    return tuple(_value(wanted, item, f"{where}[{place}]{_called(item)}") for place, item in enumerate(value))


def _table(wanted: Any, value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidConfig(f"{where} is {_named(value)}, not a table", hint="write { key = value }")
    return {key: _value(wanted, item, f"{where}.{key}") for key, item in value.items()}


def _scalar(wanted: Any, value: object, where: str) -> Any:
    if typing.get_origin(wanted) is typing.Literal:
        if value not in typing.get_args(wanted):
            raise InvalidConfig(f"{where} is {value!r}", hint=f"choose one of {', '.join(typing.get_args(wanted))}")
        return value
    if wanted is float and type(value) in (int, float):
        return float(typing.cast(float, value))
    if type(value) is not wanted:
        raise InvalidConfig(f"{where} is {_named(value)}, not {_WORDS.get(wanted, wanted.__name__)}")
    return value


_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", dict: "a table"}


def _named(value: object) -> str:
    return f"{_WORDS.get(type(value), type(value).__name__)} ({value!r})"[:80]


def _called(item: object) -> str:
    name = item.get("name") if isinstance(item, dict) else None
    return f" ({name})" if isinstance(name, str) else ""
