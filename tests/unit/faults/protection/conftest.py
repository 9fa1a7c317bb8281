"""Small memories, and their readings one whole word at a time in plain Python integers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from holdfast.execution.condition import Population
from holdfast.models.site import Site
from holdfast.seeds import derive

Memory = Callable[..., tuple[Population, Tensor]]


@pytest.fixture
def memory() -> Memory:
    """Return (population, codes) of one int8 site with random codes within ``low`` .. ``high``."""

    def make(numel: int, *, low: int = -128, high: int = 127, name: str = "w") -> tuple[Population, Tensor]:
        site = Site("weights", name, (numel,), "int8", 8)
        codes = torch.randint(low, high + 1, (numel,), generator=derive(0, "codes").torch(), dtype=torch.int8)
        return Population((site,), lambda _: codes), codes

    return make
