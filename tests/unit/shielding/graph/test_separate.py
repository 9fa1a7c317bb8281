"""Samples of a batch are strangers to one another: what mixes them is refused at export and when read back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig, UnreadableArtifact
from holdfast.shielding.gateway import Settings, sources
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


@pytest.mark.parametrize("name", ["softmax", "flip", "roll", "range of each"])
def test_the_size_of_inputs_hides_no_mixing(name: str) -> None:
    """Random samples that all encode to the same codes would show nothing."""
    inputs = torch.rand(16, 8) * 1e5
    with pytest.raises(InvalidConfig, match="mixes the samples"):
        export(Mixes(MIXING[name]), inputs[:2], inputs)


def test_a_softmax_over_the_batch_is_refused_though_all_weights_are_a_third() -> None:
    net = Mixes(MIXING["softmax"])
    nn.init.zeros_(net.fc.weight)
    with pytest.raises(InvalidConfig, match="'softmax' mixes the samples"):
        export(net, torch.randn(2, 8), torch.randn(64, 8))


def test_nan_is_nan_alone_and_among_others() -> None:
    """A square root of what is negative for some samples mixes nothing."""

    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return torch.sqrt(self.fc(x))

    net = Root()
    nn.init.constant_(net.fc.weight, 0.1)
    assert first_mixing(export(net, torch.rand(2, 8), torch.rand(16, 8))) is None


def test_a_gateway_looks_at_its_own_sizes_of_batch() -> None:
    """A roll by six is none for batches of two and three."""
    sixth = export(Mixes(lambda y: torch.roll(y, 6, 0)), torch.rand(2, 8), torch.rand(16, 8))
    assert first_mixing(sixth) is None
    settings = Settings(batch=4)
    with pytest.raises(InvalidConfig, match=r"'roll' mixes the samples of batches of up to 4"):
        sources(sixth, settings=settings)
    assert len(sources(sixth, settings=Settings(batch=1))) == 2
    plain = export(nn.Sequential(nn.Linear(8, 8)), torch.rand(2, 8), torch.rand(16, 8))
    assert len(sources(plain, settings=Settings(batch=100))) == 2
    with pytest.raises(InvalidConfig, match="nothing shows that this model keeps the samples of a batch apart"):
        sources(nn.Linear(8, 8), settings=settings)


@pytest.mark.parametrize("name", NETS)
def test_the_networks_of_these_tests_keep_samples_apart(name: str) -> None:
    assert first_mixing(exported(name)[1]) is None


def test_a_stored_graph_that_mixes_is_refused_and_the_step_named() -> None:
    model = export(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), torch.rand(1, 8), torch.rand(16, 8))
    rolled = Step(name="swapped", target="aten.roll.default", args=(Ref(model.output), [1], [0]), operation="roll")
    model.steps, model._spent, model.output = (*model.steps, rolled), (*model._spent, ()), "swapped"
    with pytest.raises(UnreadableArtifact, match="'swapped' mixes the samples"):
        prove(model)
