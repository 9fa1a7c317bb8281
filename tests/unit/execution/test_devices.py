"""Faults on a CUDA device: the same bits as on the CPU, put back to the bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from holdfast.execution import inject
from holdfast.faults import Corruption, StuckAt
from holdfast.models import build_architecture
from holdfast.numerics import bits

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

LAWS = [
    Corruption(where="row", what="random-bits"),
    Corruption(where="channel", what="power-law"),
    Corruption(where="bullet-wake", what="nan"),
    StuckAt(rate=0.2),  # of a few hundred bits, of which half are what they are stuck at
]


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_stored_bits_change_as_on_the_cpu(law: object) -> None:
    model = build_architecture("digits-cnn", seed=0).eval()
    there = copy.deepcopy(model).cuda()
    with inject(model, law, at="weights", seed=3), inject(there, law, at="weights", seed=3):
        for (name, here), other in zip(model.named_parameters(), there.parameters(), strict=True):
            assert bits.bit_equal(here.detach(), other.detach().cpu()), name
    for here, other in zip(model.parameters(), there.parameters(), strict=True):
        assert bits.bit_equal(here.detach(), other.detach().cpu())


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("at", ["inputs", "activations:1", "internals"])
def test_flowing_bits_change_on_the_device(law: object, at: str) -> None:
    model, x = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 2)).eval().cuda(), torch.rand(4, 6).cuda()
    with torch.no_grad():
        clean = model(x)
        with inject(model, law, at=at, example=x[0], seed=1):
            faulty = model(x)
        assert faulty.is_cuda
        assert not bits.bit_equal(faulty, clean)
        assert bits.bit_equal(model(x), clean)
