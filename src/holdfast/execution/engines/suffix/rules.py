"""Which box of its result an operation has to compute, when only a box of its operands differs.

A rule names, for one kind of operation, the boxes of the result that would do (the smallest first), the box of each
operand that such a result needs, and how the kernel itself computes it from just those. Receptive fields grow in
convolutions and pools, rows stay rows in linear layers and norms, single elements stay single in the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from holdfast.execution.engines.suffix.dirty import Box, hull
from holdfast.execution.engines.suffix.tape import Read, Slot, Step, call

aten = torch.ops.aten
_SIDES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64)
_ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


class Rule(Protocol):
    """One kind of operation; ``exact`` rules need no check, ``stacked`` ones run several boxes in one call."""

    exact: bool
    stacked: bool

    def reach(self, step: Step, dirty: Mapping[int, Box], size: Sequence[int]) -> Box | None:
        """Return the box of the result (of shape ``size``) that may differ, or None if the rule does not know."""
        ...

    def results(self, reach: Box, size: Sequence[int]) -> Iterator[Box]:
        """Yield boxes of the result that hold ``reach`` and are worth trying, the smallest first."""
        ...

    def operands(self, step: Step, box: Box) -> dict[int, Box]:
        """Return the box that each cell among the slots must give; it may reach beyond the operand's edges."""
        ...

    def run(self, step: Step, parts: Sequence[Tensor], box: Box) -> Tensor:
        """Return the result inside ``box``; ``parts`` has one tensor for each slot, whole where it is stored."""
        ...

    def edge(self, step: Step) -> float:
        """Return what lies beyond the edges of an operand."""
        ...


class Elementwise:
    """Every element from the same place of each operand, with broadcasting."""

    stacked = False

    def __init__(self, *, exact: bool) -> None:
        self.exact = exact  # one correctly rounded operation, whichever loop computes it

    def reach(self, step: Step, dirty: Mapping[int, Box], size: Sequence[int]) -> Box | None:
        """Return the box around all dirty operands."""
        return hull([_broadcast(dirty[slot], step.reads[slot].size, size) for slot in dirty])

    def results(self, reach: Box, size: Sequence[int]) -> Iterator[Box]:
        """Yield the box itself, then whole last dimensions of it."""
        yield reach
        if not self.exact and reach[-1] != (0, size[-1]):
            yield (*reach[:-1], (0, size[-1]))

    def operands(self, step: Step, box: Box) -> dict[int, Box]:
        """Return the same place of each operand."""
        return {slot: _narrowed(box, read.size) for slot, read in enumerate(step.reads) if read.cell >= 0}

    def run(self, step: Step, parts: Sequence[Tensor], box: Box) -> Tensor:
        """Run the operation on the parts."""
        pairs = zip(step.reads, parts, strict=True)
        cuts = [part if read.cell >= 0 else _cut_stored(part, box) for read, part in pairs]
        result: Tensor = call(step, cuts)
        return result

    def edge(self, step: Step) -> float:
        """Nothing is beyond the edges."""
        return 0.0


class Rows(Elementwise):
    """Everything along the last ``lost`` dimensions of an operand enters every element there: norms, softmax."""

    def __init__(self) -> None:
        super().__init__(exact=False)

    def reach(self, step: Step, dirty: Mapping[int, Box], size: Sequence[int]) -> Box | None:
        """Return the rows that differ, whole."""
        shape = step.args[1]  # of a norm; of a softmax it is the dimension
        if not isinstance(shape, tuple | list) and shape not in (-1, len(size) - 1):
            return None
        kept = len(size) - (len(shape) if isinstance(shape, tuple | list) else 1)
        return (*dirty[0][:kept], *((0, length) for length in size[kept:])) if list(dirty) == [0] else None

    def operands(self, step: Step, box: Box) -> dict[int, Box]:
        """Return the same rows."""
        return {0: box}

    def run(self, step: Step, parts: Sequence[Tensor], box: Box) -> Tensor:
        """Run the operation on the rows."""
        return _first(call(step, parts))


