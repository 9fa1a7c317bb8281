"""Baselines that believe a worker, executed with real tensors: exposed regions of an integer graph, and TSQP's probes.

A session of Holdfast has no placement without a check, so what published rules leave exposed runs here and nowhere
else: the steps of the graph that a rule puts outside run in a forked process under another user, over the same rings of
shared memory that sessions use. It believes what comes back.
"""

from __future__ import annotations

import os
import signal
import socket
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.errors import WorkerUnreachable
from holdfast.seeds import derive
from holdfast.services.process import become
from holdfast.shielding.graph import IntegerModel, Step, exact
from holdfast.shielding.graph.leaves import GroupedConvolution
from holdfast.shielding.graph.operations import function
from holdfast.shielding.graph.program import _bound
from holdfast.shielding.integer import IntegerLayer, nearest_codes
from holdfast.shielding.product import byte_planes, planes_product
from holdfast.shielding.transport import Frame, Kind
from holdfast.shielding.transport.shared import accept, offer
from holdfast.shielding.transport.spawn import RING_BYTES
from holdfast.shielding.transport.wire import Channel

_MASK = 127  # TSQP draws whole numbers from -127 .. 126 (case_study.py of its release)
_PLANES = 2  # a code plus such a mask needs nine bits
_TIMEOUT = 600.0
Values = dict[str, Any]


class Outside:
    """A process on another core and under another user that answers one channel; born by fork, with what it needs.

    Args:
        answer: called there with each frame.
        core: where it runs.
    """

    def __init__(self, answer: Callable[[Frame], Frame], *, core: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.process = os.fork()
        if self.process == 0:
            ours.close()
            _serve(answer, theirs, core)
        theirs.close()
        self.channel: Channel = offer(ours, RING_BYTES, timeout=_TIMEOUT, peer="the worker")

    def ask(self, frame: Frame) -> Frame:
        """Return the answer to ``frame``."""
        self.channel.send(frame)
        return self.channel.receive()

    def close(self) -> None:
        """End the process."""
        self.channel.close()
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)


def _serve(answer: Callable[[Frame], Frame], stream: socket.socket, core: int) -> None:
    code = 1
    try:
        os.sched_setaffinity(0, {core})
        if os.geteuid() == 0:
            become("nobody")
        channel = accept(stream, timeout=None, peer="the session")
        while True:
            channel.send(answer(channel.receive()))
    except WorkerUnreachable:
        code = 0
    except Exception:  # noqa: BLE001
        traceback.print_exc()  # nothing above the fork says why its other half went away
    finally:
        os._exit(code)


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive steps of one world.

    Attributes:
        outside: whether the worker runs them.
        steps: in order.
        needed: values that the worker lacks.
        returned: values that come back.
    """

    outside: bool
    steps: tuple[Step, ...]
    needed: tuple[str, ...] = ()
    returned: tuple[str, ...] = ()


def segments(model: IntegerModel, words: Mapping[str, str]) -> list[Segment]:
    """Cut a graph where its steps change worlds.

    Args:
        words: placement of every node; ``exposed`` is outside. What is no node stays with what it reads.
    """
    world: dict[str, bool] = {model.input: False}
    for step in model.steps:
        name = step.path or step.name
        read = [world[source] for source in step.sources() if source in world]
        world[step.name] = words[name] == "exposed" if name in words else any(read[:1])
    runs = [(outside, tuple(run)) for outside, run in groupby(model.steps, lambda step: world[step.name])]
    there: set[str] = set()
    found = []
    for place, (outside, steps) in enumerate(runs):
        if not outside:
            found.append(Segment(False, steps))
            continue
        made = [step.name for step in steps]
        read_here = dict.fromkeys(name for step in steps for name in step.sources() if name in world)
        needed = tuple(name for name in read_here if not world[name] and name not in there)
        later = {name for other, part in runs[place + 1 :] if not other for step in part for name in step.sources()}
        there |= {*made, *needed}
        found.append(Segment(True, steps, needed, tuple(name for name in made if name in later | {model.output})))
    return found


class Split(nn.Module):
    """An integer graph of which a worker computes the exposed nodes, and is believed.

    Args:
        words: placement of every node.
        core: of the worker.
    """

    def __init__(self, model: IntegerModel, words: Mapping[str, str], *, core: int) -> None:
        super().__init__()
        self._graph, self._parts, self._there = model, segments(model, words), Values()
        self._last = _last_readers(model)
        self.outside = Outside(self._answer, core=core)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for ``x`` (batch, *sample)."""
        values = _constants(self._graph) | {self._graph.input: x.float() if x.is_floating_point() else x}
        with torch.no_grad():
            for number, part in enumerate(self._parts):
                if not part.outside:
                    _run(self._graph, part.steps, values, self._last)
                    continue
                question = packed(Kind.RUN, {name: values[name] for name in part.needed}, segment=number)
                values |= unpacked(self.outside.ask(question))
        result: Tensor = values[self._graph.output]
        return result

    def _answer(self, frame: Frame) -> Frame:
        """Run in the worker: the steps of one segment."""
        part = self._parts[int(frame.header["segment"])]
        self._there |= _constants(self._graph) | unpacked(frame)
        with torch.no_grad():
            _run(self._graph, part.steps, self._there, self._last)
        return packed(Kind.RESULT, {name: self._there[name] for name in part.returned})


def _last_readers(model: IntegerModel) -> dict[str, tuple[str, ...]]:
    return dict(zip((step.name for step in model.steps), model._spent, strict=True))


def _constants(model: IntegerModel) -> Values:
    return {name: model.get_buffer(f"constant_{name}") for name in model._constants}


