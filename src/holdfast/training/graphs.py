"""Passes of a training as CUDA graphs: a forward and a backward pass become one launch.

Small networks at small batches leave a GPU waiting for launches. A graph replays the very kernels of a pass that it was
captured from, on the same memory: weights and batch are copied in, losses and gradients copied out. What cannot be
captured runs as before, and a log says why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from holdfast._kernels.capture import recorded

_log = logging.getLogger(__name__)
_BEFORE = 2  # passes that run as they are before one is captured: libraries set themselves up in the first ones
_MOST = 8  # graphs of a training, each with memory of its own

Result = tuple[Tensor, list[Tensor]]  # losses, and one gradient per weight
Pass = Callable[[Mapping[str, Tensor], Tensor, Tensor], Result]  # of weights, images and labels
Key = tuple[object, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Captured:
    """One graph and the memory that it works on."""

    replay: Callable[[], None]
    weights: list[Tensor]
    images: Tensor
    labels: Tensor
    result: Result

    def run(self, weights: Mapping[str, Tensor], images: Tensor, labels: Tensor) -> Result:
        """Return what the pass gives here; the next run leaves it alone."""
        torch._foreach_copy_(self.weights, [value.detach() for value in weights.values()])
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.replay()
        found = [torch.empty_like(value) for value in self.result[1]]
        torch._foreach_copy_(found, self.result[1])
        return self.result[0].clone(), found


@dataclass(eq=False)
class Graphs:
    """The graphs of one model in training."""

    model: nn.Module
    seen: dict[Key, int] = field(default_factory=dict)
    known: dict[Key, Captured] = field(default_factory=dict)
    refused: bool = False

    def run(self, call: Pass, kind: Key, weights: Mapping[str, Tensor], images: Tensor, labels: Tensor) -> Result:
        """Return what ``call`` does, by a graph once passes of this ``kind`` and these shapes came up before."""
        shapes = tuple((name, value.shape, value.dtype) for name, value in weights.items())
        key = (*kind, images.shape, images.dtype, shapes, torch.is_autocast_enabled(images.device.type))
        if key not in self.known and not self._capture(key, call, weights, images, labels):
            return call(weights, images, labels)
        return self.known[key].run(weights, images, labels)

    def _capture(
        self, key: Key, call: Pass, weights: Mapping[str, Tensor], images: Tensor, labels: Tensor
    ) -> bool:  # fmt: skip
        self.seen[key] = self.seen.get(key, 0) + 1
        if self.refused or self.seen[key] <= _BEFORE or len(self.known) >= _MOST:
            return False
        held = {name: value.detach().clone() for name, value in weights.items()}
        places = images.clone(), labels.clone()
        try:
            replay, result = captured(lambda: call(held, *places))
        except RuntimeError as error:  # out of memory among them
            self.refused = True
            self.known.clear()  # their random draws would no longer follow the seeds of the steps
            _log.warning("passes run without CUDA graphs from now on: %s", str(error).partition("\n")[0])
            return False
        self.known[key] = Captured(replay, list(held.values()), *places, result)
        return True


def captured(call: Callable[[], Result]) -> tuple[Callable[[], None], Result]:
    """Return what computes ``call`` again, and where its result then lies; nothing has been computed yet."""
    results: list[Result] = []
    torch.clear_autocast_cache()  # weights cast before are not those of the graph
    try:
        replay = recorded(lambda: results.append(call()))
    finally:
        torch.clear_autocast_cache()
    return replay, results[0]


_current: ContextVar[Graphs | None] = ContextVar("graphs", default=None)


def graphs_of(model: nn.Module) -> Graphs | None:
    """Return the graphs that passes of ``model`` use in this block, if they use any."""
    found = _current.get()
    return found if found is not None and found.model is model else None


@contextmanager
def graphing(model: nn.Module) -> Iterator[None]:
    """Have passes of ``model`` captured and replayed for the length of the block."""
    token = _current.set(Graphs(model))
    try:
        yield
    finally:
        _current.reset(token)
