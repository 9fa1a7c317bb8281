"""The second device of the tests refuses what a GPU refuses, or it would show nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.away import AWAY, away

WRONG = [
    lambda there: there + torch.ones(3),
    lambda there: torch.cat([there, torch.ones(3)]),
    lambda there: there.take(torch.tensor([1])),
    lambda there: there.put_(torch.tensor([1]), there[:1]),
    lambda there: torch.searchsorted(torch.ones(3), there),
    lambda there: torch.where(torch.ones(3, dtype=torch.bool), there, 0),
    lambda there: nn.Linear(3, 2)(there),
    lambda there: there.index_add_(0, torch.tensor([1]), there[:1]),
    lambda there: there.scatter_(0, torch.tensor([1]), 1.0),
    lambda there: torch._foreach_add_([there], [torch.ones(3)]),
    lambda there: torch.ones(3)[there.long()],
]


@pytest.mark.parametrize("wrong", WRONG)
def test_two_devices_in_one_operation_are_refused(wrong: object) -> None:
    with away() as device:
        there = torch.arange(3.0).to(device)
        with pytest.raises(RuntimeError, match="same device"):
            wrong(there)  # type: ignore[operator]


def test_arrays_are_of_the_cpu() -> None:
    with away() as device:
        there = torch.arange(3.0).to(device)
        for read in (lambda: there.numpy(), lambda: np.asarray(there)):
            with pytest.raises((RuntimeError, TypeError)):
                read()


def test_numbers_are_kept_and_gradients_are_right() -> None:
    here = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 4))
    x = torch.rand(5, 1, 8, 8)
    expected = torch.autograd.grad(here(x).square().sum(), list(here.parameters()))
    with away() as device:
        here.to(device)
        found = torch.autograd.grad(here(x.to(device)).square().sum(), list(here.parameters()))
        assert {item.device for item in found} == {AWAY}
        assert all(torch.equal(one.cpu(), other) for one, other in zip(found, expected, strict=True))


def test_what_a_gpu_allows_is_allowed() -> None:
    with away() as device:
        there = torch.zeros(3, device=device)
        there[torch.tensor([1])] = 2.0
        there[2] = torch.tensor(5.0)
        part = there[1:]
        part.mul_(torch.tensor(2.0))
        assert there.tolist() == [0.0, 4.0, 10.0]
        assert torch.tensor([4.0], device=device).item() == there[torch.tensor([1])].item() == 4.0
        assert there.view(torch.int32).device == torch.arange(2, device=device).device == AWAY
