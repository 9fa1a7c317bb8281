"""JSON whose numbers stay the text that was sent, and whose objects keep keys that stand twice.

Log-probabilities are evidence down to their digits. And servers that name tokens by their text write the same key for
two tokens that look alike; a plain ``dict`` would silently keep one of them.
"""

from __future__ import annotations

import json
from typing import Any

from holdfast.errors import UnreadableArtifact


class Number(str):
    """A number as it stood in JSON: ``-0.0``, ``1e-07``, ``NaN``. A quoted text is a plain ``str``."""

    __slots__ = ()


class Object(dict[str, Any]):
    """A JSON object that remembers every pair, also those whose key comes again."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def read_raw(data: bytes, what: str) -> Any:
    """Parse JSON without reading its numbers.

    Raises:
        UnreadableArtifact: no JSON, or JSON that was cut short.
    """
    try:
        return json.loads(data, parse_float=Number, parse_int=Number, parse_constant=Number, object_pairs_hook=Object)
    except (ValueError, RecursionError) as error:
        raise UnreadableArtifact(f"{what} is no JSON: {error}") from error


def as_number(value: object, what: str) -> str | None:
    """Return the text of a number, or None for null.

    Raises:
        UnreadableArtifact: anything else.
    """
    if value is None:
        return None
    if isinstance(value, Number):
        return str(value)
    raise UnreadableArtifact(f"{what} is {type(value).__name__} {value!r:.40}, not a number")


def as_integer(value: object, what: str) -> int | None:
    """Return a whole number, or None for null; raise :class:`UnreadableArtifact` for anything else."""
    text = as_number(value, what)
    try:
        return None if text is None else int(text)
    except ValueError as error:
        raise UnreadableArtifact(f"{what} is {text}, not a whole number") from error


def as_text(value: object, what: str) -> str:
    """Return text; raise :class:`UnreadableArtifact` for anything else."""
    if not isinstance(value, str) or isinstance(value, Number):
        raise UnreadableArtifact(f"{what} is {type(value).__name__}, not text")
    return value


def as_list(value: object, what: str) -> list[Any]:
    """Return a list, empty for null; raise :class:`UnreadableArtifact` for anything else."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise UnreadableArtifact(f"{what} is {type(value).__name__}, not a list")
    return value


def as_object(value: object, what: str) -> Object:
    """Return an object; raise :class:`UnreadableArtifact` for anything else."""
    if not isinstance(value, Object):
        raise UnreadableArtifact(f"{what} is {type(value).__name__}, not an object")
    return value


def plain(value: object) -> Any:
    """Return the value in types that canonical JSON takes: numbers as text, half surrogate pairs replaced."""
    if isinstance(value, dict):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value
