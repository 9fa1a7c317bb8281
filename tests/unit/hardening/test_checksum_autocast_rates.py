"""How often checksums inside ``torch.autocast`` raise a false alarm, and how often they miss what matters."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.execution.statistics import Proportion
from holdfast.hardening import harden, methods
from holdfast.models import card, tap
from holdfast.numerics import bits
from holdfast.seeds import derive
from tests.unit.hardening.products import NARROW, alarmed, everything, images


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def clean_rows(model: nn.Module, dtype: torch.dtype, passes: int) -> int:
    """Return how many rows were checked in clean passes, none of which may raise an alarm."""
    draw, plain, rows = derive(2, "clean", str(dtype)).torch(), copy.deepcopy(model), 0
    card(plain).guards = []
    each = 8 * (16 + 7 + 1 + 49 + 49 + 49 + 49 + 1)  # lines of three convolutions, rows of five products
    with torch.autocast("cpu", dtype):
        for number in range(passes):
            x = images(number, draw)
            assert torch.equal(model(x), plain(x))
            assert not any(alarmed(model).values()), (number, alarmed(model))
            rows += each
    return rows


@pytest.mark.parametrize("dtype", NARROW)
def test_clean_passes_raise_no_alarm_and_keep_their_bits(dtype: torch.dtype) -> None:
    model = everything()
    assert len(card(model).guards) == 8
    assert clean_rows(model, dtype, 25) > 40_000
    clean_rows(everything("correct"), dtype, 5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", NARROW)
def test_the_rate_of_false_alarms_is_below_one_in_a_million_rows(dtype: torch.dtype) -> None:
    share = Proportion.clopper_pearson(0, clean_rows(everything(), dtype, 2200))
    assert share.high < 1e-6


def flips(model: nn.Module, sites: tuple[str, ...], x: Tensor, trials: int, dtype: torch.dtype) -> Proportion:
    """Return the share of harmful single flips in narrow outputs, and in fp32 weights, that raise an alarm."""
    draw = derive(4, "flips", str(dtype)).torch()
    harmful = found = 0
    golden = model(x).argmax(1)
    for trial in range(trials):
        site = sites[trial % len(sites)]
        place, bit = torch.randint(0, 2**31, (2,), generator=draw).split(1)
        if trial // len(sites) % 2:

            def hit(output: Tensor, place: Tensor = place, bit: Tensor = bit) -> Tensor:
                bits.xor_(output, place % output.numel(), bits.one_bit(bit % 16))
                return output

            with tap(model, {site: hit}):
                wrong = model(x)
        else:
            weight = model.get_submodule(site).weight.detach()
            torch.clear_autocast_cache()
            bits.xor_(weight, place % weight.numel(), bits.one_bit(bit % 32))
            wrong = model(x)
            bits.xor_(weight, place % weight.numel(), bits.one_bit(bit % 32))
            torch.clear_autocast_cache()
        if not torch.equal(wrong.argmax(1), golden) or not wrong.isfinite().all():
            harmful += 1
            found += any(alarmed(model).values())
    return Proportion.clopper_pearson(found, harmful)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", NARROW)
def test_flips_that_change_an_answer_are_found(trained: nn.Module, digits: Dataset, dtype: torch.dtype) -> None:
    model = harden(trained, methods.build("checksum:action=detect").calibrated(trained, digits))
    x = digits.batch(torch.arange(64))[0]
    with torch.autocast("cpu", dtype):
        share = flips(model, ("conv1", "conv2", "conv3", "fc"), x, 4000, dtype)
    assert share.value > 0.99
    assert share.low > 0.98
