"""Populations, and a tiny trained net, shared by the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from holdfast.data import dataset
from holdfast.execution import Population
from holdfast.execution.condition import Fault
from holdfast.faults.addresses import addresses_of
from holdfast.models import build_architecture
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
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_architecture("digits-cnn:channels=8")
    images, labels = dataset("digits", split="train").all()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    model.train()
    for _ in range(30):
        pick = torch.randperm(len(labels), generator=generator)[:256]
        loss = nn.functional.cross_entropy(model(images[pick]), labels[pick])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()
