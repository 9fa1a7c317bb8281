"""Small trusted work by family: what a node that is no linear layer costs, and pieces of it to measure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.numerics.formats.fixed_point import FixedPoint
from holdfast.shielding.graph import exact
from holdfast.shielding.graph.leaves import GroupedConvolution, Lookup, Product, Softmax
from holdfast.shielding.product import Geometry

ELEMENTWISE = "elementwise"
_POOLS = frozenset(("max_pool2d", "max_pool2d_with_indices", "adaptive_max_pool2d"))
_NORMS = frozenset(("layer_norm", "rms_norm", "group_norm", "normalised"))
_REDUCTIONS = frozenset(("mean", "total", "average_pool", "adaptive_average_pool"))
_BY_MODULE: tuple[tuple[type[nn.Module], str], ...] = (
    (GroupedConvolution, "grouped"), (Product, "product"), (Lookup, "table"), (Softmax, "softmax"),
)  # fmt: skip
_BY_OPERATION = (("pool", _POOLS), ("norm", _NORMS), ("reduction", _REDUCTIONS))


def family(operation: str, part: nn.Module | None) -> str:
    """Return the family of a node that is no linear layer: what it costs goes by that."""
    for kind, name in _BY_MODULE:
        if isinstance(part, kind):
            return name
    return next((name for name, words in _BY_OPERATION if operation in words), ELEMENTWISE)


@dataclass(frozen=True, slots=True)
class Piece:
    """One call to time.

    Attributes:
        family: as :func:`family` has it.
        macs, given: multiply-accumulates and elements of its output.
        inputs: made anew before each call, as the node before it would.
    """

    family: str
    call: Callable[..., object]
    inputs: tuple[Tensor, ...]
    given: int
    macs: int = 0

    @property
    def inner(self) -> int:
        """Multiply-accumulates of one element of its output."""
        return self.macs // self.given

    @property
    def taken(self) -> int:
        """Elements of the largest input, as in a :class:`~holdfast.shielding.planner.Node`."""
        return max(part.numel() for part in self.inputs)


def pieces() -> Iterator[Piece]:
    """Yield pieces of every family, small ones for what a call costs and large ones for what an element costs."""
    for shape in ((1, 16, 8, 8), (1, 64, 56, 56), (1, 64, 112, 112)):
        x = torch.rand(shape)
        yield Piece(ELEMENTWISE, torch.relu, (x,), x.numel())
        yield Piece(ELEMENTWISE, torch.add, (x, torch.rand(shape)), x.numel())
        yield Piece("pool", lambda x: F.max_pool2d(x, 3, 2, 1), (x,), x.numel() // 4)
        yield Piece("pool", lambda x: F.max_pool2d(x, 2, 2), (x,), x.numel() // 4)
        yield _grouped(shape[1], shape[2])
    for shape in ((1, 64, 7, 7), (1, 512, 14, 14)):
        yield Piece("reduction", lambda x: exact.adaptive_average_pool(x, (1, 1)), (torch.rand(shape),), shape[1])
    table, curve = Softmax(-1, exact.softmax_table()), Lookup(torch.tanh, 4.0)
    for rows, width in ((16, 64), (197, 384), (197, 1536)):
        x = torch.randn(1, rows, width)
        yield Piece("reduction", lambda x: exact.mean(x, (-1,), True), (x,), rows)
        yield Piece("norm", lambda x: exact.layer_norm(x, (x.shape[-1],)), (x,), x.numel())
        yield Piece("softmax", table, (x,), x.numel())
        yield Piece("table", curve, (x,), x.numel())
    for heads, rows, width in ((4, 16, 8), (6, 64, 32), (6, 197, 64)):
        left, right = torch.randn(1, heads, rows, width), torch.randn(1, heads, width, rows)
        given = heads * rows * rows
        yield Piece("product", Product("piece", (4.0, 4.0), width), (left, right), given, given * width)


def _grouped(channels: int, side: int) -> Piece:
    geometry = Geometry(kind="conv2d", out_channels=1, in_channels=1, kernel=(3, 3), padding=(1, 1, 1, 1))
    weights = FixedPoint(bits=8).encode(torch.randn(channels, 1, 3, 3))
    part = GroupedConvolution("piece", geometry, channels, weights, 1 / 127, None)
    given = channels * side * side
    return Piece("grouped", part, (torch.rand(1, channels, side, side),), given, 9 * given)
