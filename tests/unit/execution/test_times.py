"""Faults with a time: once, in a window, for good; counted in forward passes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig
from holdfast.execution import campaign, inject, robust_error
from holdfast.faults import BitFlip, Corruption, IntermittentErrors, Timed, TransientErrors
from holdfast.numerics import bits

PASSES = 6


def outputs(model: nn.Module, x: Tensor, fault: object, at: str) -> list[bool]:
    """Which of six passes differ from the clean one."""
    with torch.no_grad():
        clean = model(x)
        with inject(model, fault, at=at, example=x[0], seed=3):
            found = [not bits.bit_equal(model(x), clean) for _ in range(PASSES)]
        assert bits.bit_equal(model(x), clean)
    return found


@pytest.mark.parametrize("at", ["weights:0.weight", "activations:0", "inputs", "internals"])
@pytest.mark.parametrize(
    ("passes", "present"),
    [("2", [2]), ("1..3", [1, 2, 3]), ("4..", [4, 5]), ("..1", [0, 1]), ("..", range(PASSES)), ("9", [])],
)
def test_a_fault_comes_and_goes(at: str, passes: str, present: list[int]) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)).eval()
    fault = Timed(fault=Corruption(where="row", what="(flip-mask:mask=0x40000)"), passes=passes)
    expected = [number in present for number in range(PASSES)]
    if at == "internals":
        fault = Timed(fault=Corruption(where="row", what="(flip-mask:mask=0x400000)"), passes=passes)
        from holdfast.models import Unfused

        with Unfused(model):
            assert outputs(model, torch.rand(2, 4) + 1, fault, at) == expected
    else:
        assert outputs(model, torch.rand(2, 4) + 1, fault, at) == expected


def test_the_same_bits_fail_in_all_passes_as_without_a_time() -> None:
    model = nn.Linear(3, 3)
    before = model.weight.detach().clone()
    seen: list[Tensor] = []
    model.register_forward_hook(lambda *_: seen.append(model.weight.detach().clone()))
    x = torch.rand(1, 3)
    with inject(model, BitFlip(), at="weights", seed=5):
        model(x)
    with inject(model, Timed(fault=BitFlip(), passes="1..2"), at="weights", seed=5):
        for _ in range(4):
            model(x)
    plain, *rest = seen
    assert not torch.equal(plain, before)
    assert [torch.equal(item, plain) for item in rest] == [False, True, True, False]
    assert torch.equal(rest[0], before)
    assert torch.equal(rest[3], before)


@pytest.mark.parametrize("law", [TransientErrors(rate=0.1), IntermittentErrors(rate=0.2, share=0.5)])
def test_faults_of_each_read_are_those_they_would_be_without_a_time(law: object) -> None:
    model = nn.Linear(8, 8)
    x = torch.rand(1, 8)

    def weights(fault: object) -> list[Tensor]:
        seen: list[Tensor] = []
        handle = model.register_forward_hook(lambda *_: seen.append(model.weight.detach().clone()))
        with inject(model, fault, at="weights", seed=5):
            for _ in range(3):
                model(x)
        handle.remove()
        return seen

    always, once = weights(law), weights(Timed(fault=law, passes="1"))
    assert bits.bit_equal(once[1], always[1])
    assert bits.bit_equal(once[0], model.weight.detach())
    assert bits.bit_equal(once[2], model.weight.detach())
    assert not bits.bit_equal(always[0], always[1])


@pytest.mark.parametrize("passes", ["", "-1", "3..2", "a", "1...2", "1.5"])
def test_passes_that_are_none_are_refused(passes: str) -> None:
    with pytest.raises(InvalidConfig, match="passes"):
        Timed(fault=BitFlip(), passes=passes)


def test_a_campaign_of_single_passes_refuses_a_time(trained: nn.Module, digits: Dataset) -> None:
    with pytest.raises(InvalidConfig, match="no passes for a fault"):
        campaign(trained, digits, Timed(fault=BitFlip(), passes="3"), at="weights", trials=3)


def test_an_error_over_chips_counts_its_batches(trained: nn.Module, digits: Dataset) -> None:
    some, law = digits.take(64), Corruption(where="channel", what="nan")
    never = robust_error(trained, some, Timed(fault=law, passes="99"), chips=1, seed=0)
    always = robust_error(trained, some, Timed(fault=law, passes=".."), chips=1, seed=0)
    assert never.per_chip[0] < always.per_chip[0]
