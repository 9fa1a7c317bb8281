"""Trusted nodes with state: products of activations, grouped convolutions and tables."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.numerics.formats import Encoded
from holdfast.shielding.graph import exact
from holdfast.shielding.integer import accumulator_bound, code_scale, nearest_codes
from holdfast.shielding.product import CODE_MAX, Geometry, integer_product

WIDE_CODE = 2**15 - 1  # operands of products between activations stay in the trusted world and can be finer
SOFTMAX_TABLE = "exact__softmax_table"  # the constant of a model that its softmax leaves share
_FLOAT32_EXACT = 2**24


class Product(nn.Module):
    """A matrix product of two activations over whole numbers: queries by keys, weights by values.

    Args:
        name: for messages.
        peaks: largest magnitudes of the two operands seen in calibration.
        inner: number of products in one accumulator.

    Attributes:
        bound: the largest accumulator magnitude, proved below 2**53, where float64 is exact.

    Raises:
        InvalidConfig: an accumulator could leave the exact whole numbers.
    """

    left_scale: Tensor
    right_scale: Tensor

    def __init__(self, name: str, peaks: tuple[float, float], inner: int) -> None:
        super().__init__()
        self.top_code, self.inner, self.bound = WIDE_CODE, inner, inner * WIDE_CODE**2
        if self.bound >= 2**exact.MANTISSA:
            raise InvalidConfig(f"node {name!r} sums {inner} products and could leave float64's whole numbers")
        for side, peak in zip(("left", "right"), peaks, strict=True):
            self.register_buffer(f"{side}_scale", torch.tensor(code_scale(peak, WIDE_CODE), dtype=torch.float32))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Return ``left @ right`` of the operands' codes, float32."""
        a = nearest_codes(left, self.left_scale, WIDE_CODE).double()
        b = nearest_codes(right, self.right_scale, WIDE_CODE).double()
        return (torch.matmul(a, b) * (self.left_scale.double() * self.right_scale)).float()


class Softmax(nn.Module):
    """Softmax along one dimension, from a table."""

    table: Tensor

    def __init__(self, dim: int, table: Tensor) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("table", table, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the weights, float32, of the shape of ``x``."""
        return exact.softmax(x, self.dim, self.table)


class Lookup(nn.Module):
    """A function of one number as a table over the codes of its input; beyond the calibrated range it stays level.

    Args:
        function: float64 to float64, elementwise; called once.
        peak: largest input magnitude seen in calibration.
    """

    scale: Tensor
    table: Tensor

    def __init__(self, function: Callable[[Tensor], Tensor], peak: float) -> None:
        super().__init__()
        self.top_code = WIDE_CODE
        self.register_buffer("scale", torch.tensor(code_scale(peak, WIDE_CODE), dtype=torch.float32))
        steps = torch.arange(-WIDE_CODE, WIDE_CODE + 1, dtype=torch.float64)
        self.register_buffer("table", function(steps * self.scale.double()).float())

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of ``x``, float32."""
        return self.table[nearest_codes(x, self.scale, WIDE_CODE).long() + WIDE_CODE]


class GroupedConvolution(nn.Module):
    """A grouped or depthwise convolution over int8; trusted, because checking it costs as much as computing it.

    Args:
        name: for messages.
        geometry: of one group.
        encoded: weights of all groups, (out, in / groups, *kernel).
        activation_scale: value of one activation code.

    Attributes:
        bound: the largest accumulator magnitude, proved below 2**31.
    """

    codes: Tensor
    scale: Tensor
    activation_scale: Tensor
    bias: Tensor | None

    def __init__(
        self,
        name: str,
        geometry: Geometry,
        groups: int,
        encoded: Encoded,
        activation_scale: float,
        bias: Tensor | None,
        top_code: int = CODE_MAX,
    ) -> None:
        super().__init__()
        self.geometry, self.groups, self.top_code = geometry, groups, top_code
        self.bound = accumulator_bound(encoded.codes, top_code, layer=name)
        weight_scale = encoded.qparams["scale"].reshape(-1).expand(len(encoded.codes)).float()
        self.register_buffer("codes", encoded.codes.contiguous())
        self.register_buffer("activation_scale", torch.tensor(activation_scale, dtype=torch.float32))
        self.register_buffer("scale", (weight_scale * self.activation_scale).view(-1, 1, 1).contiguous())
        self.register_buffer("bias", None if bias is None else bias.detach().float().view(-1, 1, 1).clone())

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of ``x`` (batch, in, height, width), float32."""
        codes = nearest_codes(x, self.activation_scale, self.top_code)
        total = self._depthwise(codes) if self.geometry.in_channels == 1 else self._groups(codes)
        return exact.scaled(total.float(), self.scale, self.bias)

    def _groups(self, codes: Tensor) -> Tensor:
        parts = zip(codes.to(torch.int8).chunk(self.groups, 1), self.codes.chunk(self.groups), strict=True)
        return torch.cat([integer_product(x, weights, self.geometry) for x, weights in parts], 1)

    def _depthwise(self, codes: Tensor) -> Tensor:
        """Sum one shifted image per tap: whole numbers below the bound, in a float type that holds them."""
        g, wide = self.geometry, torch.float32 if self.bound < _FLOAT32_EXACT else torch.float64
        outputs = g.output_shape((1, *codes.shape[2:]))[1:]
        images = codes.repeat_interleave(g.out_channels, 1) if g.out_channels > 1 else codes
        images, weights = F.pad(images.to(wide), g.padding), self.codes.to(wide)
        total = images.new_zeros(codes.shape[0], len(weights), *outputs)
        for row in range(g.kernel[0]):
            for column in range(g.kernel[1]):
                window = images[:, :, _taps(row, 0, g, outputs), _taps(column, 1, g, outputs)]
                total.addcmul_(window, weights[:, 0, row, column].view(1, -1, 1, 1))
        return total


def _taps(tap: int, axis: int, geometry: Geometry, outputs: tuple[int, ...]) -> slice:
    """Return the input positions that meet one tap of the kernel."""
    start, stride = tap * geometry.dilation[axis], geometry.stride[axis]
    return slice(start, start + (outputs[axis] - 1) * stride + 1, stride)
