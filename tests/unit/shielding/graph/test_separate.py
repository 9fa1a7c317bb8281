"""Samples of a batch are strangers to one another: what mixes them is refused at export and when read back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig, UnreadableArtifact
from holdfast.shielding.graph import export
from holdfast.shielding.graph.program import Ref, Step
from holdfast.shielding.graph.proving import prove
from holdfast.shielding.graph.separate import first_mixing
from tests.unit.shielding.graph.nets import NETS
from tests.unit.shielding.graph.test_export import exported

MIXING: dict[str, Callable[[Tensor], Tensor]] = {
    "roll": lambda y: torch.roll(y, 1, 0),
    "roll flat": lambda y: torch.roll(y, 1),
    "flip": lambda y: torch.flip(y, [0]),
    "first of all": lambda y: y + y[:1],
    "range of each": lambda y: y - y.amax(0),
    "range of all": lambda y: y - y.amax(),
    "mean": lambda y: y - y.mean(0),
    "softmax": lambda y: torch.softmax(y, 0),
    "product with itself": lambda y: (y @ y.T)[:, :1] + y,
    "gather": lambda y: torch.gather(y, 0, torch.zeros_like(y).long()),
    "index": lambda y: y[torch.zeros(y.shape[0], dtype=torch.long)],
    "reshape": lambda y: torch.roll(y.reshape(-1), 8).reshape(-1, 8),
    "transposed": lambda y: y.t().flip(1).t(),
}


class Mixes(nn.Module):
    def __init__(self, mix: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc, self.mix = nn.Linear(8, 8), mix

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.fc(x))


@pytest.mark.parametrize("name", MIXING)
def test_a_model_that_mixes_samples_is_not_exported(name: str) -> None:
    with pytest.raises(InvalidConfig, match=r"mixes the samples|no exact form|one size only|not exported"):
        export(Mixes(MIXING[name]), torch.rand(1, 8), torch.rand(16, 8))


@pytest.mark.parametrize("name", NETS)
def test_the_networks_of_these_tests_keep_samples_apart(name: str) -> None:
    assert first_mixing(exported(name)[1]) is None


def test_a_stored_graph_that_mixes_is_refused_and_the_step_named() -> None:
    model = export(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), torch.rand(1, 8), torch.rand(16, 8))
    rolled = Step(name="swapped", target="aten.roll.default", args=(Ref(model.output), [1], [0]), operation="roll")
    model.steps, model._spent, model.output = (*model.steps, rolled), (*model._spent, ()), "swapped"
    with pytest.raises(UnreadableArtifact, match="'swapped' mixes the samples"):
        prove(model)
