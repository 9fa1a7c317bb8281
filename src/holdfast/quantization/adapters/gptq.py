"""GPTQ, AWQ and compressed-tensors: three ways to pack integers into int32 words of a safetensors file.

- GPTQ (Frantar et al., ICLR 2023; AutoGPTQ, GPTQModel): words run along the inputs, so a word of ``qweight`` holds
  consecutive inputs of one output; 3-bit codes run on across three words. ``qzeros`` is packed along the outputs.
  The first convention (v1) stores the zero less one; v2 stores the zero. ``g_idx`` names the group of each input.
- AWQ (Lin et al., MLSys 2024; the GEMM layout): words run along the outputs, and the nibbles of a word hold the outputs
  0 2 4 6 1 3 5 7.
- compressed-tensors (``pack-quantized``): words run along the inputs of one output, row by row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch

from holdfast.errors import InvalidConfig
from holdfast.numerics.formats.affine import Affine, Real, Zero
from holdfast.quantization.adapters.field import Field, plain, sequence
from holdfast.quantization.adapters.layout import CODES, REALS, Extent, Layout, Part, extent

Convention = Literal["v1", "v1-unwrapped", "v2"]
_ZERO: Mapping[Convention, Zero] = {
    "v1": "stored-minus-one",
    "v1-unwrapped": "stored-minus-one-unwrapped",
    "v2": "stored",
}
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_AWQ_NIBBLES = tuple(tuple(4 * _AWQ_ORDER.index(lane) + bit for bit in range(4)) for lane in range(8))


def gptq(
    name: str,
    shape: tuple[int, int],
    *,
    bits: int,
    size: int,
    convention: Convention = "v1",
    scale: Real = "fp16",
    act: bool = True,
) -> Layout:
    """Return the layout of a GPTQ weight.

    Args:
        name: of the weight, ending in ``.weight``.
        shape: outputs and inputs.
        bits: 2, 3, 4 or 8.
        size: inputs per group.
        convention: of the zeros: ``v1``, ``v1-unwrapped`` (as the first readers took it) or ``v2``.
        scale: precision of the scales, and of the product.
        act: whether the file has ``g_idx``.

    Raises:
        InvalidConfig: another width, or sides that do not fill whole words.
    """
    if bits not in (2, 3, 4, 8):
        raise InvalidConfig(f"GPTQ has 2, 3, 4 or 8 bits, not {bits}")
    outputs, inputs = shape
    lanes, words = (32, 3) if bits == 3 else (32 // bits, 1)
    _require_multiple(name, outputs, lanes)
    _require_multiple(name, inputs, lanes)
    groups = -(-inputs // size)
    qweight, qzeros, scales, index = (_beside(name, tail) for tail in ("qweight", "qzeros", "scales", "g_idx"))
    format = Affine(
        bits=bits,
        zero=_ZERO[convention],
        size=size,
        scale=scale,
        values=_values(bits, scale),
        order="act" if act else "row",
    )
    line = 32 * outputs  # from one row of words to the next
    codes = Field(
        tensor=qweight, rows=outputs, columns=inputs, table=sequence(bits, lanes), dtype=torch.uint8,
        block=words * line, other=32, word=line, word_bits=32,
    )  # fmt: skip
    zeros = Field(
        tensor=qzeros, rows=outputs, columns=groups, table=sequence(bits, lanes), dtype=torch.uint8, packed=0,
        block=32 * words, other=outputs * bits,
    )  # fmt: skip
    parts = {
        CODES: Part(codes, shape, format.name),
        "scale": Part(plain(scales, REALS[scale], outputs, groups, transposed=True), (outputs, groups), scale),
        "zero_point": Part(zeros, (outputs, groups), f"uint{bits}"),
    }
    stored = {
        qweight: extent(torch.int32, inputs * bits // 32, outputs),
        qzeros: extent(torch.int32, groups, outputs * bits // 32),
        scales: extent(REALS[scale], groups, outputs),
    }
    if act:
        parts["group"] = Part(plain(index, torch.int32, 1, inputs), (inputs,), "int32")
        stored[index] = extent(torch.int32, inputs)
    return Layout(name=name, scheme="gptq", format=format, parts=parts, stored=stored)


def awq(name: str, shape: tuple[int, int], *, size: int, scale: Real = "fp16") -> Layout:
    """Return the layout of an AWQ weight of 4 bits; ``shape`` is outputs and inputs.

    Raises:
        InvalidConfig: outputs that do not fill whole words.
    """
    outputs, inputs = shape
    _require_multiple(name, outputs, 8)
    groups = -(-inputs // size)
    qweight, qzeros, scales = (_beside(name, tail) for tail in ("qweight", "qzeros", "scales"))
    format = Affine(bits=4, zero="stored", size=size, scale=scale, values=scale)

    def nibbles(tensor: str, columns: int) -> Field:
        return Field(
            tensor=tensor, rows=outputs, columns=columns, table=_AWQ_NIBBLES, dtype=torch.uint8, packed=0,
            block=32, other=4 * outputs,
        )  # fmt: skip

    parts = {
        CODES: Part(nibbles(qweight, inputs), shape, format.name),
        "scale": Part(plain(scales, REALS[scale], outputs, groups, transposed=True), (outputs, groups), scale),
        "zero_point": Part(nibbles(qzeros, groups), (outputs, groups), "uint4"),
    }
    stored = {
        qweight: extent(torch.int32, inputs, outputs // 8),
        qzeros: extent(torch.int32, groups, outputs // 8),
        scales: extent(REALS[scale], groups, outputs),
    }
    return Layout(name=name, scheme="awq", format=format, parts=parts, stored=stored)


def compressed_tensors(
    name: str,
    shape: tuple[int, int],
    *,
    bits: int,
    size: int,
    scale: Real = "bf16",
    zeros: bool = False,
    act: bool = False,
) -> Layout:
    """Return the layout of a ``pack-quantized`` weight of 2 to 8 bits; ``shape`` is outputs and inputs.

    Codes are stored with ``2**(bits-1)`` added, and so are the zero points, if there are any. With ``act`` the group of
    each input is stored too.

    Raises:
        InvalidConfig: another width, or one that crosses words on sides that do not fill them.
    """
    if not 2 <= bits <= 8:
        raise InvalidConfig(f"pack-quantized has 2 to 8 bits, not {bits}")
    outputs, inputs = shape
    groups = -(-inputs // size)
    packed, scales, points, index, sides = (
        f"{name}_{tail}" for tail in ("packed", "scale", "zero_point", "g_idx", "shape")
    )
    format = Affine(
        bits=bits, zero="stored" if zeros else "middle", size=size, scale=scale, values=_values(bits, scale),
        order="act" if act else "row",
    )  # fmt: skip
    parts = {
        CODES: Part(_dense(packed, outputs, inputs, bits, packed=1), shape, format.name),
        "scale": Part(plain(scales, REALS[scale], outputs, groups), (outputs, groups), scale),
    }
    stored: dict[str, Extent] = {
        packed: extent(torch.int32, outputs, -(-inputs * bits // 32)),
        scales: extent(REALS[scale], outputs, groups),
        sides: extent(torch.int64, 2),
    }
    if zeros:
        parts["zero_point"] = Part(_dense(points, outputs, groups, bits, packed=0), (outputs, groups), f"uint{bits}")
        stored[points] = extent(torch.int32, -(-outputs * bits // 32), groups)
    if act:
        parts["group"] = Part(plain(index, torch.int32, 1, inputs), (inputs,), "int32")
        stored[index] = extent(torch.int32, inputs)
    fixed = {sides: b"".join(side.to_bytes(8, "little") for side in shape)}
    return Layout(name=name, scheme="compressed-tensors", format=format, parts=parts, stored=stored, fixed=fixed)


def _dense(tensor: str, rows: int, columns: int, bits: int, *, packed: int) -> Field:
    """Return the field of codes that follow one another without padding through the words of one dimension."""
    words = bits // math.gcd(bits, 32)
    lanes = 32 * words // bits
    if words > 1:
        _require_multiple(tensor, columns if packed else rows, lanes)
    step, line = (32, 32 * -(-columns * bits // 32)) if packed else (32 * columns, 32)
    return Field(
        tensor=tensor, rows=rows, columns=columns, table=sequence(bits, lanes), dtype=torch.uint8, packed=packed,
        block=words * step, other=line, word=step, word_bits=32,
    )  # fmt: skip


def _beside(name: str, tail: str) -> str:
    if not name.endswith(".weight"):
        raise InvalidConfig(f"{name} does not end in .weight")
    return f"{name.removesuffix('weight')}{tail}"


def _values(bits: int, scale: Real) -> Real:
    """Return the precision of the product: that of the scale, unless it cannot tell the codes apart."""
    return "fp32" if bits == 8 and scale == "bf16" else scale


def _require_multiple(name: str, side: int, lanes: int) -> None:
    if side % lanes:
        raise InvalidConfig(f"{name} has a side of {side}, which does not fill words of {lanes} codes")
