"""NF4 weights as bitsandbytes stores them: two codes a byte, the first one high, and one float32 maximum per block.

Beside the codes stand ``absmax``, ``quant_map`` (the sixteen levels) and a JSON text, ``quant_state``. Blocks run over
the flattened weight; read are those that do not cross rows, and maxima that were not quantised a second time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import torch

from holdfast.errors import InvalidConfig, UnreadableArtifact, UnsupportedFormat
from holdfast.numerics.formats import Encoded, formats
from holdfast.quantization.adapters.field import Field, Octets, plain
from holdfast.quantization.adapters.layout import CODES, Extent, Layout, Part, extent

STATE = ".quant_state.bitsandbytes__nf4"
_HIGH_FIRST = ((4, 5, 6, 7), (0, 1, 2, 3))


def nf4(name: str, shape: tuple[int, int], *, size: int = 64, state: bytes | None = None) -> Layout:
    """Return the layout of an NF4 weight.

    Args:
        name: of the weight.
        shape: outputs and inputs.
        size: elements per block; rows are made of whole blocks.
        state: the JSON text as stored; None writes one.

    Raises:
        InvalidConfig: blocks that cross rows.
    """
    rows, columns = shape
    if size < 2 or size % 2 or columns % size:
        raise InvalidConfig(f"{name}: rows of {columns} are not made of blocks of {size}")
    format = formats.build(f"nf4:block={size}")
    groups, count = columns // size, math.prod(shape)
    codes = Field(
        tensor=name, rows=rows, columns=columns, table=_HIGH_FIRST, dtype=torch.uint8, block=8, other=4 * columns
    )
    absmax, levels, text = f"{name}.absmax", f"{name}.quant_map", f"{name}{STATE}"
    written = state if state is not None else _written(shape, size)
    ladder = torch.arange(16, dtype=torch.uint8).view(1, 16)
    values = format.decode(Encoded(ladder, {"scale": torch.ones(1, 1)}))
    return Layout(
        name=name,
        scheme="bitsandbytes-nf4",
        format=format,
        parts={
            CODES: Part(codes, shape, format.name),
            "scale": Part(plain(absmax, torch.float32, rows, groups), (rows, groups), "fp32"),
        },
        stored={
            name: extent(torch.uint8, count // 2, 1),
            absmax: extent(torch.float32, rows * groups),
            levels: extent(torch.float32, 16),
            text: extent(torch.uint8, len(written)),
        },
        fixed={levels: values.numpy().tobytes(), text: written},
    )


def _written(shape: tuple[int, int], size: int) -> bytes:
    state = {"quant_type": "nf4", "blocksize": size, "dtype": "float32", "shape": list(shape)}
    return json.dumps(state).encode()


def read_nf4(text: str, extents: Mapping[str, Extent], memory: Mapping[str, Octets]) -> Layout:
    """Return the layout of the weight whose state is the stored tensor ``text``.

    Raises:
        UnreadableArtifact: a state that is no JSON, or that does not describe a matrix.
        UnsupportedFormat: maxima quantised again, blocks across rows, or levels of another kind.
    """
    name = text.removesuffix(STATE)
    state = _state(text, memory[text].tobytes())
    if f"{name}.nested_absmax" in extents or "nested_blocksize" in state:
        raise UnsupportedFormat(f"{name} has maxima that were quantised again", hint="save without double quantisation")
    shape, size = state.get("shape"), state.get("blocksize")
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(side) is int and side > 0 for side in shape):
        raise UnreadableArtifact(f"{text} describes no matrix: {shape!r}")
    if type(size) is not int or size < 2 or size % 2 or shape[1] % size:
        raise UnsupportedFormat(
            f"{name} has blocks of {size!r} in rows of {shape[1]}", hint="read are blocks within a row"
        )
    layout = nf4(name, (shape[0], shape[1]), size=size, state=memory[text].tobytes())
    levels = f"{name}.quant_map"
    if levels in memory and memory[levels].tobytes() != layout.fixed[levels]:
        raise UnsupportedFormat(f"{levels} are not the levels of NF4")
    return layout


def _state(text: str, data: bytes) -> dict[str, Any]:
    try:
        state = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise UnreadableArtifact(f"{text} is no JSON: {error}") from error
    if not isinstance(state, dict):
        raise UnreadableArtifact(f"{text} is no JSON object")
    return state