def _run(model: IntegerModel, steps: Sequence[Step], values: Values, last: Mapping[str, tuple[str, ...]]) -> None:
    """Run steps as the graph itself does, and let go of values after their ``last`` readers."""
    for step in steps:
        call = model.get_submodule(step.path) if step.target == "module" else function(step.target)
        keywords = {key: _bound(value, values) for key, value in step.keywords.items()}
        values[step.name] = call(*_bound(step.args, values), **keywords)
        for name in last[step.name]:
            values.pop(name, None)


def packed(kind: Kind, values: Mapping[str, Any], **header: int) -> Frame:
    """Return values as one frame: tensors as the words of its body, whole numbers in its header."""
    tensors = {name: value.contiguous() for name, value in values.items() if isinstance(value, Tensor)}
    shapes = {name: [str(value.dtype).removeprefix("torch."), *value.shape] for name, value in tensors.items()}
    numbers = {name: value for name, value in values.items() if name not in tensors}
    words = [_words(value) for value in tensors.values()]
    body = None if not words else words[0] if len(words) == 1 else torch.cat(words)
    return Frame(kind, {**header, "tensors": shapes, "numbers": numbers, "order": list(tensors)}, body)


def _words(value: Tensor) -> Tensor:
    """Return a tensor's memory as int32, filled up with zeros: masks of attention are bytes, and few of them."""
    flat = value.view(-1).view(torch.uint8)
    return (nn.functional.pad(flat, (0, -flat.numel() % 4)) if flat.numel() % 4 else flat).view(torch.int32)


def unpacked(frame: Frame) -> Values:
    """Return what :func:`packed` was given."""
    result, at = dict(frame.header["numbers"]), 0
    for name in frame.header["order"]:
        dtype, *shape = frame.header["tensors"][name]
        kind = getattr(torch, dtype)
        count = torch.Size(shape).numel()
        size = -(-count * kind.itemsize // 4)
        body = frame.body if frame.body is not None else torch.empty(0, dtype=torch.int32)
        result[name] = body[at : at + size].view(kind)[:count].view(shape)
        at += size
    return result


class Probed(nn.Module):
    """TSQP's split: codes plus a small mask go out, the product with the mask is taken off, no answer is checked.

    The masks are too small to hide what they cover. Probes, which TSQP checks instead of answers, would be one more
    message each.

    Args:
        names: of the nodes that are sent away, linear and grouped.
        core: of the worker.
    """

    def __init__(self, model: IntegerModel, names: frozenset[str], *, core: int) -> None:
        super().__init__()
        self._graph, self._last = model, _last_readers(model)
        self._layers = {name: model.get_submodule(name) for name in names}
        self._ready: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in names}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self.outside = Outside(self._answer, core=core)

    def prepare(self, x: Tensor, count: int) -> None:
        """Draw masks for ``count`` inputs like ``x`` and compute their products."""
        if not self._shapes:
            self._walk(x, self._observe)
        for name, shape in self._shapes.items():
            draw = derive(0, "tsqp", name).torch()
            for _ in range(count):
                mask = torch.randint(-_MASK, _MASK, shape, generator=draw, dtype=torch.int32)
                self._ready[name].append((mask, multiplied(self._layers[name], byte_planes(mask)[:_PLANES])))

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for ``x`` (batch, *sample)."""
        return self._walk(x, self._remote)

    def _walk(self, x: Tensor, call: Callable[[str, Tensor], Tensor]) -> Tensor:
        values = _constants(self._graph) | {self._graph.input: x.float() if x.is_floating_point() else x}
        with torch.no_grad():
            for here, run in groupby(self._graph.steps, lambda step: step.path in self._layers):
                if not here:
                    _run(self._graph, tuple(run), values, self._last)
                    continue
                for step in run:
                    values[step.name] = call(step.path, _bound(step.args, values)[0])
        result: Tensor = values[self._graph.output]
        return result

    def _observe(self, name: str, x: Tensor) -> Tensor:
        self._shapes[name] = tuple(x.shape)
        result: Tensor = self._layers[name](x)
        return result

    def _remote(self, name: str, x: Tensor) -> Tensor:
        layer = self._layers[name]
        mask, shift = self._ready[name].pop()
        codes = nearest_codes(x, layer.activation_scale, layer.top_code).to(torch.int32)
        planes = byte_planes(codes + mask)[:_PLANES]
        answer = self.outside.ask(Frame(Kind.RUN, {"layer": name}, planes)).body
        if answer is None:
            raise WorkerUnreachable("the worker answered without a product")
        product = answer - shift
        if isinstance(layer, IntegerLayer):
            return layer.epilogue(product)
        return exact.scaled(product.float(), layer.scale, layer.bias)

    def _answer(self, frame: Frame) -> Frame:
        """Run in the worker: one product."""
        if frame.body is None:
            raise WorkerUnreachable("a message without codes")
        return Frame(Kind.RESULT, {}, multiplied(self._layers[frame.header["layer"]], frame.body))


def multiplied(layer: nn.Module, planes: Tensor) -> Tensor:
    """Return the product of a linear or grouped layer with int8 ``planes`` (planes, batch, *sample), int32."""
    if isinstance(layer, IntegerLayer):
        return planes_product(planes, layer.codes, layer.geometry)
    if not isinstance(layer, GroupedConvolution):
        raise TypeError(f"{type(layer).__name__} has no weights to multiply by")
    codes = sum(plane.to(torch.int32) << 8 * place for place, plane in enumerate(planes))
    if layer.geometry.in_channels == 1:  # at most 254 times the weights of one channel, which float32 holds
        return layer._depthwise(codes.float()).to(torch.int32)  # type: ignore[union-attr]
    parts = zip(planes.chunk(layer.groups, 2), layer.codes.chunk(layer.groups), strict=True)
    return torch.cat([planes_product(part, weights, layer.geometry) for part, weights in parts], 1)
