"""Tensors and arrays as views of verified memory: which element types there are, and what a shape needs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from holdfast.errors import SignatureInvalid, UnsupportedFormat

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# the word in the container -> name in torch
_TORCH = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "i64": "int64", "i32": "int32",
    "i16": "int16", "i8": "int8", "u64": "uint64", "u32": "uint32", "u16": "uint16", "u8": "uint8", "bool": "bool",
    "c64": "complex64", "c128": "complex128", "f8_e4m3": "float8_e4m3fn", "f8_e5m2": "float8_e5m2",
    "f8_e4m3fnuz": "float8_e4m3fnuz", "f8_e5m2fnuz": "float8_e5m2fnuz", "f8_e8m0": "float8_e8m0fnu",
}  # fmt: skip
_ITEMSIZE = {
    "f64": 8, "f32": 4, "f16": 2, "bf16": 2, "i64": 8, "i32": 4, "i16": 2, "i8": 1, "u64": 8, "u32": 4, "u16": 2,
    "u8": 1, "bool": 1, "c64": 8, "c128": 16, "f8_e4m3": 1, "f8_e5m2": 1, "f8_e4m3fnuz": 1, "f8_e5m2fnuz": 1,
    "f8_e8m0": 1,
}  # fmt: skip
_NUMPY = {
    "f64": "<f8", "f32": "<f4", "f16": "<f2", "i64": "<i8", "i32": "<i4", "i16": "<i2", "i8": "i1", "u64": "<u8",
    "u32": "<u4", "u16": "<u2", "u8": "u1", "bool": "?", "c64": "<c8", "c128": "<c16",
}  # fmt: skip


def layout(dtype: str, shape: tuple[int, ...], length: int) -> tuple[tuple[int, ...], int]:
    """Return the sides of the view and the bytes of one of its elements.

    A block format such as ``q4_k`` is seen as rows of bytes, so its last side counts bytes.

    Raises:
        SignatureInvalid: the signed shape does not take the signed length.
    """
    itemsize = _ITEMSIZE.get(dtype)
    if itemsize is None:
        rows = math.prod(shape[:-1])
        if shape and rows and length % rows == 0:
            return (*shape[:-1], length // rows), 1
    elif math.prod(shape) * itemsize == length:
        return shape, itemsize
    raise SignatureInvalid(f"a signed tensor of type {dtype} and shape {list(shape)} does not take {length} bytes")


def as_tensor(memory: memoryview, dtype: str, sides: tuple[int, ...]) -> Tensor:
    """Return a torch tensor that shares ``memory``, with the ``sides`` of its :func:`layout`."""
    import torch

    kind: torch.dtype = getattr(torch, _TORCH.get(dtype, "uint8"))
    if not len(memory):
        return torch.empty(sides, dtype=kind)
    return torch.frombuffer(memory, dtype=kind).reshape(sides)


def as_array(memory: memoryview, dtype: str, sides: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Return a numpy array that shares ``memory``, with the ``sides`` of its :func:`layout`.

    Raises:
        UnsupportedFormat: bfloat16 and the small floats, for which numpy has no element.
    """
    import numpy as np

    if dtype in _TORCH and dtype not in _NUMPY:
        raise UnsupportedFormat(f"numpy has no elements of type {dtype}", hint="use get_tensor")
    return np.frombuffer(memory, dtype=np.dtype(_NUMPY.get(dtype, "u1"))).reshape(sides)
