"""Exact integer products of convolutions and linear layers, in the true integers and modulo 2**32.

Both worlds share this file: the trusted reference multiplies int8 by int8 and gets true integers; the untrusted worker
multiplies blinded int32 residues by int8 and gets residues. Neither rounds, ever: float matrix units are used only
where every partial sum is an integer they hold exactly.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.numerics.ring import FLOAT64_EXACT, exact_product, wrap32

CODE_MAX = 127  # activation codes are -127..127
_FLOAT32_EXACT = 2**24
_MOST_SIDE = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """How a layer's weights meet its input; everything but the weights themselves.

    Weights of a conv2d have shape (out, in, *kernel), of a linear layer (out, in).
    """

    kind: Literal["conv2d", "linear"]
    out_channels: int
    in_channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)  # zeros at left, right, top, bottom

    @property
    def inner(self) -> int:
        """Number of products in one accumulator."""
        return self.in_channels * math.prod(self.kernel)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weights."""
        head = (self.out_channels, self.in_channels)
        return (*head, *self.kernel) if self.kind == "conv2d" else head

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the output shape of one sample for the input ``shape`` of one sample.

        Raises:
            InvalidConfig: the layer does not take such an input.
        """
        channel = -1 if self.kind == "linear" else 0
        wanted = 3 if self.kind == "conv2d" else len(shape)
        if not shape or len(shape) != wanted or shape[channel] != self.in_channels:
            raise InvalidConfig(f"a {self.kind} layer of {self.in_channels} inputs does not take samples of {shape}")
        if self.kind == "linear":
            return (*shape[:-1], self.out_channels)
        left, right, top, bottom = self.padding
        sides = (shape[1] + top + bottom, shape[2] + left + right)
        out = tuple(self._positions(side, axis) for axis, side in enumerate(sides))
        if min(out) < 1:
            raise InvalidConfig(f"an image of {shape[1]}x{shape[2]} is smaller than the kernel {self.kernel}")
        return (self.out_channels, *out)

    def _positions(self, side: int, axis: int) -> int:
        reach = self.dilation[axis] * (self.kernel[axis] - 1)
        return (side - reach - 1) // self.stride[axis] + 1

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, value: object) -> Geometry:
        """Read what :meth:`to_json` wrote; every field is checked, since it comes from another process.

        Raises:
            InvalidConfig: a missing, unknown or impossible field.
        """
        if not isinstance(value, dict) or value.keys() != cls.__dataclass_fields__.keys():
            raise InvalidConfig("a layer geometry has other fields")
        if value["kind"] not in ("conv2d", "linear"):
            raise InvalidConfig(f"a layer is conv2d or linear, not {value['kind']!r}")
        sizes = {key: _sizes(key, value[key]) for key in ("kernel", "stride", "dilation", "padding")}
        channels = {key: _size(key, value[key], least=1) for key in ("out_channels", "in_channels")}
        return cls(kind=value["kind"], **channels, **sizes)  # type: ignore[arg-type]


def _sizes(key: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) != (4 if key == "padding" else 2):
        raise InvalidConfig(f"{key} of a layer geometry has another length")
    return tuple(_size(key, side, least=0 if key == "padding" else 1) for side in value)


def _size(key: str, value: object, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MOST_SIDE:
        raise InvalidConfig(f"{key} of a layer geometry is {value!r}")
    return value


def unroll(x: Tensor, geometry: Geometry) -> Tensor:
    """Return the operands of every output position as rows, shape (batch * positions, inner); keeps the dtype."""
    if geometry.kind == "linear":
        return x.reshape(-1, geometry.in_channels)
    x = F.pad(x, geometry.padding) if any(geometry.padding) else x
    for axis in (0, 1):
        reach = geometry.dilation[axis] * (geometry.kernel[axis] - 1) + 1
        x = x.unfold(2 + axis, reach, geometry.stride[axis])[..., :: geometry.dilation[axis]]
    return x.permute(0, 2, 3, 1, 4, 5).reshape(-1, geometry.inner)


def arrange(rows: Tensor, geometry: Geometry, shape: tuple[int, ...]) -> Tensor:
    """Bring (batch * positions, out) rows into the layer's output layout for inputs of ``shape`` (with batch)."""
    out = geometry.output_shape(shape[1:])
    if geometry.kind == "linear":
        return rows.reshape(shape[0], *out)
    return rows.reshape(shape[0], *out[1:], geometry.out_channels).permute(0, 3, 1, 2).contiguous()


def ring_product(x: Tensor, codes: Tensor, geometry: Geometry) -> Tensor:
    """Return the layer's product modulo 2**32.

    Args:
        x: int32 residues, shape (batch, *sample).
        codes: int8 weights, shape ``geometry.weight_shape``.

    Returns:
        int32 residues, shape (batch, *output).
    """
    rows = unroll(x, geometry)
    weights = codes.reshape(geometry.out_channels, -1).t()
    # 2**31 * 2**7 * block stays inside float64's exact integers, so one float64 product serves a whole block
    block = FLOAT64_EXACT // 2**38 - 1
    total = torch.zeros(rows.shape[0], geometry.out_channels, dtype=torch.int64, device=x.device)
    for start in range(0, geometry.inner, block):
        part = slice(start, start + block)
        total += exact_product(rows[:, part], weights[part], left_bound=2**31, right_bound=2**7)
    return arrange(wrap32(total), geometry, tuple(x.shape))


def integer_product(x: Tensor, codes: Tensor, geometry: Geometry) -> Tensor:
    """Return the layer's true integer product as int32; the caller has proved that it fits.

    Args:
        x: int8 activation codes in -127..127, shape (batch, *sample).
        codes: int8 weights, shape ``geometry.weight_shape``.
    """
    rows = unroll(x, geometry)
    weights = codes.reshape(geometry.out_channels, -1).t()
    exact32 = geometry.inner * CODE_MAX * 2**7 < _FLOAT32_EXACT
    wide = torch.float32 if exact32 else torch.float64
    return arrange((rows.to(wide) @ weights.to(wide)).to(torch.int32), geometry, tuple(x.shape))


def prove_bound(geometry: Geometry, codes: Tensor, *, layer: str) -> int:
    """Return the largest possible accumulator magnitude, ``inner * 127 * max|w|``, proved below 2**31.

    Raises:
        InvalidConfig: an accumulator could overflow int32, so a residue would not name one integer.
    """
    most = int(codes.to(torch.int32).abs().max()) if codes.numel() else 0
    bound = geometry.inner * CODE_MAX * most
    if bound >= 2**31:
        raise InvalidConfig(
            f"layer {layer!r} sums {geometry.inner} products and could overflow int32",
            hint="keep this layer in the trusted world, or split it",
        )
    return bound
