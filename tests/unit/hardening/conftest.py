"""A tiny trained net and the digits it was trained on, shared by the tests of this folder."""

from __future__ import annotations

import pytest
from torch import nn

from holdfast.data import Dataset, dataset
from tests.nets import trained_digits


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return dataset("digits", split="test")


@pytest.fixture(scope="session")
def trained() -> nn.Module:
    return trained_digits()
