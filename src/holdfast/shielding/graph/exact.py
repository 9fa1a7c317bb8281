"""Arithmetic of the trusted nodes whose bits depend on nothing but the sample.

Float sums change with the order of summation, and that with batch size and threads. So no function here sums floats:
every reduction adds whole numbers that float64 holds exactly, and everything else is one correctly rounded IEEE-754
operation per element, a choice between elements, or a table lookup. So the same sample gives the same bits in any batch
and on any number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

MANTISSA = 53  # float64 holds every whole number below 2**53
SOFTMAX_STEPS = 2**11  # table entries per unit of the exponent
SOFTMAX_REACH = 2**15  # entries in all; exp(-16) and less are 0
_SOFTMAX_ONE = 2**30
_MOST_BITS = 30


def power_of_two(exponent: Tensor) -> Tensor:
    """Return 2**exponent as float64, exactly, for int exponents within -1022 .. 1023."""
    return ((exponent.long() + 1023) << 52).view(torch.float64)


def fixed_point(x: Tensor, dims: Sequence[int], *, power: int = 1) -> tuple[Tensor, Tensor]:
    """Return ``x`` as whole numbers times a power of two that is common to all elements along ``dims``.

    The whole numbers are small enough for the sum of their ``power``-th powers along ``dims`` to be exact in float64.

    Returns:
        float64 whole numbers of the shape of ``x``, and the float64 power of two, which keeps ``dims`` as size 1.
    """
    terms = math.prod(x.shape[dim] for dim in dims)
    bits = min(_MOST_BITS, (MANTISSA - 1 - max(terms - 1, 0).bit_length()) // power)
    wide = x.double()
    exponent = torch.frexp(wide.abs().amax(tuple(dims), keepdim=True)).exponent
    return (wide * power_of_two(bits - exponent)).round_(), power_of_two(exponent - bits)


def total(x: Tensor, dims: Sequence[int], keepdim: bool = False) -> Tensor:
    """Return the sum of ``x`` along ``dims``, float32."""
    whole, unit = fixed_point(x, dims)
    result = whole.sum(tuple(dims), keepdim=True) * unit
    return (result if keepdim else _squeezed(result, dims)).float()


def mean(x: Tensor, dims: Sequence[int], keepdim: bool = False) -> Tensor:
    """Return the mean of ``x`` along ``dims``, float32."""
    whole, unit = fixed_point(x, dims)
    result = whole.sum(tuple(dims), keepdim=True) / math.prod(x.shape[dim] for dim in dims) * unit
    return (result if keepdim else _squeezed(result, dims)).float()


def _squeezed(x: Tensor, dims: Sequence[int]) -> Tensor:
    for dim in sorted((dim % x.dim() for dim in dims), reverse=True):
        x = x.squeeze(dim)
    return x


def normalised(x: Tensor, dims: Sequence[int], epsilon: float, *, centred: bool = True) -> Tensor:
    """Return ``x`` along ``dims`` with mean 0 (if ``centred``) and mean square 1, float32."""
    whole, unit = fixed_point(x, dims, power=2)
    count, axes = math.prod(x.shape[dim] for dim in dims), tuple(dims)
    spread = (whole * whole).sum(axes, keepdim=True) / count
    if centred:
        middle = whole.sum(axes, keepdim=True) / count
        whole, spread = whole - middle, (spread - middle * middle).clamp_min_(0.0)
    return (whole / (spread + epsilon / (unit * unit)).sqrt()).float()


def layer_norm(
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    epsilon: float = 1e-5,
    _: bool = False,
) -> Tensor:
    """Return layer normalisation over the last ``len(shape)`` dimensions (Ba et al., 2016)."""
    return scaled(normalised(x, range(-len(shape), 0), epsilon), weight, bias)


def rms_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None = None, epsilon: float | None = None) -> Tensor:
    """Return root-mean-square normalisation over the last ``len(shape)`` dimensions (Zhang & Sennrich, 2019)."""
    small = torch.finfo(torch.float32).eps if epsilon is None else epsilon
    return scaled(normalised(x, range(-len(shape), 0), small, centred=False), weight, None)


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    epsilon: float = 1e-5,
    _: bool = False,
) -> Tensor:
    """Return group normalisation of ``x`` (batch, channels, ...) (Wu & He, 2018)."""
    flat = normalised(x.reshape(x.shape[0], groups, -1), (-1,), epsilon).reshape(x.shape)
    sides = (-1, *(1 for _ in x.shape[2:]))
    return scaled(flat, *(None if part is None else part.view(sides) for part in (weight, bias)))


def scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Return ``x * weight + bias``, rounded after each operation."""
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def softmax_table() -> Tensor:
    """Return exp(-i / SOFTMAX_STEPS), i = 0 .. SOFTMAX_REACH - 1 as float64 whole numbers of 2**-30; the last is 0."""
    steps = torch.arange(SOFTMAX_REACH, dtype=torch.float64) / SOFTMAX_STEPS
    table = (torch.exp(-steps) * _SOFTMAX_ONE).round_()
    table[-1] = 0.0
    return table


