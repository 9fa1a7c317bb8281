"""A tiny trained net, the digits it has not seen, and the same net as 8-bit codes."""

from __future__ import annotations

import pytest
from tests.nets import trained_digits
from torch import nn

from holdfast.data import Dataset, dataset
from holdfast.quantization import quantize


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return dataset("digits", split="test")


@pytest.fixture(scope="session")
def trained() -> nn.Module:
    return trained_digits()


@pytest.fixture(scope="session")
def int8(trained: nn.Module) -> nn.Module:
    """Stored as int8 codes; a test that leaves a flip behind breaks the next one."""
    return quantize(trained, "int8")
