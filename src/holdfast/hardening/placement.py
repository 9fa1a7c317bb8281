"""Where guards belong: every branch output, every residual sum and the logits, found in the captured computation.

A residual sum is an addition of two things computed from the model's input, of one shape, where what lies between
them and their common origin computes with parameters. The side (or sides, where a shortcut is projected) that does is
a branch. Nothing depends on what modules are called or on whether a library left an ``nn.Identity`` there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from holdfast.hardening.capture import Computation, Node, capture
from holdfast.models import sites

_ADDITIONS = ("add", "add_")


@dataclass(frozen=True)
class Placement:
    """Names of places, each in the order of computation.

    Attributes:
        branches: what each branch adds to the stream.
        sums: the stream after each addition.
        logits: what the model returns.
    """

    branches: tuple[str, ...]
    sums: tuple[str, ...]
    logits: tuple[str, ...]

    @property
    def sites(self) -> tuple[str, ...]:
        """All of them, once each."""
        return tuple(dict.fromkeys((*self.branches, *self.sums, *self.logits)))


def place(model: nn.Module, example: Tensor) -> Placement:
    """Return the branch outputs, residual sums and logits of ``model``.

    Args:
        model: unchanged; runs three times.
        example: one input sample, without batch dimension.

    Raises:
        InvalidConfig: the model returns no float tensor.
    """
    computation = capture(model, example)
    places = _Places(computation, {site.name for site in sites(model, example) if site.kind == "activations"})
    residuals = [(node, ends) for node in computation.nodes if (ends := _branches(computation, node))]
    sums = {node.number for node, _ in residuals}
    branches = [end for _, ends in residuals for end in ends if computation.nodes[end].written not in sums]
    return Placement(
        branches=places.named(branches),
        sums=places.named(node.number for node, _ in residuals),
        logits=places.named(computation.outputs),
    )


def _branches(computation: Computation, node: Node) -> tuple[int, ...]:
    """Return the operands of a residual sum that are branches; none when ``node`` is no residual sum."""
    if node.operation not in _ADDITIONS or not node.floats or len(node.operands) != 2:
        return ()
    first, second = node.operands
    if first is None or second is None or first == second:
        return ()
    if not computation.nodes[first].shape == computation.nodes[second].shape == node.shape:
        return ()
    one, other = computation.ancestors(first), computation.ancestors(second)
    if 0 not in one or 0 not in other:
        return ()
    sides = ((first, one - other), (second, other - one))
    return tuple(end for end, own in sides if any(computation.nodes[number].trained for number in own))


class _Places:
    """Names the places that hold the values of nodes."""

    def __init__(self, computation: Computation, known: set[str]) -> None:
        self._computation, self._known = computation, known

    def named(self, numbers: Iterable[int]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._name(number) for number in numbers))

    def _name(self, number: int) -> str:
        """Return where the values are first laid out as samples, as the population counts them."""
        return next((node.site for node in self._same(number) if node.site in self._known), self._writer(number))

    def _same(self, number: int) -> Iterator[Node]:
        written = self._computation.nodes[number].written
        return (node for node in self._computation.nodes[: number + 1] if node.written == written)

    def _writer(self, number: int) -> str:
        return self._computation.writer(number).site
