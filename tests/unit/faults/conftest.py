"""Populations, and a tiny trained net, shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tests.nets import trained_digits
from torch import nn

from holdfast.execution import Population
from holdfast.execution.condition import Fault
from holdfast.faults.addresses import addresses_of
from holdfast.models.site import Site
from holdfast.seeds import derive

Draw = Callable[..., np.ndarray]


@pytest.fixture(scope="session")
def memory() -> Population:
    """Two million bits of three sites, one of them of five-bit elements."""
    return Population(
        (
            Site("weights", "first", (100_000,), "int8", 8),
            Site("weights", "second", (40_000,), "rquant5", 5),
            Site("buffers", "third", (31_250,), "fp32", 32),
        )
    )


@pytest.fixture(scope="session")
def draw() -> Draw:
    """Return ``draw(fault, population, seed)``: the addresses of one column, ascending."""

    def addresses(fault: Fault, population: Population, seed: int = 0, column: str = "mask") -> np.ndarray:
        return addresses_of(population, fault.flips(population, derive(seed)))[column]

    return addresses


@pytest.fixture(scope="session")
def trained() -> nn.Module:
    return trained_digits(steps=30)
