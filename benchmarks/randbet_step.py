"""The cost of a training step with bit errors (RandBET) in quantisation-aware steps of the same net.

Ours makes no copy of the model: weights are quantised once, errors are flipped in the codes, only what they hit is
decoded again, and the second pass runs on the same module. The third step measured beside the two works the way the
released code of Stutz et al. does: deep copies of the model, quantised again for the attack, and one uniform number per
bit of it; written here from the description of that method, on the same format. ``HOLDFAST_BENCH_BATCH`` sets another
batch size.
"""

from __future__ import annotations

import copy
import os
import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks import _harness
from holdfast.models import build_architecture
from holdfast.numerics.formats import Format, formats
from holdfast.seeds import derive
from holdfast.training import RandomBitErrorTraining, Recipe, Standard

BATCH = int(os.environ.get("HOLDFAST_BENCH_BATCH", "128"))
REPEATS = 13
RATE, CLIP, FORMAT = 0.01, 0.1, "rquant8"
ARCHITECTURE = "cifar-resnet20"
_PLACES = torch.arange(8, dtype=torch.uint8)
Batch = tuple[Tensor, Tensor]


def measure() -> _harness.Result:
    """Time the three on one net and one batch, on one core."""
    torch.set_num_threads(1)
    generator = derive(0, "batch").torch()
    batch = torch.randn(BATCH, 3, 32, 32, generator=generator), torch.randint(10, (BATCH,), generator=generator)
    errors = RandomBitErrorTraining(rate=RATE, clip=CLIP, format=FORMAT, start="always")
    plain = Standard(clip=CLIP, format=FORMAT)
    ours, peer, naive = _step(errors, batch), _step(plain, batch), _naive_step(batch)
    pairs = _harness.paired(ours, peer, repeats=REPEATS)
    slow = _harness.paired(naive, peer, repeats=3)
    times = statistics.median(one for one, _ in slow) / statistics.median(other for _, other in slow)
    return _harness.summarise(
        f"a RandBET step of {ARCHITECTURE} at batch {BATCH} costs at most 2.2 quantisation-aware steps"
        f" (with copies and a number per bit: {times:.2f})",
        pairs,
        peer_name="quantisation-aware step",
    )


def _step(recipe: Recipe, batch: Batch) -> Callable[[], None]:
    """Return one whole step of training, as the loop makes it."""
    model = build_architecture(ARCHITECTURE).train()
    optimiser = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, nesterov=True)
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        recipe.project(model)
        _, gradients = recipe.gradients(model, *batch, derive(0, count), 1.0)
        for value, gradient in zip(model.parameters(), gradients, strict=True):
            value.grad = gradient
        optimiser.step()

    return step


def _naive_step(batch: Batch) -> Callable[[], None]:
    model, form = build_architecture(ARCHITECTURE).train(), formats.build(FORMAT)
    optimiser = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, nesterov=True)
    generator = derive(0, "naive").torch()

    def step() -> None:
        optimiser.zero_grad()
        _clip(model)
        quantised = _quantised(copy.deepcopy(model), form)
        _backward(quantised, batch)
        attacked = copy.deepcopy(copy.deepcopy(quantised))  # one for the attack, and one that it changes
        _with_errors(attacked, form, generator)
        best = copy.deepcopy(attacked)
        _backward(best, batch)
        for value, one, other in zip(*(net.parameters() for net in (model, quantised, best)), strict=True):
            value.grad = (one.grad + other.grad.clamp(-0.05, 0.05)) / 2
        for value, other in zip(model.buffers(), quantised.buffers(), strict=True):
            value.copy_(other)
        optimiser.step()

    return step


def _clip(model: nn.Module) -> None:
    with torch.no_grad():
        for value in model.parameters():
            value.clamp_(-1.1, 1.1)  # wide: norms keep their scale, and the cost is the same


def _quantised(model: nn.Module, form: Format) -> nn.Module:
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(form.decode(form.encode(value)))
    return model


def _with_errors(model: nn.Module, form: Format, generator: torch.Generator) -> None:
    total = sum(value.numel() for value in model.parameters())
    draws = torch.rand(total, 8, generator=generator) < RATE
    start = 0
    with torch.no_grad():
        for value in model.parameters():
            encoded = form.encode(value)
            hit = draws[start : start + value.numel()].to(torch.uint8)
            masks = (hit << _PLACES).sum(-1, dtype=torch.uint8)
            encoded.codes.view(-1).bitwise_xor_(masks)
            value.copy_(form.decode(encoded))
            start += value.numel()


def _backward(model: nn.Module, batch: Batch) -> None:
    model.zero_grad()
    cross_entropy(model(batch[0]), batch[1]).backward()


if __name__ == "__main__":
    _harness.main(measure)
