"""Kernels of this machine whose order of addition tells the software below them, and what else their sums show."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from holdfast._registry import unknown
from holdfast.errors import InvalidConfig
from holdfast.identification.order import OrderTree, SumOfProducts, summation_tree
from holdfast.identification.order_text import describe_order

_SIGNIFICANT = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}  # bits
_ROWS = 32  # of a matrix product: part of its shape, on which the choice of a kernel depends


@dataclass(frozen=True, slots=True)
class Accumulator:
    """How one kernel rounds.

    Attributes:
        bits: significand bits that the running sum keeps (24 for fp32), at most 53.
        fused: whether a product enters the sum unrounded; always so where products of the format are exact anyway.
        truncates: whether a sum is cut rather than rounded to nearest, as in some matrix engines.
        keeps_inputs: whether factors enter with all their bits (TF32 and bf16 products of fp32 factors do not).
    """

    bits: int
    fused: bool
    truncates: bool
    keeps_inputs: bool


@dataclass(frozen=True, slots=True)
class OrderSignature:
    """What the probes found out about one kernel."""

    kernel: str
    tree: OrderTree
    accumulator: Accumulator

    @property
    def text(self) -> str:
        """The order in words, see :func:`describe_order`."""
        return describe_order(self.tree)


@dataclass(frozen=True, slots=True)
class OrderKernel:
    """A named sum of products and the dtype of its factors."""

    name: str
    call: SumOfProducts
    dtype: torch.dtype = torch.float32


def order_signatures(names: Iterable[str], n: int, *, device: str = "cpu") -> dict[str, OrderSignature]:
    """Probe named kernels of :data:`ORDER_KERNELS` with sums of ``n`` addends.

    Args:
        names: kernels; those of numpy run on the CPU whatever ``device`` says.
        n: addends, 3 or more.
        device: where torch computes.

    Raises:
        UnknownName: a kernel that is not listed.
        InvalidConfig: a kernel without a fixed order.
    """
    return {name: order_signature(_find(name), n, device=device) for name in names}


def order_signature(kernel: OrderKernel, n: int, *, device: str = "cpu") -> OrderSignature:
    """Probe one kernel.

    Raises:
        InvalidConfig: no fixed order.
    """

    def call(a: Tensor, b: Tensor) -> Tensor:
        return kernel.call(a.to(device), b.to(device)).cpu()

    tree = summation_tree(call, n, dtype=kernel.dtype)
    return OrderSignature(kernel.name, tree, accumulator(call, tree, dtype=kernel.dtype))


def accumulator(kernel: SumOfProducts, tree: OrderTree, *, dtype: torch.dtype = torch.float32) -> Accumulator:
    """Find how ``kernel`` rounds, from sums of two or three products that ``tree`` adds in a known order.

    Raises:
        InvalidConfig: fewer than three addends.
    """
    probe = _Probe(kernel, tree, dtype)
    own = _SIGNIFICANT[dtype]
    half = own // 2
    a = 1 + 2.0**-half  # a * a is 1 + 2**(1-half) + 2**-2half, whose last term the format does not keep
    meeting = ((a, a), (-1 - 2.0 ** (1 - half), 1.0))
    width = next((bits for bits in range(53, 2, -1) if probe(*_faint(bits)) == 2.0 ** (1 - bits)), 2)
    return Accumulator(
        bits=width,
        fused=probe(*meeting) != 0 or probe(*meeting[::-1]) != 0,
        truncates=probe((1.0, 1.0), (0.75 * 2.0 ** (1 - width), 1.0), (-1.0, 1.0)) == 0,
        keeps_inputs=probe((1 + 2.0 ** (1 - own), 1.0), (-1.0, 1.0)) != 0,
    )


def _faint(bits: int) -> tuple[tuple[float, float], ...]:
    """1 + 2**(1-bits) - 1; the small term as a product, since it may lie below the smallest factor."""
    down = (bits - 1) // 2
    return (1.0, 1.0), (2.0**-down, 2.0 ** (down + 1 - bits)), (-1.0, 1.0)


class _Probe:
    """Sums of up to three products, the first two of which meet before the third joins; all others are zero."""

    def __init__(self, kernel: SumOfProducts, tree: OrderTree, dtype: torch.dtype) -> None:
        if tree.n < 3:
            raise InvalidConfig(f"three addends show how a kernel rounds, not {tree.n}")
        first = tree.nodes[0]
        third = next((leaf for leaf in range(tree.n) if leaf not in first), first[-1])
        self._kernel, self._n, self._dtype, self._places = kernel, tree.n, dtype, (first[0], first[1], third)

    def __call__(self, *terms: tuple[float, float]) -> float:
        left, right = torch.zeros(1, self._n, dtype=self._dtype), torch.ones(1, self._n, dtype=self._dtype)
        for place, (a, b) in zip(self._places, terms, strict=False):
            left[0, place], right[0, place] = a, b
        return float(self._kernel(left, right).double()[0])


def _by_rows(one: Callable[[Tensor, Tensor], Tensor]) -> SumOfProducts:
    """Call ``one`` with two vectors for each probe."""

    def call(a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([one(x, y).reshape(()) for x, y in zip(a, b, strict=True)]) if len(a) else a.sum(-1)

    return call


def _in_numpy(one: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> SumOfProducts:
    return _by_rows(lambda a, b: torch.as_tensor(np.asarray(one(a.numpy(), b.numpy()))))


def _product(a: Tensor, b: Tensor) -> Tensor:
    """One element of a matrix product whose rows, and columns, are all alike."""
    return (a.expand(_ROWS, -1).contiguous() @ b.expand(_ROWS, -1).contiguous().T.contiguous())[0, 0]


def _linear(a: Tensor, b: Tensor) -> Tensor:
    return functional.linear(a.expand(_ROWS, -1).contiguous(), b.expand(_ROWS, -1).contiguous())[0, 0]


def _pointwise(a: Tensor, b: Tensor) -> Tensor:
    """One output of a 1x1 convolution over two 8x8 images."""
    image = a.view(1, -1, 1, 1).expand(2, -1, 8, 8).contiguous()
    return functional.conv2d(image, b.view(1, -1, 1, 1).expand(_ROWS, -1, 1, 1).contiguous())[0, 0, 0, 0]


def _batched(a: Tensor, b: Tensor) -> Tensor:
    return torch.bmm(a.expand(4, 4, -1).contiguous(), b.expand(4, 4, -1).mT.contiguous())[0, 0, 0]


ORDER_KERNELS = {
    kernel.name: kernel
    for kernel in (
        OrderKernel("numpy-sum", _in_numpy(lambda a, b: np.sum(a * b))),
        OrderKernel("numpy-dot", _in_numpy(np.dot)),
        OrderKernel("numpy-einsum", _in_numpy(lambda a, b: np.einsum("i,i->", a, b))),
        OrderKernel(
            "numpy-matmul", _in_numpy(lambda a, b: (np.tile(a, (_ROWS, 1)) @ np.tile(b[:, None], (1, _ROWS)))[0, 0])
        ),
        OrderKernel("torch-sum", _by_rows(lambda a, b: (a * b).sum())),
        OrderKernel("torch-dot", _by_rows(torch.dot)),
        OrderKernel("torch-mv", _by_rows(lambda a, b: torch.mv(a.expand(_ROWS, -1).contiguous(), b)[0])),
        OrderKernel("torch-mm", _by_rows(_product)),
        OrderKernel("torch-bmm", _by_rows(_batched)),
        OrderKernel("torch-linear", _by_rows(_linear)),
        OrderKernel("torch-conv1x1", _by_rows(_pointwise)),
        OrderKernel("torch-mm-bf16", _by_rows(_product), torch.bfloat16),
        OrderKernel("torch-mm-fp16", _by_rows(_product), torch.float16),
    )
}


def _find(name: str) -> OrderKernel:
    if name not in ORDER_KERNELS:
        raise unknown("kernel", name, ORDER_KERNELS)
    return ORDER_KERNELS[name]
