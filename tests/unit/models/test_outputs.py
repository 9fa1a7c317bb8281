"""Scores put in the place of others, whatever they come in."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from holdfast.models import tap
from holdfast.models.outputs import logits_of
from holdfast.models.tap import ends


class Named(NamedTuple):
    logits: Tensor
    aux: int = 3


@dataclass
class Open:
    logits: Tensor
    aux: int = 3


@dataclass(frozen=True, slots=True)
class Frozen:
    logits: Tensor
    aux: int = 3


class Wrapped(nn.Module):
    def __init__(self, wrap: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.wrap = wrap

    def forward(self, x: Tensor) -> object:
        return self.wrap(x * 2)


@pytest.mark.parametrize("wrap", [Named, Open, Frozen, lambda x: {"logits": x}, lambda x: OrderedDict(out=x, aux=3)])
def test_a_tap_on_the_output_replaces_scores_where_they_are(wrap: Callable[[Tensor], object]) -> None:
    model, x = Wrapped(wrap), torch.ones(2, 3)
    with tap(model, {ends(model)[1]: lambda scores: scores + 1}):
        seen = model(x)
    assert type(seen) is type(model(x))
    assert torch.equal(logits_of(seen), torch.full((2, 3), 3.0))
    assert getattr(seen, "aux", 3) == 3
    assert torch.equal(logits_of(model(x)), torch.full((2, 3), 2.0))