class Channels(Rows):
    """A batch norm with fixed statistics: each element with the numbers of its channel."""

    def reach(self, step: Step, dirty: Mapping[int, Box], size: Sequence[int]) -> Box | None:
        """Return the box that differs."""
        return None if step.args[5] else dirty.get(0)

    def run(self, step: Step, parts: Sequence[Tensor], box: Box) -> Tensor:
        """Run the operation with the numbers of the box's channels."""
        low, high = box[1]
        return _first(call(step, [parts[0], *(part[low:high] for part in parts[1:])]))


class Linear:
    """A matrix product with stored weights: rows of the operand give rows of the result."""

    exact, stacked = False, True

    def __init__(self, operand: int) -> None:
        self._operand = operand  # slot of the rows

    def reach(self, step: Step, dirty: Mapping[int, Box], size: Sequence[int]) -> Box | None:
        """Return the rows that differ."""
        return (dirty[self._operand][0], (0, size[1]))

    def results(self, reach: Box, size: Sequence[int]) -> Iterator[Box]:
        """Yield more and more rows around those that differ."""
        low, high = reach[0]
        for length in _ROWS:
            if high - low <= length <= size[0]:
                yield (_placed(low, high, length, size[0]), (0, size[1]))

    def operands(self, step: Step, box: Box) -> dict[int, Box]:
        """Return the same rows."""
        return {self._operand: (box[0], (0, step.reads[self._operand].size[1]))}

    def run(self, step: Step, parts: Sequence[Tensor], box: Box) -> Tensor:
        """Multiply the rows."""
        return _first(call(step, parts))

    def edge(self, step: Step) -> float:
        """Nothing is beyond the edges."""
        return 0.0


class Sliding:
    """A convolution or a pool: the receptive field of the result, with the padding written out."""

    def __init__(self, *, pool: bool) -> None:
        self.exact, self.stacked, self._pool = pool, not pool, pool

    def reach(self, step: Step, dirty: Mapping[int, Box], size: Sequence[int]) -> Box | None:
        """Return the window whose receptive field touches what differs."""
        spans = dirty[0][2:]
        if len(spans) != 2 or (not self._pool and step.args[6]):
            return None  # a convolution along one or three axes, or a transposed one
        axes = zip(spans, self._geometry(step), size[2:], strict=True)
        return ((0, 1), dirty[0][1] if self._pool else (0, size[1]), *(_seen(span, *k, n) for span, k, n in axes))

    def results(self, reach: Box, size: Sequence[int]) -> Iterator[Box]:
        """Yield larger and larger windows, square where there is room, so that those of several faults are alike."""
        need = max(high - low for low, high in reach[2:])
        for side in [need] if self._pool else [side for side in _SIDES if side >= need]:
            pairs = zip(reach[2:], size[2:], strict=True)
            window = [_placed(low, high, max(high - low, min(side, length)), length) for (low, high), length in pairs]
            yield (*reach[:2], *window)

    def operands(self, step: Step, box: Box) -> dict[int, Box]:
        """Return the receptive field."""
        channels = box[1] if self._pool else (0, step.reads[0].size[1])
        pairs = zip(box[2:], self._geometry(step), strict=True)
        fields = [(low * s - p, (high - 1) * s - p + (k - 1) * d + 1) for (low, high), (k, s, p, d) in pairs]
        return {0: ((0, 1), channels, *fields)}

    def run(self, step: Step, parts: Sequence[Tensor], box: Box) -> Tensor:
        """Slide over the field without padding."""
        if self._pool:
            kernel, stride, _, dilation = zip(*self._geometry(step), strict=True)
            return _first(step.call(parts[0], kernel, stride, (0, 0), dilation, False))
        _, _, bias, stride, padding, *rest = step.args
        shift = None if bias is None else parts[2]
        return _first(step.call(parts[0], parts[1], shift, stride, [0] * len(padding), *rest))

    def edge(self, step: Step) -> float:
        """Return what the padding holds."""
        return -math.inf if self._pool else 0.0

    def _geometry(self, step: Step) -> list[tuple[int, int, int, int]]:
        """Return kernel, stride, padding and dilation of both axes."""
        if not self._pool:
            size, (stride, padding, dilation) = step.reads[1].size[2:], step.args[3:6]
        else:
            given = [*step.args[1:5], *[[], 0, 1][len(step.args) - 2 :]]
            size, padding, dilation = given[0], given[2], given[3]
            stride = given[1] or size
        both = zip(*(_pair(item) for item in (size, stride, padding, dilation)), strict=True)
        return list(both)


