"""Measuring a target: laws of both worlds and of the way between them, with the code that will run.

Products, checks, masks and crossings are timed where they happen: in one session over layers of many shapes, each
called in turn, so that a layer finds caches as a model leaves them, and not warm from its own last call. Small trusted
work is timed in the same turns. What is kept is the least of a few times, which other work on the machine disturbs
least; where each world has one thread it is CPU time, and only the wait for an empty round trip is by the clock on the
wall.
"""

from __future__ import annotations

import copy
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from holdfast.shielding import Session, int8_model, integer_layers, shield
from holdfast.shielding.integer import IntegerLayer
from holdfast.shielding.planner.fitting import Turn, fitted_machine
from holdfast.shielding.planner.laws import Law, Laws, Machine, sizes
from holdfast.shielding.planner.small import Piece, pieces
from holdfast.shielding.product import planes_for

__all__ = ["Law", "Laws", "Machine", "measure"]

_ROUNDS = 7
# (inputs, outputs, side, kernel, stride) and (rows, inputs, outputs): corners of what networks hold
_CONVOLUTIONS = ((3, 16, 32, 3, 1), (16, 16, 32, 3, 1), (64, 64, 28, 3, 1), (128, 128, 14, 3, 1), (64, 128, 28, 1, 2),
                 (512, 512, 7, 3, 1), (32, 192, 28, 1, 1), (96, 24, 56, 1, 1), (3, 64, 112, 7, 2),
                 (64, 64, 112, 3, 1))  # fmt: skip
_LINEARS = ((1, 64, 64), (1, 512, 1000), (1, 4096, 2048), (8, 1024, 1024), (64, 64, 172), (64, 256, 1024),
            (196, 384, 1536))  # fmt: skip
_TINY, _BULK = 1, 512  # sides of the images whose round trips give the price of a crossing and of a byte
_ALL_THREADS = 2  # Linux: the clock of process p is ~p << 3, with what it counts in the low bits


class _Layers(nn.Module):
    """Layers of many shapes, each with an input of its own; some twice, to be offloaded in the clear and blinded."""

    def __init__(self) -> None:
        super().__init__()
        shapes = [_convolution(*shape) for shape in _CONVOLUTIONS] + [_linear(*shape) for shape in _LINEARS]
        ways = [_convolution(1, 1, side, 1, 1) for side in (_TINY, _BULK)]
        self.images = [x for _, x in (*shapes, *ways)]
        self.verified = nn.ModuleList(layer for layer, _ in (*shapes, *ways))
        self.blinded = nn.ModuleList(copy.deepcopy(layer) for layer, _ in shapes)

    def forward(self, _: Tensor) -> Tensor:
        """Call every layer once."""
        for layers in (self.verified, self.blinded):
            for layer, x in zip(layers, self.images, strict=False):
                layer(x)
        return self.images[0]


