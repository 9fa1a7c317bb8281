"""Checksums of layers that are given one sample without a batch dimension."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from holdfast.errors import IntegrityError
from holdfast.hardening import Checksums, harden
from holdfast.models import card, tap
from holdfast.models.guard import AnyGuard
from holdfast.numerics import bits
from holdfast.seeds import derive

LAYERS = {
    "linear": (lambda: nn.Linear(33, 7), (33,)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1), (4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, padding=1), (4, 9, 5)),
}


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def made(name: str, action: str) -> tuple[nn.Module, AnyGuard, Tensor]:
    make, shape = LAYERS[name]
    model = nn.Sequential(make(), nn.ReLU()).eval()
    generator = derive(0, name).torch()
    for item in model.parameters():
        item.copy_(torch.randn(item.shape, generator=generator))
    hard = harden(model, Checksums(sites=("0",), action=action))  # type: ignore[arg-type]
    return hard, card(hard).guards[0], torch.randn(shape, generator=generator)


def hit(output: Tensor) -> Tensor:
    output.flatten()[-2] += 50
    return output


@pytest.fixture(params=[None, torch.bfloat16])
def region(request: pytest.FixtureRequest) -> Callable[[], torch.autocast]:
    """Outside and inside an autocast region."""
    return lambda: torch.autocast("cpu", request.param or torch.bfloat16, enabled=request.param is not None)


@pytest.mark.parametrize("name", LAYERS)
def test_one_sample_alone_counts_as_a_batch_of_one(name: str, region: Callable[[], torch.autocast]) -> None:
    model, guard, x = made(name, "correct")
    with region():
        golden = model(x)
        assert golden.dim() == x.dim()
        assert guard.events.tolist() == guard.alarms.tolist() == [0]
        with tap(model, {"0": hit}):
            assert bits.bit_equal(model(x), golden)
        assert (guard.events.tolist(), guard.alarms.tolist()) == ([1], [0])
    model[0].weight.flatten()[3] += 40
    with region():
        assert bits.bit_equal(model(x), golden)
    assert guard.events.tolist()[0] > 0
    assert guard.alarms.tolist() == [0]


@pytest.mark.parametrize("name", LAYERS)
def test_alarms_and_refusals_are_raised_for_it_too(name: str, region: Callable[[], torch.autocast]) -> None:
    model, guard, x = made(name, "detect")
    with region(), tap(model, {"0": hit}):
        model(x)
    assert (guard.events.tolist(), guard.alarms.tolist()) == ([0], [1])
    model, _, x = made(name, "refuse")
    with region(), tap(model, {"0": hit}), pytest.raises(IntegrityError, match="1 rows"):
        model(x)


def test_samples_with_and_without_a_batch_may_follow_one_another() -> None:
    model, guard, x = made("linear", "correct")
    for given, batch in ((x, 1), (x.expand(5, 33), 5), (x.expand(2, 3, 33), 2), (x, 1)):
        model(given)
        assert guard.events.tolist() == [0] * batch


def test_a_layer_called_by_the_name_of_its_input_is_guarded_too() -> None:
    model, _, x = made("linear", "correct")

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model[0]

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(input=x)

    named = harden(Named().eval(), Checksums(sites=("inner",)))
    golden = named(x)
    with tap(named, {"inner": hit}):
        assert bits.bit_equal(named(x), golden)


def test_gradients_flow_through_a_sample_alone() -> None:
    model, _, x = made("linear", "correct")
    with torch.enable_grad():
        golden = model(x).sum()
        (expected,) = torch.autograd.grad(golden, model[0].weight)
        with tap(model, {"0": lambda output: output + 50 * torch.eye(7)[6]}):
            out = model(x)
        (seen,) = torch.autograd.grad(out.sum(), model[0].weight)
    assert torch.equal(out.sum(), golden)
    assert torch.equal(seen, expected)
