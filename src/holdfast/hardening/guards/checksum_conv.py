"""The checksum of a convolution: one sum per line of its output.

A line is one row of pixels of one sample, over all output channels. With random signs s of the channels and q of the
columns, the sum over a line of s[o] q[j] y[o, i, j] is a convolution of the input, summed over columns with the same
signs, with one precomputed kernel, the signed sum of all kernels (Kosaian and Rashmi, "Arithmetic-intensity-guided
fault tolerance", SC 2021, section 2, for sums over channels; summing lines as well cuts the cost by their length).
Groups need no kernel of their own: the input channels of a group meet the sum of that group's kernels.

Rounding follows the same model as a matrix product whose chain is the window and whose rows are the lines.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from holdfast.errors import UnsupportedFormat
from holdfast.hardening.guards.checksum_rounding import Rounding, deviations
from holdfast.hardening.guards.checksum_sums import Sums, kept_signs, weight_and_bias

_PART = 8  # the first look squares one output channel in eight


class ConvCheck:
    """Checks the outputs of a one- or two-dimensional convolution whose weights are those of ``sums``.

    Args:
        layer: padded with zeros.
        sums: of its weight and bias.
        false_alarms: chance per line that rounding alone raises an alarm.
        terms: weight and bias as they are multiplied, the summed ones; None for those of the layer.
        rounding: of the product; None for that of a product stored as the weights are.

    Raises:
        UnsupportedFormat: another padding, or three dimensions.
    """

    def __init__(
        self,
        layer: nn.Module,
        sums: Sums,
        false_alarms: float,
        terms: tuple[Tensor, Tensor | None] | None = None,
        rounding: Rounding | None = None,
    ) -> None:
        if not is_checkable(layer) or not isinstance(layer, nn.Conv1d | nn.Conv2d):
            raise UnsupportedFormat(f"no checksum for {layer}", hint="one or two dimensions, padded with zeros")
        weight, bias = weight_and_bias(layer) if terms is None else terms
        self.sums = sums
        self._rounding = Rounding.of(weight, convolution=True) if rounding is None else rounding
        self._limit = deviations(false_alarms) ** 2
        *_, self._chain = weight.detach().reshape(len(weight), -1).shape
        self._bias = sums.bias
        self._bias_length = 0.0 if bias is None else float(bias.detach().double().square().sum())
        self._kernel = _two(layer.kernel_size, 1)
        self._stride, self._dilation = _two(layer.stride, 1), _two(layer.dilation, 1)
        self._padding = _padding(layer, self._kernel, self._dilation)
        shape = (layer.in_channels, *self._kernel)
        self._column = sums.plain[:, :-1].reshape(shape)
        squares = weight.detach().double().square().reshape(sums.groups, len(weight) // sums.groups, -1)
        self._power = squares.sum(1).reshape(shape) + self._column.square()

    def wrong(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Return the numbers of the lines of ``output`` (batch, O, [H,] W) that its ``inputs`` do not explain."""
        x, y = _images(inputs), _images(output)
        passed = self._residual(x, y, self._rounding.work).square_() < self._least(y)
        if passed.all():
            return torch.empty(0, dtype=torch.int64, device=y.device)
        samples = (~passed).any(1).nonzero().flatten()
        residual = self._residual(x[samples], y[samples], torch.float64)
        fine = residual.square() < self._variance(x[samples], y[samples])
        lines = samples[:, None] * y.shape[2] + torch.arange(y.shape[2], device=y.device)
        return lines[~(fine | passed[samples])]

    def _residual(self, x: Tensor, y: Tensor, work: torch.dtype) -> Tensor:
        """Return the residual of each line, shape (batch, lines)."""
        across = kept_signs(y.shape[3], "columns", work, y.device)
        seen = torch.matmul(self.sums.signs.to(work), torch.matmul(y.to(work), across))
        expected = self._lines(x.to(work), self._column.to(work), across, y.shape[2])
        return seen - expected - self._bias * float(across.sum())

    def _lines(self, x: Tensor, kernel: Tensor, across: Tensor, lines: int) -> Tensor:
        """Return what one kernel (C, kh, kw) makes of ``x``, summed over columns weighted by ``across`` (W',)."""
        summed = x @ self._spread(across, x.shape[3])  # (batch, C, H, kw)
        rows = summed.transpose(1, 2).flatten(2) @ kernel.transpose(1, 2).flatten(0, 1)  # (batch, H, kh)
        result = rows.new_zeros(len(x), lines)
        for offset in range(self._kernel[0]):
            first, last, begin = self._reach(offset, lines, x.shape[2])
            if first < last:
                end = begin + (last - first - 1) * self._stride[0] + 1
                result[:, first:last] += rows[:, begin : end : self._stride[0], offset]
        return result

    def _spread(self, across: Tensor, width: int) -> Tensor:
        """Return which input column counts how often for each column of the kernel, shape (width, kw)."""
        place = torch.arange(len(across), device=across.device)[:, None] * self._stride[1] - self._padding[1]
        place = place + torch.arange(self._kernel[1], device=across.device) * self._dilation[1]
        inside = (place >= 0) & (place < width)
        spread = across.new_zeros(width, self._kernel[1])
        weights = across[:, None] * inside
        return spread.scatter_add_(0, place.clamp(0, width - 1), weights)

    def _reach(self, offset: int, lines: int, height: int) -> tuple[int, int, int]:
        """Return the lines first to last that read an input row at kernel row ``offset``, and the first row read."""
        shift, stride = offset * self._dilation[0] - self._padding[0], self._stride[0]
        first = max(0, -(shift // stride))
        last = min(lines, (height - 1 - shift) // stride + 1)
        return first, last, first * stride + shift

    def _least(self, y: Tensor) -> Tensor:
        """Return less than what the squared residuals may be."""
        part = y[:, : max(1, y.shape[1] // _PART)].to(self._rounding.work).square().sum((1, 3))
        return part.mul_(self._limit * self._of_outputs(y)).add_(self._floor(y))

    def _variance(self, x: Tensor, y: Tensor) -> Tensor:
        ones = torch.ones(y.shape[3], dtype=torch.float64, device=y.device)
        terms = self._lines(x.double().square(), self._power, ones, y.shape[2])
        outputs = self._of_outputs(y) * y.double().square().sum((1, 3))
        return self._limit * (self._rounding.of_terms(self._chain) * terms + outputs) + self._floor(y)

    def _of_outputs(self, y: Tensor) -> float:
        return self._rounding.of_outputs(self._chain, y.shape[1] * y.shape[3])

    def _floor(self, y: Tensor) -> float:
        return self._limit * self._rounding.floor(y.shape[1] * y.shape[3], self._bias_length * y.shape[3])


def is_checkable(layer: nn.Module) -> bool:
    """Say whether a convolution has a checksum: one or two dimensions, not transposed, padded with zeros."""
    return isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.padding_mode == "zeros"


def _images(tensor: Tensor) -> Tensor:
    """Return (batch, C, H, W) of any input or output of a convolution; a sequence is an image of one row."""
    tensor = tensor.detach()
    return tensor if tensor.dim() == 4 else tensor.unsqueeze(2)


def _two(values: tuple[int, ...], first: int) -> tuple[int, int]:
    return (values[0], values[1]) if len(values) == 2 else (first, values[0])


def _padding(layer: nn.Conv1d | nn.Conv2d, kernel: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, int]:
    """Return the zeros before the first row and column."""
    if isinstance(layer.padding, str):
        same = layer.padding == "same"
        return (dilation[0] * (kernel[0] - 1) // 2, dilation[1] * (kernel[1] - 1) // 2) if same else (0, 0)
    return _two(layer.padding, 0)