def softmax(x: Tensor, dim: int, table: Tensor) -> Tensor:
    """Return the softmax of ``x`` along ``dim``, float32; minus infinity gets weight 0.

    The distance of every element to the largest, in steps of 1/2048, looks its weight up in ``table``
    (:func:`softmax_table`); the weights are whole numbers, so their sum is exact.
    """
    distance = torch.nan_to_num(x.amax(dim, keepdim=True) - x, nan=0.0, posinf=torch.inf)
    steps = (distance * SOFTMAX_STEPS).round_().clamp_(0, SOFTMAX_REACH - 1)
    weights = table[steps.long()]
    return (weights / weights.sum(dim, keepdim=True)).float()


def average_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Tensor:
    """Return average pooling of ``x`` (batch, channels, height, width), float32."""
    whole, unit = fixed_point(x, (-2, -1))
    step, pad = list(stride) or list(kernel), list(padding)
    sums = F.avg_pool2d(whole, list(kernel), step, pad, ceil_mode, True, divisor_override=1)
    return (sums / (divisor or _window_sizes(x, list(kernel), step, pad, ceil_mode, count_include_pad)) * unit).float()


def _window_sizes(
    x: Tensor, kernel: list[int], stride: list[int], padding: list[int], ceil_mode: bool, include_pad: bool
) -> Tensor:
    """Return how many elements each window averages over, shape (1, 1, out height, out width)."""
    ones, pad = torch.ones(1, 1, *x.shape[2:], dtype=torch.float64, device=x.device), padding
    sums = F.avg_pool2d(ones, kernel, stride, pad, ceil_mode, True, divisor_override=1)
    if not include_pad:
        return sums
    high, wide = pad[0], pad[-1]
    around = F.pad(ones, (wide, wide, high, high), value=1.0)
    return F.avg_pool2d(around, kernel, stride, 0, ceil_mode, True, divisor_override=1)[
        ..., : sums.shape[-2], : sums.shape[-1]
    ]


def adaptive_average_pool(x: Tensor, size: Sequence[int | None]) -> Tensor:
    """Return adaptive average pooling of ``x`` (..., height, width) to ``size``, float32."""
    whole, unit = fixed_point(x, (-2, -1))
    high, wide = (_windows(side, out or side, x.device) for side, out in zip(x.shape[-2:], size, strict=True))
    counts = high.sum(1).unsqueeze(1) * wide.sum(1)
    return (torch.matmul(torch.matmul(high, whole), wide.t()) / counts * unit).float()


def _windows(side: int, out: int, device: torch.device) -> Tensor:
    """Return a 0/1 matrix, float64 (out, side): which positions each output averages."""
    result = torch.zeros(out, side, dtype=torch.float64, device=device)
    for place in range(out):
        result[place, place * side // out : -(-(place + 1) * side // out)] = 1.0
    return result


def inverse_root(x: Tensor) -> Tensor:
    """Return ``1 / sqrt(x)``, rounded twice."""
    return 1.0 / torch.sqrt(x)


def whole_power(x: Tensor, exponent: float) -> Tensor:
    """Return ``x ** exponent`` for the exponents that need no logarithm: -1, -0.5, 0.5, 1, 2, 3, 4."""
    if exponent == 0.5:
        return torch.sqrt(x)
    if exponent == -0.5:
        return inverse_root(x)
    if exponent == -1:
        return 1.0 / x
    square = x * x
    return {1: x, 2: square, 3: square * x, 4: square * square}[int(exponent)]
