"""A training step with bit errors (RandBET) against a quantisation-aware one, on a GPU: SimpleNet, rquant8, batch 128.

A step is the loop's own, from clipping to the check that all weights are finite. Two passes are in it, so two is what
it cannot beat by much. Below stand the same by CUDA graphs, the step with the reference in place of the kernels, and
what drawing errors and decoding take alone, where a copy of the same values on the device is the limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch

from benchmarks import _gpu
from holdfast._kernels import device as devices
from holdfast.models import build_architecture
from holdfast.numerics import bits
from holdfast.seeds import derive
from holdfast.training import RandomBitErrorTraining, Recipe, Standard
from holdfast.training.graphs import graphing
from holdfast.training.loop import _require_finite, _step
from holdfast.training.recipes.memory import Memory
from holdfast.training.recipes.protocol import trainable
from holdfast.training.state import State

ARCHITECTURE, SIZE, BATCH = "simplenet:channels=64,norm=regn,whitening=true", (3, 32, 32), 128
RATES = (1e-6, 1e-4, 1e-3, 0.01)  # the last one is the claim's
CLIP, FORMAT, LIMIT = 0.1, "rquant8", 2.2
Step = Callable[[], None]


def measure(
    device: torch.device,
    architecture: str = ARCHITECTURE,
    size: tuple[int, ...] = SIZE,
    batch: int = BATCH,
    rates: tuple[float, ...] = RATES,
) -> _gpu.DeviceResult:
    """Time the steps in turn, and errors alone at every rate, after a comparison of both with the reference."""
    _require_equal(device, architecture, rates[-1])
    errors = RandomBitErrorTraining(rate=rates[-1], clip=CLIP, format=FORMAT, start="always")
    plain = Standard(clip=CLIP, format=FORMAT)

    def step(recipe: Recipe, *, graphs: bool = False, kernels: bool = True) -> list[float]:
        with _reference() if not kernels else nullcontext():
            return _steps(recipe, device, architecture, (batch, *size), graphs)

    limit, ours = step(plain), step(errors)
    weights = sum(value.nbytes for value in build_architecture(architecture).parameters())
    cases = [_gpu.row(name, times, limit, count=weights) for name, times in (
        ("QAT", limit), ("RandBET", ours), ("QAT, graphs", step(plain, graphs=True)),
        ("RandBET, graphs", step(errors, graphs=True)), ("RandBET, bfloat16", _bfloat16(step, errors, device)),
        ("RandBET, p = 1e-4", step(replace(errors, rate=1e-4))), ("RandBET, reference", step(errors, kernels=False)),
    )]  # fmt: skip
    cases += _injections(device, architecture, rates, weights)
    claim = f"a RandBET step of {architecture} at batch {batch} costs at most {LIMIT} quantisation-aware steps"
    result = _gpu.summarise(claim, ours, limit, cases)
    return _gpu.DeviceResult(**(vars(result) | {"peer_name": "quantisation-aware step"}))


def _bfloat16(step: Callable[[Recipe], list[float]], recipe: Recipe, device: torch.device) -> list[float]:
    with torch.autocast(device.type, torch.bfloat16):
        return step(recipe)


@contextmanager
def _reference() -> Iterator[None]:
    """Have no kernels used for the length of the block."""
    kept, devices.KINDS[:] = list(devices.KINDS), []
    try:
        yield
    finally:
        devices.KINDS[:] = kept


def _steps(
    recipe: Recipe, device: torch.device, architecture: str, shape: tuple[int, ...], graphs: bool
) -> list[float]:
    model = build_architecture(architecture).to(device).train()
    generator = derive(0, "gpu-randbet").torch()
    images = torch.randn(shape, generator=generator).to(device)
    labels = torch.randint(10, (shape[0],), generator=generator).to(device)
    state, count = State.fresh(model, replace(recipe.schedule, lr=1e-3)), 0

    def step() -> None:
        nonlocal count
        count += 1
        state.loss = _step(recipe, state, images, labels, derive(0, count))
        _require_finite(state, count, None)

    with graphing(model) if graphs and device.type == "cuda" else nullcontext():
        times = _gpu.milliseconds(step)
    if not math.isfinite(state.loss):
        raise SystemExit("the training diverged: nothing to time")
    return times


def _injections(device: torch.device, architecture: str, rates: tuple[float, ...], count: int) -> list[dict[str, Any]]:
    """Return the time of quantisation, and of errors with decoding at each rate, beside a copy of the values."""
    model = build_architecture(architecture).to(device)
    limit = _gpu.copying(torch.zeros(count // 4, device=device))
    memory, seed = Memory.of(FORMAT, trainable(model)), derive(0, "chip")
    found = [_gpu.row("quantise", _gpu.milliseconds(lambda: Memory.of(FORMAT, trainable(model))), limit, count=count)]
    for rate in rates:
        times = _gpu.milliseconds(lambda rate=rate: memory.with_errors(rate, seed))
        found.append(_gpu.row(f"errors, p = {rate:g}", times, limit, count=count))
    if memory.resident is None:
        raise SystemExit("the reference made the memory: nothing to time")
    codes, drawn = memory.resident.codes, memory.resident.codes.values()
    listed = torch.arange(0, 8 * codes.parts.codes, 10**5, device=device)
    found.append(_gpu.row("touched alone", _gpu.milliseconds(lambda: codes.touch_(drawn, listed)), limit, count=count))
    return found


def _require_equal(device: torch.device, architecture: str, rate: float) -> None:
    model, seed = build_architecture(architecture), derive(1, "gpu-randbet")
    with _reference():
        expected = Memory.of(FORMAT, trainable(model)).with_errors(rate, seed)
    found = Memory.of(FORMAT, trainable(model.to(device))).with_errors(rate, seed)
    if not all(bits.bit_equal(found[name].cpu(), value) for name, value in expected.items()):
        raise SystemExit(f"the weights under errors at rate {rate} are not the reference's: nothing to time")


if __name__ == "__main__":
    _gpu.main(measure)
