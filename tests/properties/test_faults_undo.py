"""Whatever is flipped, flipping it again gives back the very same bits."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from holdfast.execution import Population, Proportion, inject
from holdfast.execution.condition import Flips
from holdfast.execution.injection import flip_rows
from holdfast.faults import BitErrors
from holdfast.models import Site, select
from holdfast.numerics import bits

DTYPES = st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.int8])


@given(dtype=DTYPES, rate=st.sampled_from([0.0, 0.001, 0.1, 1.0]), seed=st.integers(0, 2**64 - 1))
@settings(max_examples=40, deadline=None)
def test_injection_undoes_itself(dtype: torch.dtype, rate: float, seed: int) -> None:
    floating = dtype if dtype.is_floating_point else torch.float32
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)).to(floating).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with inject(model, BitErrors(rate=rate), at="weights,buffers", seed=seed):
        flipped = sum(
            bits.hamming_distance(value, before[name])
            for name, value in model.state_dict().items()
            if value.is_floating_point()
        )
    assert flipped == 0 if rate == 0 else True
    assert flipped == Population(select(model, "weights,buffers")).bits if rate == 1 else True
    assert all(bits.bit_equal(value, before[name]) for name, value in model.state_dict().items())


@given(dtype=DTYPES, data=st.data())
@settings(max_examples=60, deadline=None)
def test_row_flips_touch_only_their_rows(dtype: torch.dtype, data: st.DataObject) -> None:
    batch, sides = data.draw(st.integers(1, 5)), (2, 3, 4)
    width = bits.bit_width(dtype)
    site = Site("activations", "x", sides, str(dtype), width)
    x = torch.zeros(batch, *sides, dtype=dtype)
    if data.draw(st.booleans()):
        x = x.contiguous(memory_format=torch.channels_last)
    layout = x.stride()
    rows = torch.tensor(data.draw(st.lists(st.integers(0, batch - 1), unique=True, min_size=1)))
    index = torch.tensor([data.draw(st.integers(0, site.numel - 1)) for _ in rows])
    mask = bits.one_bit(torch.tensor([data.draw(st.integers(0, width - 1)) for _ in rows]))
    before = x.clone()
    y = flip_rows(x, rows, Flips(site, index, mask))
    changed = (bits.int_view(y.contiguous()) != bits.int_view(before.contiguous())).reshape(batch, -1)
    assert changed.sum(1).tolist() == [int(row in rows) for row in range(batch)]
    assert changed[rows, index].all()
    assert y.stride() == layout
    assert bits.bit_equal(flip_rows(y, rows, Flips(site, index, mask)).contiguous(), before.contiguous())


@given(n=st.integers(1, 10_000), share=st.floats(0, 1), confidence=st.floats(0.5, 0.999))
def test_intervals_hold_their_value(n: int, share: float, confidence: float) -> None:
    k = round(n * share)
    for interval in (Proportion.wilson, Proportion.clopper_pearson):
        found = interval(k, n, confidence)
        mirror = interval(n - k, n, confidence)
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert abs(found.low - (1 - mirror.high)) < 1e-9
        assert found.measurement().n == n
