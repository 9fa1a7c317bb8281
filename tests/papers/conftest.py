"""One small net, trained on the handwritten digits, that the papers' claims are tried on."""

from __future__ import annotations

import pytest
from torch import nn

from holdfast.data import Dataset, dataset
from tests.nets import trained_digits


@pytest.fixture(scope="session")
def trained() -> nn.Module:
    return trained_digits()


@pytest.fixture(scope="session")
def train() -> Dataset:
    return dataset("digits", split="train")


@pytest.fixture(scope="session")
def test() -> Dataset:
    return dataset("digits", split="test")
