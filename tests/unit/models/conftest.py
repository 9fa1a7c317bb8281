"""Networks with one awkward habit each."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.models import build_architecture, card


class InPlace(nn.Module):
    """Adds its residual in place, and calls an in-place operation without using what it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        F.relu(y, inplace=True)
        y += x
        return y * 2


class Twice(nn.Module):
    """Calls one module twice, and never calls another."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.idle = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.fc(x))


class Ends(nn.Module):
    """Has a layer called ``output``."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(x)


class Recurrent(nn.Module):
    """Gets a tuple from its LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 5, num_layers=2, batch_first=True)
        self.fc = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.lstm(x)[0][:, -1])


class OwnWeights(nn.Module):
    """Computes on its parameter alone before it meets the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.rand(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x @ torch.softmax(self.table, 0)


@pytest.fixture
def in_place() -> nn.Module:
    return InPlace().eval()


@pytest.fixture
def twice() -> nn.Module:
    return Twice().eval()


@pytest.fixture
def ends() -> nn.Module:
    return Ends().eval()


@pytest.fixture
def recurrent() -> nn.Module:
    return Recurrent().eval()


@pytest.fixture
def own_weights() -> nn.Module:
    return OwnWeights().eval()


@pytest.fixture
def digits_net() -> nn.Module:
    return build_architecture("digits-cnn").eval()


@pytest.fixture(params=["digits-cnn", "cifar-resnet20", "vit-tiny", "lenet"])
def network(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    """Each small architecture with one random sample of its input."""
    model = build_architecture(request.param).eval()
    shape = card(model).input_shape
    return model, torch.rand(shape, generator=torch.Generator().manual_seed(0))
