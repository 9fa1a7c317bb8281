"""Values of a sample as (dtype, shape, bytes): arrays, numbers, text, bytes, images, and nestings of these.

A Python integer and a zero-dimensional int64 array are one value; an int32 and an int64 are two. Bytes are
little-endian, row-major and contiguous, whatever strides the array in memory has.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from holdfast.errors import InvalidConfig

MAX_DEPTH = 16
_KINDS = frozenset("biufc")
_MODES = frozenset({"L", "RGB", "RGBA", "CMYK", "I", "F", "I;16"})  # images whose pixels say everything


@dataclass(frozen=True, slots=True)
class Value:
    """One field: ``data`` has the meaning that ``dtype`` and ``shape`` give it."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def typed(value: object, depth: int = 0) -> Value:
    """Return the encoding of ``value``.

    Raises:
        InvalidConfig: a type without an encoding, an integer beyond 64 bits, or nested deeper than 16 levels.
    """
    if isinstance(value, Value):
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise InvalidConfig("a masked array has no encoding", hint="give data and mask as two fields")
    if isinstance(value, np.ndarray | np.generic):
        return _array(np.asarray(value))
    plain = _PLAIN.get(type(value))
    if plain is not None:
        return plain(value)
    if isinstance(value, list | tuple | dict):
        return _nested(value, depth)
    return _foreign(value)


def _array(array: np.ndarray[Any, Any]) -> Value:
    if array.dtype.kind not in _KINDS:
        raise InvalidConfig(f"an array of {array.dtype} has no encoding", hint="numbers, booleans, text or bytes have")
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return Value(array.dtype.newbyteorder("=").name, array.shape, little.tobytes())


def _integer(value: int) -> Value:
    if not -(2**63) <= value < 2**63:
        raise InvalidConfig(f"{value} does not fit 64 bits")
    return Value("int64", (), value.to_bytes(8, "little", signed=True))


_PLAIN: dict[type, Callable[[Any], Value]] = {
    int: _integer,
    bool: lambda value: Value("bool", (), b"\x01" if value else b"\x00"),
    float: lambda value: Value("float64", (), struct.pack("<d", value)),
    str: lambda value: Value("text", (), _utf8(value)),
    bytes: lambda value: Value("bytes", (), value),
    type(None): lambda value: Value("null", (), b""),
}


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidConfig(f"{text[:40]!r} has no UTF-8 form") from None


def encoded(value: Value) -> bytes:
    """Return a value inside another one: dtype, rank, sides and data, each length-prefixed."""
    dtype = value.dtype.encode()
    numbers = (len(value.shape), *value.shape, len(value.data))
    head = len(dtype).to_bytes(8, "little") + dtype
    return head + b"".join(number.to_bytes(8, "little") for number in numbers) + value.data


def _nested(value: list[Any] | tuple[Any, ...] | dict[Any, Any], depth: int) -> Value:
    if depth >= MAX_DEPTH:
        raise InvalidConfig(f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise InvalidConfig("a mapping inside a sample has text keys")
        pairs = sorted((_utf8(key), item) for key, item in value.items())
        items = [encoded(Value("text", (), key)) + encoded(typed(item, depth + 1)) for key, item in pairs]
        return Value("map", (len(items),), b"".join(items))
    return Value("list", (len(value),), b"".join(encoded(typed(item, depth + 1)) for item in value))


def _foreign(value: object) -> Value:
    """Encode tensors and images; their libraries are imported by whoever made the value, not here."""
    family = type(value).__module__.partition(".")[0]
    if "torch" in sys.modules and isinstance(value, sys.modules["torch"].Tensor):
        return _tensor(value)
    if family == "PIL":
        return _image(value)
    raise InvalidConfig(
        f"a {type(value).__name__} has no encoding",
        hint="give arrays, tensors, numbers, text, bytes, or lists and mappings of them",
    )


def _tensor(tensor: Any) -> Value:
    torch = sys.modules["torch"]
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise InvalidConfig(f"a tensor of layout {tensor.layout} has no encoding", hint="make it dense")
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) and (more := sorted(vars(tensor))):
        # such as the format of a bounding box: what is not encoded could be changed under the signature
        raise InvalidConfig(
            f"a {type(tensor).__name__} says more than a tensor: {', '.join(more)}", hint="give that as further fields"
        )
    whole = tensor.detach().resolve_conj().resolve_neg().cpu()
    return Value(str(whole.dtype).removeprefix("torch."), tuple(whole.shape), bytes(octets_of(whole)))


def octets_of(tensor: Any) -> memoryview:
    """Return the bytes of a dense CPU tensor, row-major and little-endian; a view of it where it lies so in memory."""
    octets = tensor.contiguous().reshape(-1).view(sys.modules["torch"].uint8).numpy()
    if sys.byteorder == "big":
        octets = np.ascontiguousarray(octets.reshape(-1, tensor.element_size())[:, ::-1]).reshape(-1)
    return memoryview(octets)


def _image(image: Any) -> Value:
    mode = getattr(image, "mode", None)
    if mode not in _MODES:
        raise InvalidConfig(
            f"an image of mode {mode!r} has no encoding of its own", hint="convert it, for example to RGB"
        )
    array = _array(np.asarray(image))
    return Value(f"image/{mode}/{array.dtype}", array.shape, array.data)
