"""Canonical JSON (RFC 8785): one value, one byte string.

Numbers follow ECMAScript's ``Number::toString``, object keys sort by UTF-16 code units, text is UTF-8 without
needless escapes. The reader is strict: no duplicate keys, no NaN, bounded size and depth.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from holdfast.errors import InvalidConfig, UnreadableArtifact

MAX_BYTES = 64 << 20
MAX_DEPTH = 64
_EXACT = 2**53
_JSON = json.JSONEncoder(ensure_ascii=False)  # json.dumps would make one for every text


def dumps(value: object) -> bytes:
    """Return the RFC 8785 bytes of ``value`` (None, bool, int, float, str, list, tuple, mapping with string keys).

    Raises:
        InvalidConfig: NaN, an infinity, an integer beyond 2**53, or a type JSON does not have.
    """
    return _encode(value).encode("utf-8")


def _encode(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_text(key)}:{_encode(value[key])}" for key in sorted(value, key=_utf16)) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_encode, value)) + "]"
    raise InvalidConfig(f"canonical JSON has no {type(value).__name__}")


def _utf16(key: object) -> bytes:
    if not isinstance(key, str):
        raise InvalidConfig(f"an object key is text, not {type(key).__name__}")
    return key.encode("utf-16-be", "surrogatepass")


def _text(value: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidConfig(f"{value!r} holds a lone surrogate and has no UTF-8 form") from None
    return _JSON.encode(value)


def _integer(value: int) -> str:
    if abs(value) > _EXACT:
        raise InvalidConfig(f"{value} is beyond 2**53 and has no exact JSON number", hint="write it as text")
    return str(value)


def _number(value: float) -> str:
    """Format as ECMA-262 ``Number::toString``; Python's ``repr`` already gives the shortest digits."""
    if not math.isfinite(value):
        raise InvalidConfig(f"JSON has no {value}")
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = fraction.rstrip("0")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    return sign + _place_point(digits, point)


def _place_point(digits: str, point: int) -> str:
    """Place the decimal point: the value is 0.digits times ten to the ``point``."""
    count = len(digits)
    if count <= point <= 21:
        return digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return "0." + "0" * -point + digits
    exponent = f"e{'+' if point > 0 else '-'}{abs(point - 1)}"
    return digits[0] + ("." + digits[1:] if count > 1 else "") + exponent


def loads(data: bytes, *, what: str = "JSON", max_bytes: int = MAX_BYTES) -> Any:
    """Parse JSON strictly; the input need not be canonical.

    Raises:
        UnreadableArtifact: not UTF-8 JSON, a duplicate key, NaN, a number beyond a double, deeper than 64 levels,
            or longer than ``max_bytes``.
    """
    if len(data) > max_bytes:
        raise UnreadableArtifact(f"{what} is longer than {max_bytes} bytes")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_whole,
            parse_float=_finite,
            parse_constant=_no_constant,
        )
        _bound_depth(value, MAX_DEPTH)
    except (ValueError, RecursionError) as error:
        raise UnreadableArtifact(f"{what} is not strict JSON: {error}") from error
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        counts = Counter(key for key, _ in pairs)  # in one pass: nobody has vouched for these bytes yet
        raise ValueError(f"duplicate key {next(key for key, count in counts.items() if count > 1)!r}")
    return result


def _whole(text: str) -> int | float:
    """Read a whole number; beyond 2**53 it is the float that ECMAScript wrote without an exponent."""
    return int(text) if abs(int(text)) <= _EXACT else _finite(text)


def _finite(text: str) -> float:
    """Read a number; one that a double cannot hold is refused, for it would come back as an infinity."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]}... is beyond a double")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _bound_depth(value: object, left: int) -> None:
    if left == 0:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _bound_depth(child, left - 1)
