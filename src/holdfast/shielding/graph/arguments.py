"""Arguments of steps as JSON and back: what JSON has no word for is an object of one key that says what it is.

JSON writes 1.0 and 1 alike and knows no infinity, so floats are text in their shortest form; so are whole numbers
beyond 2**53, with which ATen says "to the end".
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch

from holdfast.errors import InvalidConfig, UnreadableArtifact
from holdfast.shielding.graph.program import Ref

_EXACT = 2**53
MOST_LETTERS = 512
_WORDS = {
    "dtype": (torch.dtype, ("bool", "uint8", "int8", "int16", "int32", "int64", "float32", "float64")),
    "layout": (torch.layout, ("strided",)),
    "memory_format": (torch.memory_format, ("contiguous_format", "preserve_format")),
}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
_WHOLE = re.compile(r"-?[1-9][0-9]{0,19}")


def written(value: Any) -> Any:
    """Return an argument in values that canonical JSON has.

    Raises:
        InvalidConfig: a value of another kind.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if abs(value) <= _EXACT else {"int": str(value)}
    if isinstance(value, float) and not math.isnan(value):
        return {"float": repr(value)}
    if isinstance(value, Ref):
        return {"ref": value.name}
    if isinstance(value, tuple):
        return {"tuple": [written(part) for part in value]}
    if isinstance(value, list):
        return [written(part) for part in value]
    return _word(value)


def _word(value: Any) -> dict[str, str]:
    if isinstance(value, torch.device) and value.type == "cpu":
        return {"device": "cpu"}
    for key, (kind, known) in _WORDS.items():
        word = str(value).removeprefix("torch.")
        if isinstance(value, kind) and word in known:
            return {key: word}
    raise InvalidConfig(f"an integer model cannot hold the argument {value!r}")


def read(value: Any) -> Any:
    """Return the argument that :func:`written` wrote.

    Raises:
        UnreadableArtifact: it wrote no such thing.
    """
    if isinstance(value, str):
        return require_text(value, "an argument")
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) <= _EXACT):
        return value
    if isinstance(value, list):
        return [read(part) for part in value]
    if not isinstance(value, dict) or len(value) != 1:
        raise UnreadableArtifact(f"an argument is {str(value)[:60]!r}")
    ((key, inner),) = value.items()
    if key == "tuple" and isinstance(inner, list):
        return tuple(read(part) for part in inner)
    if isinstance(inner, str):
        return _said(key, inner)
    raise UnreadableArtifact(f"an argument is {str(value)[:60]!r}")


def _said(key: str, text: str) -> Any:
    if key == "ref" and _NAME.fullmatch(text):
        return Ref(text)
    if key == "float":
        return _float(text)
    if key == "int" and _WHOLE.fullmatch(text) and _EXACT < abs(int(text)) < 2**63:
        return int(text)
    if key == "device" and text == "cpu":
        return torch.device("cpu")
    if key in _WORDS and text in _WORDS[key][1]:
        return getattr(torch, text)
    raise UnreadableArtifact(f"an argument is {key} {text[:40]!r}")


def _float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value) or repr(value) != text:
        raise UnreadableArtifact(f"an argument is float {text[:40]!r}")
    return value


def require_name(value: Any, what: str) -> str:
    """Return the name of a value or constant.

    Raises:
        UnreadableArtifact: no identifier of at most 256 letters; ``what`` says whose.
    """
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise UnreadableArtifact(f"{what} is called {str(value)[:40]!r}")
    return value


def require_text(value: Any, what: str) -> str:
    """Return a text that stays on its line wherever it is shown.

    Raises:
        UnreadableArtifact: no text, more than 512 characters, or one that does not print; ``what`` says whose.
    """
    if not isinstance(value, str) or len(value) > MOST_LETTERS or not value.isprintable():
        raise UnreadableArtifact(f"{what} is no printable text of one line: {ascii(value)[:40]}")
    return value
