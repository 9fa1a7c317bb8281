"""Quantised tensors of torchao as codes and parameters, and back: plain layouts, in memory.

Read are ``Int8Tensor`` and ``IntxUnpackedToInt8Tensor`` (one byte per code) and ``Int4Tensor`` (two codes per byte, a
float zero). They are told by their class and taken apart by torch's own protocol of wrapper subclasses, so torchao is
never imported here. Layouts for one kernel (preshuffled, tile-packed) are refused: their order of codes is not public.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig, UnsupportedFormat
from holdfast.numerics.formats import Encoded
from holdfast.numerics.formats.affine import Affine, Real
from holdfast.numerics.granularity import rows_and_columns
from holdfast.quantization.adapters.field import Field, Octets, plain, sequence
from holdfast.quantization.adapters.layout import CODES, REALS, Layout, Part, extent

_BYTES, _NIBBLES = ("Int8Tensor", "IntxUnpackedToInt8Tensor"), ("Int4Tensor",)
_REAL = {dtype: cast(Real, name) for name, dtype in REALS.items()}


def torchao_layout(tensor: Tensor, name: str = "weight") -> Layout:
    """Return how ``tensor`` is stored; its stored tensors are the inner ones, ``qdata``, ``scale``, ``zero_point``.

    The product of 8-bit codes with a zero point is given in float32 where the tensor is bfloat16; rounded to bfloat16
    it is what torchao dequantises to.

    Raises:
        UnsupportedFormat: no quantised tensor of torchao, another class of them, or blocks over several rows.
    """
    kind = type(tensor).__name__
    if not type(tensor).__module__.startswith("torchao.") or kind not in _BYTES + _NIBBLES:
        hint = f"read are torchao's {', '.join(_BYTES + _NIBBLES)}"
        raise UnsupportedFormat(f"{name} is a {type(tensor).__module__}.{kind}", hint=hint)
    inner, shape = _inner(tensor), tuple(tensor.shape)
    for key in ("act_pre_scale", "pre_scale"):
        if key in inner:
            raise UnsupportedFormat(f"{name} has {key}: what it computes is more than its codes")
    if inner["scale"].dtype not in _REAL:
        raise UnsupportedFormat(f"{name} has scales of {inner['scale'].dtype}")
    size = _group_size(name, shape, tuple(cast(Any, tensor).block_size))
    return _nibbles(name, shape, size, inner) if kind in _NIBBLES else _bytes(name, tensor, size, inner)


def read_torchao(tensor: Tensor, name: str = "weight") -> tuple[Layout, Encoded]:
    """Return the layout of ``tensor``, its codes and its parameters; see :func:`torchao_layout`."""
    layout = torchao_layout(tensor, name)
    return layout, layout.unpack(torchao_memory(tensor))


def torchao_memory(tensor: Tensor) -> dict[str, Octets]:
    """Return the bytes of the inner tensors, by name; they share memory with a tensor on the CPU, so flips go in.

    Raises:
        InvalidConfig: an inner tensor is not contiguous, or on another device.
    """
    found = {}
    for key, item in _inner(tensor).items():
        if item.device.type != "cpu" or not item.is_contiguous():
            raise InvalidConfig(f"{key} is not contiguous on the CPU", hint="call .cpu() first")
        found[key] = item.reshape(-1).view(torch.uint8).numpy()
    return found


def write_torchao(like: Tensor, encoded: Encoded) -> Tensor:
    """Return a tensor of the class and settings of ``like`` that holds ``encoded``.

    Raises:
        InvalidConfig: codes or parameters that do not fit the layout of ``like``.
    """
    memory = torchao_layout(like).pack(encoded)
    names, context = cast(Any, like).__tensor_flatten__()
    inner = dict(_inner(like))
    for key, octets in memory.items():
        inner[key] = torch.from_numpy(octets).view(inner[key].dtype).view(inner[key].shape)
    rebuilt = type(cast(Any, like)).__tensor_unflatten__({key: inner[key] for key in names}, context, None, None)
    return cast(Tensor, rebuilt)


def _inner(tensor: Tensor) -> Mapping[str, Tensor]:
    return {key: getattr(tensor, key) for key in cast(Any, tensor).__tensor_flatten__()[0]}


def _group_size(name: str, shape: tuple[int, ...], block: tuple[int, ...]) -> int:
    """Return how many neighbours in a row share a scale, 0 for the whole tensor."""
    if block == shape and shape[0] != 1:
        return 0
    if len(block) != len(shape) or any(side != 1 for side in block[:-1]) or not block or shape[-1] % block[-1]:
        raise UnsupportedFormat(
            f"{name} has blocks of {list(block)}", hint="read are blocks within a row, or one of all"
        )
    return block[-1]


def _bytes(name: str, tensor: Tensor, size: int, inner: Mapping[str, Tensor]) -> Layout:
    shape, scale = tuple(tensor.shape), _REAL[inner["scale"].dtype]
    zero = inner.get("zero_point")
    if zero is not None and zero.dtype != torch.int8:
        raise UnsupportedFormat(f"{name} has zero points of {zero.dtype}", hint="int8 ones are read")
    values = "fp32" if zero is not None and tensor.dtype == torch.bfloat16 else _REAL[tensor.dtype]
    format = Affine(
        bits=8, signed=True, zero="none" if zero is None else "stored", granularity="group" if size else "tensor",
        size=size or 1, scale=scale, values=values,
    )  # fmt: skip
    rows, columns = rows_and_columns(shape)
    shared = (rows, columns // size) if size else ()
    grid = shared or (1, 1)
    parts = {
        CODES: Part(plain("qdata", torch.int8, rows, columns), shape, format.name),
        "scale": Part(plain("scale", REALS[scale], *grid), shared, scale),
    }
    if zero is not None:
        parts["zero_point"] = Part(plain("zero_point", torch.int8, *grid), shared, "int8")
    return _layout(name, format, parts, inner)


def _nibbles(name: str, shape: tuple[int, ...], size: int, inner: Mapping[str, Tensor]) -> Layout:
    """Low nibble first along a row; scales and zeros are (groups, outputs), ``value = code * scale + zero``."""
    if len(shape) != 2 or not size:
        raise UnsupportedFormat(f"{name} of shape {list(shape)} is not read", hint="Int4Tensor: matrices in groups")
    if inner["zero_point"].dtype != inner["scale"].dtype:
        raise UnsupportedFormat(f"{name} has zeros of {inner['zero_point'].dtype} beside other scales")
    rows, columns = shape
    scale = _REAL[inner["scale"].dtype]
    format = Affine(bits=4, signed=True, zero="low", size=size, scale=scale)
    codes = Field(
        tensor="qdata", rows=rows, columns=columns, table=sequence(4, 2), dtype=torch.int8, block=8, other=4 * columns
    )
    groups = columns // size
    parts = {CODES: Part(codes, shape, format.name)} | {
        key: Part(plain(stored, REALS[scale], rows, groups, transposed=True), (rows, groups), scale)
        for key, stored in (("scale", "scale"), ("low", "zero_point"))
    }
    return _layout(name, format, parts, inner)


def _layout(name: str, format: Affine, parts: Mapping[str, Part], inner: Mapping[str, Tensor]) -> Layout:
    for part in parts.values():
        found = inner[part.field.tensor]
        if found.numel() * found.dtype.itemsize * 8 != part.field.numel * part.field.bits:
            raise UnsupportedFormat(f"{name} has {part.field.tensor} of shape {list(found.shape)}")
    stored = {
        key: extent(inner[key].dtype, *inner[key].shape) for key in {part.field.tensor for part in parts.values()}
    }
    return Layout(name=name, scheme="torchao", format=format, parts=parts, stored=stored)