def _convolution(taken: int, made: int, side: int, kernel: int, stride: int) -> tuple[nn.Module, Tensor]:
    return nn.Conv2d(taken, made, kernel, stride, kernel // 2), torch.rand(1, taken, side, side)


def _linear(rows: int, taken: int, made: int) -> tuple[nn.Module, Tensor]:
    return nn.Linear(taken, made), torch.rand(1, rows, taken)


def measure(*, worker: str = "spawn", worker_options: Sequence[str] = ()) -> Machine:
    """Measure this machine in some seconds, with the products, checks, masks and worker that sessions use.

    What the worker does is measured through the worker, wherever that is and whatever it computes on; the trusted
    world is taken to be this process. Where it is an enclave, measure there. A worker that is started here gets a core
    of its own for the time, as long as there are two: waking somebody on another core takes longer than on our own.
    A worker on a GPU is measured with its copies to the device and back: they are part of a crossing and its bytes.

    Args:
        worker, worker_options: as for :func:`~holdfast.shielding.shield`.
    """
    layers = _Layers()
    model = int8_model(layers, torch.zeros(1, 1))
    parts = integer_layers(model)
    placements = {name: name.partition(".")[0] for name in parts}
    here = [_here(parts[f"verified.{k}"], x) for k, x in enumerate(layers.images)]
    small = [_small(piece) for piece in pieces()]
    with ExitStack() as stack:
        opened = shield(model, worker, placements=placements, worker_options=worker_options)  # type: ignore[arg-type]
        session = stack.enter_context(opened)
        session.prepare(_ROUNDS)
        stack.enter_context(_apart(session))
        there = [_there(session, name, layers.images[int(name.partition(".")[2])]) for name in placements]
        tiny = there[len(layers.images) - 2]
        for _ in range(_ROUNDS):
            for turn in (*here, *there, *small):
                turn()
                tiny()  # often, since a wait is least only where both worlds are awake
        accelerated = session.kernels["device"] != "cpu"
    return fitted_machine(here, there, small, accelerated=accelerated)


@contextmanager
def _apart(session: Session) -> Iterator[None]:
    """Keep this process on its first core and a worker of ours on the last, where the system has such words."""
    owner = session._owner
    if owner is None or sys.platform != "linux" or len(cores := os.sched_getaffinity(0)) < 2:
        yield
        return
    for task in Path(f"/proc/{owner.process.pid}/task").iterdir():
        with suppress(ProcessLookupError):  # a thread that has just ended
            os.sched_setaffinity(int(task.name), {max(cores)})
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _here(layer: IntegerLayer, x: Tensor) -> Turn:
    """Time a layer in the trusted world."""

    clock = _clock()

    def run() -> dict[str, float]:
        values, start = x.clone(), clock()
        codes = layer.encode(values)
        encoded = clock()
        accumulators = layer.accumulate(codes)
        multiplied = clock()
        layer.epilogue(accumulators)
        done = clock()
        return {"product": multiplied - encoded, "handling": encoded - start + done - multiplied}

    return Turn(_layer_sizes(layer), layer.geometry.kind, run)


def _there(session: Session, name: str, x: Tensor) -> Turn:
    """Time a layer through the session: its phases by the clock of both worlds, and the ``wait`` by the wall's."""
    layer, remote, clock = session._layers[name].layer, session.model.get_submodule(name), _clock(session)
    spent: dict[str, float] = {}

    @contextmanager
    def phase(word: str) -> Iterator[None]:
        start, begun = clock(), time.perf_counter()
        yield
        spent[word], spent["wait"] = clock() - start, time.perf_counter() - begun if word == "remote" else spent["wait"]

    def run() -> dict[str, float]:
        spent["wait"] = 0.0
        session._phase = phase  # type: ignore[method-assign,assignment]
        remote(x.clone())
        masks = spent["prepare"] + spent["blind"] + spent["unblind"]
        return {"remote": spent["remote"], "wait": spent["wait"], "check": spent["check"], "masks": masks}

    word = name.partition(".")[0]
    planes = planes_for(layer.bound) if word == "blinded" else 1
    return Turn(_layer_sizes(layer), f"{word} {layer.geometry.kind}", run, planes)


def _clock(session: Session | None = None) -> Callable[[], float]:
    """Return a clock of this world, or of both together: CPU time where each has one thread, else the wall's.

    The worlds take turns, so the sum of their CPU times is the latency of a machine that does nothing else.
    """
    if torch.get_num_threads() > 1:
        return time.perf_counter
    if session is None:
        return time.process_time
    owner = session._owner
    if owner is None or session.kernels["device"] != "cpu" or sys.platform != "linux":
        return time.perf_counter
    worker = ~owner.process.pid << 3 | _ALL_THREADS
    return lambda: time.process_time() + time.clock_gettime(worker)


def _layer_sizes(layer: IntegerLayer) -> list[float]:
    geometry, shape = layer.geometry, layer.sample_shape
    outputs = torch.Size(geometry.output_shape(shape)).numel()
    return sizes(geometry.inner, geometry.out_channels, outputs, torch.Size(shape).numel())


def _small(piece: Piece) -> Turn:
    clock = _clock()

    def run() -> dict[str, float]:
        inputs, start = [part.clone() for part in piece.inputs], clock()
        piece.call(*inputs)
        return {"call": clock() - start}

    return Turn(sizes(piece.inner, 0, piece.given, piece.taken), piece.family, run)
