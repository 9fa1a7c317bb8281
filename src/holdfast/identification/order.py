"""The summation tree of a kernel, read off its outputs: which addends a sum joins first.

Source: FPRev (arXiv 2411.00442, ATC 2025), with a pivot in the middle (chains take 2n probes in either direction
instead of n**2), units in portions that the output format can count, and nodes of any arity. A probe holds a huge M at
leaf i, -M at leaf j and small equal units elsewhere: units added before the two huge ones meet vanish in them, those
added later are counted, so the result tells how many leaves lie under the lowest common ancestor of i and j.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig

SumOfProducts: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""``kernel(a, b)``: the sums over the last axis of ``a * b``; both of shape (probes, n), the result (probes,)."""

_BATCH = 512  # probes per call


@dataclass(frozen=True, slots=True)
class OrderTree:
    """A summation tree in canonical form: equal trees are equal objects.

    ``nodes[k]`` lists the children of node ``n + k``: a number below ``n`` is a leaf (an addend), another one a node
    listed before. Children are sorted by their smallest leaf, since addition commutes; the last node is the root.
    """

    n: int
    nodes: tuple[tuple[int, ...], ...]

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form, hexadecimal; equal exactly for equal trees."""
        return hashlib.sha256(repr((self.n, self.nodes)).encode()).hexdigest()

    @property
    def arity(self) -> int:
        """The most addends that one step joins; more than two in fused sums, such as those of matrix engines."""
        return max((len(children) for children in self.nodes), default=1)

    @property
    def depth(self) -> int:
        """Additions on the longest path from an addend to the result."""
        depths = [0] * self.n
        for children in self.nodes:
            depths.append(1 + max(depths[child] for child in children))
        return depths[-1]

    @staticmethod
    def of(n: int, nodes: Iterable[Sequence[int]]) -> OrderTree:
        """Return the canonical form of nodes that list each child before its parent, the root last.

        Raises:
            InvalidConfig: the nodes are no tree over ``n`` leaves.
        """
        given = [tuple(children) for children in nodes]
        used = sorted(child for children in given for child in children)
        if n < 1 or used != list(range(n + len(given) - 1)) or any(len(children) < 2 for children in given):
            raise InvalidConfig(f"{len(given)} nodes are no tree over {n} leaves")
        return OrderTree(n, _canonical(n, given))


def _canonical(n: int, given: list[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    smallest = list(range(n))
    for children in given:
        if any(child >= len(smallest) for child in children):
            raise InvalidConfig("a node comes before its child")
        smallest.append(min(smallest[child] for child in children))
    ordered = [tuple(sorted(children, key=smallest.__getitem__)) for children in given]
    names, todo = dict(zip(range(n), range(n), strict=True)), [n + len(given) - 1]
    done: list[tuple[int, ...]] = []
    while todo:  # post-order without recursion, since a chain is as deep as it is long
        node = todo[-1]
        missing = [] if node in names else [child for child in ordered[node - n] if child not in names]
        if missing:
            todo.extend(reversed(missing))
            continue
        todo.pop()
        if node not in names:
            names[node] = n + len(done)
            done.append(tuple(names[child] for child in ordered[node - n]))
    return tuple(done)


@dataclass(frozen=True, slots=True)
class Mask:
    """The values of a probe: ``big`` in both factors swallows ``unit`` times ``capacity``, which is counted exactly."""

    big: float
    unit: float
    capacity: int


MASKS = {
    torch.float64: Mask(2.0**400, 1.0, 2**50),
    torch.float32: Mask(2.0**50, 1.0, 2**24),
    torch.bfloat16: Mask(2.0**50, 1.0, 2**8),
    torch.float16: Mask(2.0**15, 2.0**-4, 2**9),  # for accumulators of fp32 or more
}


def summation_tree(kernel: SumOfProducts, n: int, *, dtype: torch.dtype = torch.float32) -> OrderTree:
    """Reveal the order in which ``kernel`` adds ``n`` products.

    Args:
        kernel: sums of products over the last axis, all probes of a call in the same order.
        n: addends, 1 or more; 512 take 1,000 to 5,000 probes.
        dtype: of the factors, one of :data:`MASKS`.

    Raises:
        InvalidConfig: a dtype without a mask, or results that no fixed tree explains (an order that changes from call
            to call, an accumulator too narrow for the mask, or compensated summation).
    """
    if dtype not in MASKS or n < 1:
        raise InvalidConfig(f"no probes for {n} addends of {dtype}", hint=f"one of {', '.join(map(str, MASKS))}")
    return _Reveal(kernel, n, dtype).tree()


class _Reveal:
    """Builds the tree bottom-up from sizes of lowest common ancestors."""

    def __init__(self, kernel: SumOfProducts, n: int, dtype: torch.dtype) -> None:
        self._kernel, self._n, self._dtype, self._mask = kernel, n, dtype, MASKS[dtype]
        self._nodes: list[tuple[int, ...]] = []

    def tree(self) -> OrderTree:
        leaves = list(range(self._n))
        self._build(leaves, *self._seen_from_middle(leaves))
        tree = OrderTree.of(self._n, self._nodes)
        if any(self._sizes(leaf, leaves) != _sizes_in(tree, leaf) for leaf in {0, self._n - 1}):
            raise InvalidConfig("the kernel does not add in one fixed order", hint="two rounds of probes disagree")
        return tree

    def _build(self, leaves: list[int], pivot: int, sizes: dict[int, int]) -> int:
        """Add the nodes under the lowest common ancestor of ``leaves`` and return it."""
        groups: dict[int, list[int]] = {}
        for leaf in leaves:
            if leaf != pivot:
                groups.setdefault(sizes[leaf], []).append(leaf)
        top = pivot
        for size in sorted(groups):  # from the pivot upwards: what joins it at the ancestor of that size
            top = self._join([top, *self._siblings(groups[size], size)])
        return top

    def _siblings(self, leaves: list[int], size: int) -> list[int]:
        """Build the subtrees, one or (below a fused node) more, of leaves that meet at or below one node."""
        built = []
        while leaves:
            pivot, sizes = self._seen_from_middle(leaves)
            own = [leaf for leaf in leaves if leaf == pivot or sizes[leaf] < size]
            built.append(self._build(own, pivot, sizes))
            leaves = [leaf for leaf in leaves if leaf != pivot and sizes[leaf] >= size]
        return built

    def _seen_from_middle(self, leaves: list[int]) -> tuple[int, dict[int, int]]:
        """Return the pivot and the sizes of its common ancestors; the middle halves a chain in either direction."""
        pivot = leaves[len(leaves) // 2]
        return pivot, self._sizes(pivot, leaves)

    def _join(self, children: list[int]) -> int:
        self._nodes.append(tuple(children))
        return self._n + len(self._nodes) - 1

    def _sizes(self, pivot: int, leaves: list[int]) -> dict[int, int]:
        """Return, for each other leaf, the number of leaves under its lowest common ancestor with ``pivot``."""
        others = [leaf for leaf in leaves if leaf != pivot]
        outside = torch.zeros(len(others), dtype=torch.float64)
        for start in range(0, self._n if others else 0, self._mask.capacity):
            stop = min(start + self._mask.capacity, self._n)
            outside += torch.cat([self._count(pivot, part, start, stop) for part in _parts(others)])
        sizes = self._n - outside
        if bool((sizes != sizes.round()).any()) or bool(((sizes < 2) | (sizes > self._n)).any()):
            raise InvalidConfig(
                f"counts such as {float(outside[0])} of {self._n} units are explained by no fixed order of addition",
                hint="the order changes between calls, or the accumulator cannot hold the probe",
            )
        return dict(zip(others, (int(size) for size in sizes), strict=True))

    def _count(self, pivot: int, others: list[int], start: int, stop: int) -> Tensor:
        rows = torch.arange(len(others))
        left = torch.zeros(len(others), self._n, dtype=self._dtype)
        left[:, start:stop] = self._mask.unit
        right = torch.ones_like(left)
        left[:, pivot], right[:, pivot] = self._mask.big, self._mask.big
        left[rows, others], right[rows, others] = -self._mask.big, self._mask.big
        return self._kernel(left, right).double().cpu() / self._mask.unit


def _sizes_in(tree: OrderTree, leaf: int) -> dict[int, int]:
    """Return what :meth:`_Reveal._sizes` finds for a leaf if ``tree`` is the order."""
    under: list[set[int]] = [{k} for k in range(tree.n)]
    found: dict[int, int] = {}
    for children in tree.nodes:
        joined = set().union(*(under[child] for child in children))
        under.append(joined)
        if leaf in joined:
            found |= dict.fromkeys(joined - found.keys() - {leaf}, len(joined))
        for child in children:
            under[child] = set()
    return found


def _parts(items: list[int]) -> list[list[int]]:
    return [items[start : start + _BATCH] for start in range(0, len(items), _BATCH)]
