"""TSQP's monitor, its bypass, and Freivalds on the same lies."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.shielding.fingerprint import TOP, Monitor, Nearest, OutOfRange, Subspace, duel
from holdfast.shielding.integer import IntegerLayer

from .theft.victims import case


@functools.cache
def inner() -> tuple[IntegerLayer, Tensor]:
    """Return the second convolution of the digits victim, and its codes on unseen images."""
    layer = case().deployed.get_submodule("conv2")
    assert isinstance(layer, IntegerLayer)
    taken: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, args: taken.append(args[0]))
    case().deployed(case().test.take(200).all()[0])
    handle.remove()
    return layer, layer.encode(taken[0])


def test_probes_are_sums_whose_answers_are_known() -> None:
    layer, generator = inner()[0], np.random.default_rng(0)
    monitor = Monitor(layer, generator, pool=8)
    probe = monitor.probe(generator)
    pairs = [a + b for k, a in enumerate(monitor.fingerprints) for b in monitor.fingerprints[k + 1 :]]
    assert any(torch.equal(probe.message, pair) for pair in pairs)
    true = torch.nn.functional.conv2d(probe.message[None].double(), layer.codes.double(), padding=1)[0]
    assert torch.equal(probe.expected.double(), true)
    assert monitor.accepts(probe, probe.expected)
    assert not monitor.accepts(
        probe, probe.expected + torch.nn.functional.one_hot(torch.tensor(0), probe.expected.shape[-1])
    )


def test_probes_have_the_law_of_the_release_and_real_codes_do_not() -> None:
    """Specification 2.5: 8.7 % of a probe's codes are no code of a real input."""
    layer, queries = inner()
    generator = np.random.default_rng(1)
    drawn = torch.stack([Monitor(layer, generator, pool=2).probe(generator).message for _ in range(100)])
    outside = ((drawn < 0) | (drawn > TOP)).double().mean()
    assert float(outside) == pytest.approx(0.087, abs=0.015)
    assert float(drawn.double().mean()) == pytest.approx(TOP / 2, abs=1.5)
    assert float(drawn.double().std()) == pytest.approx(math.sqrt((127**2 - 1) / 12), rel=0.03)
    assert int((queries < 0).sum()) == 0  # after a ReLU


@pytest.mark.parametrize("distinguisher", [OutOfRange(), Subspace()], ids=["out-of-range", "subspace"])
def test_a_worker_that_tells_probes_apart_lies_unnoticed_and_freivalds_notices_every_lie(
    distinguisher: OutOfRange | Subspace,
) -> None:
    layer, queries = inner()
    found = duel(layer, queries, distinguisher, sessions=3)
    assert found.told_apart.value > 0.999
    assert found.lies == 3 * len(queries)
    assert found.probes.value == 0.0
    assert found.freivalds.value == 1.0
    assert found.honest.value == 1.0


def test_a_small_pool_is_seen_by_its_neighbours() -> None:
    """Without a look at ranges or ranks: specification 2.5 has 88.8 % at a pool of 16 and 400 messages."""
    layer, queries = inner()
    found = duel(layer, queries, Nearest(), sessions=3, pool=16)
    assert found.told_apart.low > 0.85
    assert found.freivalds.value == 1.0


def test_sums_that_are_fresh_combinations_still_lie_in_the_span() -> None:
    layer, queries = inner()
    assert duel(layer, queries, Subspace(), sessions=2, combine="combination").probes.value == 0.0
    assert duel(layer, queries, Nearest(), sessions=2, combine="combination").told_apart.value < 0.95


def test_a_clumsy_worker_is_noticed_after_a_lie_or_two() -> None:
    layer, queries = inner()
    found = duel(layer, queries[:50], None, sessions=100)
    assert found.probes.value == 1.0
    assert found.before.low < 50 / 51 < found.before.high  # of 50 queries before the first of 50 probes, on average
    assert found.before.high < 1.5
    assert found.freivalds.value == 1.0


def test_a_pool_is_hidden_until_more_probes_than_dimensions_are_seen() -> None:
    generator = np.random.default_rng(2)
    monitor = Monitor(inner()[0], generator, pool=30, combine="combination")
    few = torch.stack([monitor.probe(generator).message for _ in range(20)])
    many = torch.stack([monitor.probe(generator).message for _ in range(40)])
    assert not bool(Subspace().suspects(few).any())
    assert bool(Subspace().suspects(many).all())


def test_what_cannot_be_measured_is_refused() -> None:
    layer, queries = inner()
    with pytest.raises(InvalidConfig, match="depend on each other anyway"):
        Subspace().suspects(torch.ones(20, 10, dtype=torch.int32))
    with pytest.raises(InvalidConfig, match="a share of probes"):
        duel(layer, queries, None, share=1.0)
    with pytest.raises(InvalidConfig, match="two fingerprints"):
        Monitor(layer, np.random.default_rng(0), pool=1)
