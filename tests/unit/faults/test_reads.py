"""Errors of a read come and go; weak cells stay."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from holdfast.errors import InvalidConfig
from holdfast.execution import Population, inject
from holdfast.faults import BitErrors, IntermittentErrors, TransientErrors
from holdfast.models import select, stored
from holdfast.seeds import derive

Draw = Callable[..., np.ndarray]
ALPHA = 1e-4


def contents(model: nn.Module) -> list[torch.Tensor]:
    return [stored(model, site).codes.clone() for site in select(model, "weights")]


def reads(model: nn.Module, law: object, count: int) -> list[list[torch.Tensor]]:
    """Return what the first module saw stored in each of ``count`` forward passes."""
    seen: list[list[torch.Tensor]] = []
    hook = next(model.children()).register_forward_pre_hook(lambda *_: seen.append(contents(model)))
    with inject(model, law, seed=4), torch.no_grad():  # type: ignore[arg-type]
        for _ in range(count):
            model(torch.zeros(1, 1, 8, 8))
    hook.remove()
    return seen


def different(one: list[torch.Tensor], other: list[torch.Tensor]) -> set[tuple[int, int]]:
    return {
        (site, int(index))
        for site, (a, b) in enumerate(zip(one, other, strict=True))
        for index in (a != b).flatten().nonzero()
    }


def test_transient_errors_are_bit_errors_of_one_read(memory: Population, draw: Draw) -> None:
    found = draw(TransientErrors(rate=0.003), memory, 1)
    assert stats.binomtest(len(found), memory.bits, 0.003).pvalue > ALPHA
    assert np.array_equal(found, draw(BitErrors(rate=0.003), memory, 1))
    assert TransientErrors.each_read


def test_every_pass_reads_other_errors_and_the_store_is_right_again(trained: nn.Module) -> None:
    before = contents(trained)
    first, second = (different(before, seen) for seen in reads(trained, TransientErrors(rate=1e-3), 2))
    assert first
    assert second
    assert len(first & second) < len(first) / 4
    assert not different(before, contents(trained))


def test_weak_cells_err_in_some_reads_and_are_the_same_cells(trained: nn.Module) -> None:
    before = contents(trained)
    passes = [different(before, seen) for seen in reads(trained, IntermittentErrors(rate=2e-3, share=0.5), 12)]
    ever = set.union(*passes)
    total = sum(site.population for site in select(trained, "weights"))
    assert len(ever) < 4 * 2e-3 * total  # twelve reads of independent errors would meet far more places
    assert sum(map(len, passes)) / 12 / len(ever) == pytest.approx(0.5, abs=0.06)
    assert len(set(map(frozenset, passes))) == 12
    assert not different(before, contents(trained))


def test_a_share_of_one_never_forgets(memory: Population, draw: Draw) -> None:
    law = IntermittentErrors(rate=0.001, share=1.0).on_chip(derive(7))
    chip = draw(BitErrors(rate=0.001), memory, 7)
    assert np.array_equal(draw(law, memory, 1), chip)
    assert np.array_equal(draw(law, memory, 2), chip)


@pytest.mark.parametrize(("rate", "share", "transient"), [(0.02, 0.3, 0.001), (0.0, 0.5, 0.01), (0.3, 0.9, 0.2)])
def test_the_rate_of_one_read(rate: float, share: float, transient: float, memory: Population, draw: Draw) -> None:
    found = draw(IntermittentErrors(rate=rate, share=share, transient=transient), memory, 8)
    expected = 1 - (1 - rate * share) * (1 - transient)
    assert stats.binomtest(len(found), memory.bits, expected).pvalue > ALPHA


def test_a_site_does_not_depend_on_the_others(memory: Population) -> None:
    law = IntermittentErrors(rate=0.01, share=0.5, transient=0.001)
    everything = {item.site: item for item in law.flips(memory, derive(9))}
    for item in law.flips(Population(memory.sites[2:]), derive(9)):
        assert torch.equal(item.mask, everything[item.site].mask)


@pytest.mark.parametrize("field", ["rate", "share", "transient"])
@pytest.mark.parametrize("value", [-1e-9, 2, float("nan")])
def test_bad_rates(field: str, value: float) -> None:
    with pytest.raises(InvalidConfig, match="between 0 and 1"):
        IntermittentErrors(**({"rate": 0.1} | {field: value}))
