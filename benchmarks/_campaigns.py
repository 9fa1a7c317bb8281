"""Faults in the linear layers of a transformer, run by one engine or another, down to the rows of the table."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.execution.condition import Flips
from holdfast.execution.engines import Hooks, build_engine
from holdfast.execution.plan import Trial
from holdfast.execution.run import device_of
from holdfast.execution.trials import TrialRunner
from holdfast.models import sites
from holdfast.models.site import Site


def images(count: int, size: int, channels: int = 3) -> Dataset:
    """Return ``count`` random images, labelled 0."""
    raw = torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(1))
    return Dataset("noise", raw, torch.zeros(count, dtype=torch.int64), ("only",))


def linear_sites(model: nn.Module, data: Dataset) -> list[Site]:
    """Return the outputs of the linear layers that compute."""
    modules = dict(model.named_modules())
    found = sites(model, data.to(device_of(model)).example)
    return [site for site in found if site.kind == "activations" and isinstance(modules.get(site.name), nn.Linear)]


def draw(known: Sequence[Site], inputs: int, count: int, seed: int) -> list[Trial]:
    """Return ``count`` trials of one random bit in one neuron of a layer drawn uniformly, on a random input."""
    generator, trials = random.Random(seed), []
    for number in range(count):
        site = generator.choice(known)
        element, bit = generator.randrange(site.numel), generator.randrange(site.bits)
        flips = Flips(site, torch.tensor([element]), torch.tensor([1 << bit]))
        trials.append(Trial(number, (flips,), generator.randrange(inputs)))
    return trials


def runner_of(model: nn.Module, data: Dataset, engine: str, batch: int) -> TrialRunner:
    """Return what turns blocks of trials into rows."""
    return TrialRunner(model, data.to(device_of(model)), engine=engine, batch=batch)


def run(runner: TrialRunner, trials: Sequence[Trial], batch: int) -> None:
    """Run trials to the rows of the table; a batch of 1 is one hooked inference for each."""
    with torch.no_grad():
        for block in runner.blocks(trials, batch):
            runner(block)


def require_equal(model: nn.Module, data: Dataset, trials: Sequence[Trial], rows: int) -> None:
    """Leave unless lockstep gives a full batch of ``trials`` the bits of a whole pass of that batch."""
    there = data.to(device_of(model))

    def batch(numbers: Sequence[int]) -> Tensor:
        return there.batch(torch.tensor(list(numbers)))[0]

    with torch.no_grad():
        engine = build_engine(f"lockstep:rows={rows}", model, batch)
        plain = Hooks(model, batch)
        for block in engine.blocks(trials, rows):
            if len(block) == rows and not torch.equal(_bits(engine.faulty(block)), _bits(plain.faulty(block))):
                raise SystemExit("lockstep gave other bits than whole passes: nothing to time")


def _bits(output: Tensor) -> Tensor:
    return output.view(torch.int16 if output.dtype.itemsize == 2 else torch.int32)