def _seen(span: tuple[int, int], k: int, s: int, p: int, d: int, length: int) -> tuple[int, int]:
    """Return the results whose receptive field touches ``span``."""
    low = -((-(span[0] + p - (k - 1) * d)) // s)
    low, high = max(0, low), min(length, (span[1] - 1 + p) // s + 1)
    return low, max(low, high)  # empty between the strides


def _placed(low: int, high: int, length: int, full: int) -> tuple[int, int]:
    """Return a range of ``length`` around [low, high) that stays within [0, full)."""
    start = max(0, min(low - (length - (high - low)) // 2, full - length))
    return start, start + length


def _broadcast(box: Box, size: Sequence[int], target: Sequence[int]) -> Box:
    missing = len(target) - len(size)
    tail = [(0, t) if n == 1 else span for span, n, t in zip(box, size, target[missing:], strict=True)]
    return (*((0, length) for length in target[:missing]), *tail)


def _narrowed(box: Box, size: Sequence[int]) -> Box:
    return tuple((0, 1) if n == 1 else span for span, n in zip(box[len(box) - len(size) :], size, strict=True))


def _cut_stored(tensor: Tensor, box: Box) -> Tensor:
    for dimension, (low, high) in enumerate(_narrowed(box, tensor.shape)):
        tensor = tensor.narrow(dimension, low, high - low)
    return tensor


def _pair(value: Any) -> tuple[int, int]:
    items = list(value) if isinstance(value, tuple | list) else [value]
    return (items[0], items[-1])


def _first(output: Any) -> Tensor:
    result: Tensor = output[0] if isinstance(output, tuple | list) else output
    return result


def _rules() -> dict[Any, Rule]:
    exact = [aten.relu.default, aten.relu_.default, aten.hardtanh.default, aten.hardtanh_.default, aten.neg.default]
    exact += [aten.clamp.default, aten.clamp_.default, aten.mul.Tensor, aten.mul_.Tensor, aten.div.Tensor]
    rounded = [aten.add.Tensor, aten.add_.Tensor, aten.sub.Tensor, aten.gelu.default, aten.silu.default]
    rounded += [aten.silu_.default, aten.sigmoid.default, aten.tanh.default, aten.pow.Tensor_Scalar, aten.exp.default]
    rounded += [aten.hardswish.default, aten.hardswish_.default, aten.hardsigmoid.default, aten.rsqrt.default]
    rules: dict[Any, Rule] = {op: Elementwise(exact=True) for op in exact}
    rules.update((op, Elementwise(exact=False)) for op in rounded)
    rules[aten.native_layer_norm.default] = rules[aten._softmax.default] = Rows()
    rules[aten.native_batch_norm.default] = Channels()
    rules[aten.addmm.default], rules[aten.mm.default] = Linear(1), Linear(0)
    rules[aten.convolution.default] = Sliding(pool=False)
    rules[aten.max_pool2d_with_indices.default] = Sliding(pool=True)
    return rules


RULES = _rules()

# after these a difference may be gone: a maximum, a bound, or a sum that rounds it away
ABSORBING = {aten.relu.default, aten.relu_.default, aten.hardtanh.default, aten.hardtanh_.default, aten.clamp.default}
ABSORBING |= {aten.clamp_.default, aten.max_pool2d_with_indices.default, aten.add.Tensor, aten.add_.Tensor}
ABSORBING |= {aten.native_layer_norm.default, aten.masked_fill.Scalar, aten.where.self}


def operand_is_plain(read: Read, plain: bool) -> bool:
    """Say whether boxes of a read are boxes of its cell, possibly under another shape."""
    return plain and (read.whole or read.flat)


def slots_in_order(step: Step) -> bool:
    """Say whether the step's tensors are its first arguments, as the rules take them to be."""
    flat = [item for item in step.args if type(item) is Slot]
    nested = any(type(item) in (list, tuple) and any(type(i) is Slot for i in item) for item in step.args)
    return not nested and not any(type(item) is Slot for item in step.kwargs.values()) and len(flat) == len(step.reads)
