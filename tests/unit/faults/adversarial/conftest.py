"""A tiny trained net, the digits it has not seen, and the same net as 8-bit codes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from holdfast.data import Dataset, dataset
from holdfast.models import build_architecture
from holdfast.quantization import quantize


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return dataset("digits", split="test")


@pytest.fixture(scope="session")
def trained() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = build_architecture("digits-cnn:channels=8", seed=0)
    images, labels = dataset("digits", split="train").all()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    model.train()
    for _ in range(100):
        pick = torch.randperm(len(labels), generator=generator)[:256]
        loss = nn.functional.cross_entropy(model(images[pick]), labels[pick])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="session")
def int8(trained: nn.Module) -> nn.Module:
    """Stored as int8 codes; a test that leaves a flip behind breaks the next one."""
    return quantize(trained, "int8")
