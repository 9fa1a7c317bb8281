"""Sums recomputed along a tree, bit by bit: the proof that a revealed order is the kernel's own."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.identification.order import OrderTree


def replay(tree: OrderTree, a: Tensor, b: Tensor, *, fused: bool = False) -> Tensor:
    """Return the float32 sums over the last axis of ``a * b``, added in the order of ``tree``.

    Args:
        tree: of two addends per step.
        a: factors, shape (rows, n), float32 or narrower; ``b`` likewise.
        fused: products enter a sum unrounded (FMA). Two products that meet first: the later one enters unrounded.

    Raises:
        InvalidConfig: shapes that do not fit, or a tree with steps of more than two addends, whose rounding a tree
            alone does not say.
    """
    if tree.arity > 2 or a.shape != b.shape or a.ndim != 2 or a.shape[1] != tree.n:
        raise InvalidConfig(f"a replay takes (rows, {tree.n}) twice and steps of two addends, not {tuple(a.shape)}")
    exact = list((a.double() * b.double()).numpy().T)  # 24 + 24 bits: products are exact
    sums: list[np.ndarray | None] = [None] * tree.n
    for left, right in tree.nodes:
        sums.append(_step(exact, sums, left, right, fused))
        for child in (left, right):
            if child >= tree.n:
                sums[child] = None  # a chain would keep every partial sum otherwise
    total = sums[-1] if tree.nodes else exact[0].astype(np.float32)
    return torch.from_numpy(total)


def _step(exact: list[np.ndarray], sums: list[np.ndarray | None], left: int, right: int, fused: bool) -> np.ndarray:
    if right < left:
        left, right = right, left  # leaves have the small numbers: a lone leaf is then on the left
    one, two = sums[left], sums[right]
    if two is None:  # two products
        first = exact[left].astype(np.float32)
        return fma(exact[right], first) if fused else first + exact[right].astype(np.float32)
    if one is None:
        return fma(exact[left], two) if fused else exact[left].astype(np.float32) + two
    return one + two  # type: ignore[no-any-return]


def fma(product: np.ndarray, addend: np.ndarray) -> np.ndarray:
    """Return ``product + addend`` rounded once to float32; ``product`` float64 (exact), ``addend`` float32.

    The sum in float64 is rounded to odd (Boldo and Melquiond, 2008), after which rounding to float32 is as good as
    rounding the exact sum.
    """
    wide = addend.astype(np.float64)
    total = product + wide
    back = total - product
    error = (product - (total - back)) + (wide - back)  # TwoSum: total + error is exact
    words = np.ascontiguousarray(total).view(np.int64)
    even = (error != 0) & (words & 1 == 0) & np.isfinite(total)
    towards = np.where((error > 0) == (total > 0), 1, -1)
    return np.where(even, words + towards, words).view(np.float64).astype(np.float32)
