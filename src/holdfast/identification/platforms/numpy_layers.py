"""numpy twins of torch layers and functions: the same mathematics on another library's kernels, float32 throughout."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import nn

from holdfast.errors import Unavailable
from holdfast.identification.probe_nets import Reductions

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Kernels:
    """How products are summed: ``blas`` or ``einsum``."""

    contraction: str

    def product(self, one: Array, other: Array) -> Array:
        """Return ``one @ other`` over the last two axes."""
        if self.contraction == "einsum":
            return np.einsum("...ij,...jk->...ik", one, other)  # type: ignore[no-any-return]
        return np.matmul(one, other)  # type: ignore[no-any-return]

    def dot(self, one: Array, other: Array) -> Any:
        """Return the scalar product of two vectors."""
        return np.einsum("i,i->", one, other) if self.contraction == "einsum" else np.dot(one, other)


def _array(parameter: Any) -> Array:
    return parameter.detach().numpy()  # type: ignore[no-any-return]


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _linear(kernels: Kernels, layer: nn.Linear, x: Array) -> Array:
    y = kernels.product(x, _array(layer.weight).T)
    return y if layer.bias is None else y + _array(layer.bias)


def _windows(x: Array, size: Sequence[int], stride: Sequence[int], padding: Sequence[int], fill: float) -> Array:
    """Return (n, c, rows, columns, height, width)."""
    rows, columns = padding
    padded = np.pad(x, ((0, 0), (0, 0), (rows, rows), (columns, columns)), constant_values=fill)
    return sliding_window_view(padded, tuple(size), axis=(2, 3))[:, :, :: stride[0], :: stride[1]]


def _conv(kernels: Kernels, layer: nn.Conv2d, x: Array) -> Array:
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros" or _pair(layer.dilation) != (1, 1):
        raise Unavailable("dilated and specially padded convolutions have no numpy twin here")
    weight, groups = _array(layer.weight), layer.groups
    windows = _windows(x, weight.shape[2:], layer.stride, layer.padding, 0.0)
    n, _, rows, columns = windows.shape[:4]
    parts = windows.reshape(n, groups, -1, rows, columns, *weight.shape[2:]).transpose(0, 1, 3, 4, 2, 5, 6)
    columned = np.ascontiguousarray(parts.reshape(n, groups, rows * columns, -1))
    filters = weight.reshape(groups, weight.shape[0] // groups, -1).transpose(0, 2, 1)
    y = kernels.product(columned, filters).transpose(0, 1, 3, 2).reshape(n, -1, rows, columns)
    return y if layer.bias is None else y + _array(layer.bias).reshape(1, -1, 1, 1)


def _batch_norm(_: Kernels, layer: nn.BatchNorm2d, x: Array) -> Array:
    if layer.running_mean is None:
        raise Unavailable("normalisation by the batch's own statistics has no numpy twin here")

    mean, variance = (_array(value).reshape(1, -1, 1, 1) for value in (layer.running_mean, layer.running_var))
    weight, bias = (
        None if value is None else _array(value).reshape(1, -1, 1, 1) for value in (layer.weight, layer.bias)
    )
    scale = (np.float32(1) if weight is None else weight) / np.sqrt(variance + np.float32(layer.eps))
    return x * scale + ((np.float32(0) if bias is None else bias) - mean * scale)


def _layer_norm(_: Kernels, layer: nn.LayerNorm, x: Array) -> Array:
    axes = tuple(range(-len(layer.normalized_shape), 0))
    centred = x - x.mean(axes, keepdims=True)
    y = centred / np.sqrt((centred * centred).mean(axes, keepdims=True) + np.float32(layer.eps))
    y = y if layer.weight is None else y * _array(layer.weight)
    return y if layer.bias is None else y + _array(layer.bias)  # type: ignore[no-any-return]


def _require(what: str, layer: nn.Module, **usual: Any) -> None:
    """Refuse a setting that the twin does not compute."""
    for name, value in usual.items():
        found = getattr(layer, name)
        if (_pair(found) if isinstance(value, tuple) else found) != value:
            raise Unavailable(f"{what} with {name} {found} has no numpy twin here")


def _max_pool(_: Kernels, layer: nn.MaxPool2d, x: Array) -> Array:
    _require("max pooling", layer, dilation=(1, 1), ceil_mode=False, return_indices=False)
    windows = _windows(x, _pair(layer.kernel_size), _pair(layer.stride), _pair(layer.padding), -np.inf)
    return windows.max(axis=(4, 5))  # type: ignore[no-any-return]


def _avg_pool(_: Kernels, layer: nn.AvgPool2d, x: Array) -> Array:
    _require("average pooling", layer, ceil_mode=False, divisor_override=None)
    padding = _pair(layer.padding)
    if padding != (0, 0):
        _require("padded average pooling", layer, count_include_pad=True)
    windows = _windows(x, _pair(layer.kernel_size), _pair(layer.stride), padding, 0.0)
    return windows.mean(axis=(4, 5), dtype=np.float32)  # type: ignore[no-any-return]


def _global_pool(_: Kernels, layer: nn.AdaptiveAvgPool2d, x: Array) -> Array:
    if layer.output_size not in (1, (1, 1)):
        raise Unavailable(f"pooling to {layer.output_size} has no numpy twin here")
    return x.mean(axis=(2, 3), keepdims=True)  # type: ignore[no-any-return]


def gelu(_: Kernels, x: Array, approximate: str = "none") -> Array:
    """Return the Gaussian error linear unit, through tanh where that is asked for."""
    if approximate == "tanh":
        inner = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x * x * x)
        return np.float32(0.5) * x * (1 + np.tanh(inner))  # type: ignore[no-any-return]
    from scipy.special import erf

    return np.float32(0.5) * x * (1 + erf(x * np.float32(np.sqrt(0.5))))  # type: ignore[no-any-return]


def softmax(_: Kernels, x: Array, dim: int = -1, dtype: object = None, **rest: object) -> Array:
    """Return exponentials of the distance to the largest, over their sum; raise ``Unavailable`` for another type."""
    if dtype not in (None, torch.float32):
        raise Unavailable(f"softmax in {dtype} has no numpy twin here")
    powers = np.exp(x - x.max(dim, keepdims=True))
    return powers / powers.sum(dim, keepdims=True)  # type: ignore[no-any-return]


def _attention(kernels: Kernels, q: Array, k: Array, v: Array, **rest: object) -> Array:
    if rest:
        raise Unavailable(f"attention with {', '.join(rest)} has no numpy twin here")
    scores = kernels.product(q, np.swapaxes(k, -1, -2)) * np.float32(q.shape[-1] ** -0.5)
    return kernels.product(softmax(kernels, scores), v)


def _sigmoid(_: Kernels, x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _reductions(kernels: Kernels, layer: Reductions, x: Array) -> Array:
    long = np.stack([_long(kernels, _array(layer.spread), row) for row in x])
    wide = _conv(kernels, layer.narrow, _conv(kernels, layer.widen, np.ascontiguousarray(x[:, :, :4, :4])))
    return np.concatenate((long, wide.reshape(*wide.shape[:2], -1)[:, :, 0]), 1)


def _long(kernels: Kernels, spread: Array, row: Array) -> Array:
    products = (row.reshape(-1, 1) * spread).reshape(-1)
    parts = (products, products * products, products[: 1 << 19], products[1 << 18 :])
    dots = (kernels.dot(products, products), kernels.dot(products[: 1 << 18], products[1 << 18 : 1 << 19]))
    return np.stack([*(part.sum() for part in parts), *dots])


def _same(_: Kernels, layer: nn.Module, x: Array) -> Array:
    return x


def _rectified(_: Kernels, x: Array, *rest: object, **more: object) -> Array:
    return np.maximum(x, np.float32(0))


def _rectified6(_: Kernels, x: Array, *rest: object, **more: object) -> Array:
    return np.clip(x, np.float32(0), np.float32(6))


def _flatten(_: Kernels, x: Array, start_dim: int = 0, end_dim: int = -1) -> Array:
    last = end_dim % x.ndim
    return x.reshape(*x.shape[:start_dim], -1, *x.shape[last + 1 :])


def _unflatten(_: Kernels, x: Array, dim: int, sizes: Sequence[int]) -> Array:
    place = dim % x.ndim
    return x.reshape(*x.shape[:place], *sizes, *x.shape[place + 1 :])


def _reshape(_: Kernels, x: Array, *shape: Any) -> Array:
    return x.reshape(shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)


def _chunk(_: Kernels, x: Array, chunks: int, dim: int = 0) -> list[Array]:
    size = -(-x.shape[dim] // chunks)  # as torch cuts: equal parts and a shorter last one
    return np.split(x, range(size, x.shape[dim], size), axis=dim)


def _mean(_: Kernels, x: Array, dim: Any = None, keepdim: bool = False) -> Array:
    return x.mean(axis=tuple(dim) if isinstance(dim, list) else dim, keepdims=keepdim)  # type: ignore[no-any-return]


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda _, *args, **options: function(*args, **options)


def _of_layer(function: Callable[..., Any], *names: str) -> Callable[..., Any]:
    """Call ``function`` with the named attributes of the layer."""
    return lambda kernels, layer, x: function(kernels, x, **{name: getattr(layer, name) for name in names})


LAYERS: dict[type[nn.Module], Callable[..., Any]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv,
    nn.BatchNorm2d: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _avg_pool,
    nn.AdaptiveAvgPool2d: _global_pool,
    nn.ReLU: _of_layer(_rectified),
    nn.ReLU6: _of_layer(_rectified6),
    nn.GELU: _of_layer(gelu, "approximate"),
    nn.Sigmoid: _of_layer(_sigmoid),
    nn.Tanh: _of_layer(_plain(np.tanh)),
    nn.SiLU: _of_layer(lambda kernels, x: x * _sigmoid(kernels, x)),
    nn.Softmax: _of_layer(softmax, "dim"),
    nn.Flatten: _of_layer(_flatten, "start_dim", "end_dim"),
    nn.Dropout: _same,
    nn.Identity: _same,
    Reductions: _reductions,
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "relu": _rectified,
    "relu6": _rectified6,
    "gelu": gelu,
    "softmax": softmax,
    "sigmoid": _sigmoid,
    "tanh": _plain(np.tanh),
    "flatten": _flatten,
    "mean": _mean,
    "scaled_dot_product_attention": _attention,
    "add": _plain(operator.add),
    "sub": _plain(operator.sub),
    "mul": _plain(operator.mul),
    "truediv": _plain(operator.truediv),
    "getitem": _plain(operator.getitem),
    "getattr": _plain(getattr),
    "matmul": lambda kernels, one, other: kernels.product(one, other),
    "cat": lambda _, parts, dim=0: np.concatenate(parts, axis=dim),
}
METHODS: dict[str, Callable[..., Any]] = {
    "flatten": _flatten,
    "unflatten": _unflatten,
    "reshape": _reshape,
    "view": _reshape,
    "chunk": _chunk,
    "mean": _mean,
    "transpose": lambda _, x, one, other: np.swapaxes(x, one, other),
    "permute": lambda _, x, *order: x.transpose(order[0] if not isinstance(order[0], int) else order),
    "contiguous": _plain(np.ascontiguousarray),
    "size": lambda _, x, dim=None: x.shape if dim is None else x.shape[dim],
    "unsqueeze": lambda _, x, dim: np.expand_dims(x, dim),
    "squeeze": lambda _, x, dim: np.squeeze(x, dim),
}
