"""Summation trees are read off outputs alone, and replaying them gives the kernel's own bits."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from holdfast.errors import InvalidConfig, UnknownName
from holdfast.identification.order import OrderTree, summation_tree
from holdfast.identification.order_kernels import (
    ORDER_KERNELS,
    OrderKernel,
    accumulator,
    order_signature,
    order_signatures,
)
from holdfast.identification.order_replay import fma, replay
from holdfast.identification.order_text import describe_order
from holdfast.seeds import derive


def random_tree(n: int, seed: int, arity: int) -> OrderTree:
    """A tree that joins random parts until one is left."""
    generator = derive(seed, "tree").numpy()
    roots, nodes = list(range(n)), []
    while len(roots) > 1:
        count = int(generator.integers(2, min(arity, len(roots)) + 1))
        picked = [roots.pop(int(generator.integers(len(roots)))) for _ in range(count)]
        nodes.append(picked)
        roots.append(n + len(nodes) - 1)
    return OrderTree.of(n, nodes)


def kernel_of(tree: OrderTree, dtype=np.float32, store=np.float32):
    """A black box that sums products along a tree; nodes of more than two addends are fixed point."""

    def call(a, b):
        values = list((a.double() * b.double()).numpy().astype(dtype).T)
        for children in tree.nodes:
            parts = [values[child] for child in children]
            values.append(parts[0] + parts[1] if len(parts) == 2 else aligned(parts).astype(dtype))
        return torch.from_numpy(values[-1].astype(store))

    return call


def aligned(parts):
    """A sum in fixed point: addends are cut at 24 bits below the largest, as matrix engines do."""
    parts = np.stack(parts).astype(np.float64)
    spacing = 2.0 ** (np.frexp(np.abs(parts).max(0))[1] - 24.0)
    return (np.trunc(parts / spacing) * spacing).sum(0)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("n", [1, 2, 3, 7, 33])
def test_any_tree_of_pairs_is_found_exactly(n: int, seed: int) -> None:
    tree = random_tree(n, seed, arity=2)
    assert summation_tree(kernel_of(tree), n) == tree


@pytest.mark.parametrize("seed", range(8))
def test_trees_with_fused_steps_are_found_exactly(seed: int) -> None:
    tree = random_tree(40, seed, arity=5)
    assert tree.arity > 2
    assert summation_tree(kernel_of(tree), 40) == tree


def test_more_addends_than_the_output_can_count_are_counted_in_portions() -> None:
    nodes = [(0, 1), *((600 + k, k + 2) for k in range(598))]
    chain = OrderTree.of(600, nodes)

    def call(a, b):  # fp32 sums, stored as bf16, which cannot tell 512 from 513
        return kernel_of(chain)(a, b).to(torch.bfloat16)

    assert summation_tree(call, 600, dtype=torch.bfloat16) == chain


def test_chains_take_few_probes_in_both_directions() -> None:
    for order in (range(256), range(255, -1, -1)):
        order = list(order)
        tree = OrderTree.of(256, [(order[0], order[1]), *((256 + k, order[k + 2]) for k in range(254))])
        probes = []

        def counted(a, b, tree=tree, probes=probes):
            probes.append(len(a))
            return kernel_of(tree)(a, b)

        assert summation_tree(counted, 256) == tree
        assert sum(probes) < 4 * 256  # 510 of them check the result; all pairs would be 32,640


def test_equal_trees_are_equal_however_they_are_written() -> None:
    one, two = OrderTree.of(4, [(0, 1), (2, 3), (4, 5)]), OrderTree.of(4, [(3, 2), (1, 0), (4, 5)])
    assert one == two
    assert one.digest == two.digest
    other = OrderTree.of(4, [(0, 2), (1, 3), (4, 5)])
    assert describe_order(one) == "pairs 2 of (chain 2 step 1)"
    assert one.digest != other.digest
    assert (one.depth, one.arity) == (2, 2)


@pytest.mark.parametrize("nodes", [[], [(0, 1)], [(0, 1), (0, 3)], [(0,), (1, 3), (2, 4)], [(0, 4), (1, 2)]])
def test_what_is_no_tree_is_refused(nodes) -> None:
    with pytest.raises(InvalidConfig):
        OrderTree.of(3, nodes)


def test_an_order_that_changes_and_compensated_sums_are_refused() -> None:
    calls = iter(range(10**6))

    def shifting(a, b):
        return kernel_of(random_tree(32, next(calls), arity=2))(a, b)

    with pytest.raises(InvalidConfig, match=r"fixed order|no fixed"):
        summation_tree(shifting, 32)
    with pytest.raises(InvalidConfig, match="no fixed order"):
        summation_tree(lambda a, b: (a.double() * b.double() * 1.3).sum(-1), 8)
    with pytest.raises(InvalidConfig, match="no probes"):
        summation_tree(kernel_of(random_tree(4, 0, 2)), 4, dtype=torch.int8)


@pytest.mark.parametrize("name", sorted(ORDER_KERNELS))
def test_replayed_trees_give_the_bits_of_the_kernel(name: str) -> None:
    kernel, n = ORDER_KERNELS[name], 256
    found = order_signature(kernel, n)
    if found.tree.arity > 2:
        pytest.skip(f"{name} adds more than two at a step here")
    generator = derive(0, "held-out", name).torch()
    a, b = (torch.randn(40, n, generator=generator).to(kernel.dtype) for _ in range(2))
    predicted = replay(found.tree, a, b, fused=found.accumulator.fused).to(kernel.dtype)
    assert torch.equal(predicted, kernel.call(a, b))
    shuffled = derive(0, "chance").numpy().permutation(n).tolist()
    chance = replay(found.tree, a[:, shuffled], b[:, shuffled], fused=found.accumulator.fused).to(kernel.dtype)
    if kernel.dtype == torch.float32:
        assert float((chance == kernel.call(a, b)).double().mean()) < 0.75


def test_rounding_of_simulated_accumulators_is_told() -> None:
    tree = random_tree(16, 0, arity=2)
    plain = kernel_of(tree)
    assert accumulator(plain, tree).fused is False
    assert accumulator(plain, tree).bits == 24
    wide = accumulator(kernel_of(tree, np.float64, np.float64), tree)
    assert (wide.bits, wide.fused) == (53, True)
    narrow = accumulator(lambda a, b: plain(a.bfloat16().float(), b.bfloat16().float()), tree)
    assert narrow.keeps_inputs is False


def test_an_accumulator_that_cuts_is_told_from_one_that_rounds() -> None:
    tree = OrderTree.of(3, [(0, 1), (2, 3)])

    def cut(values):
        wide = values.astype(np.float64)
        near = wide.astype(np.float32)
        down = np.nextafter(near, np.float32(0))
        return np.where(np.abs(near) > np.abs(wide), down, near)

    def call(a, b):
        x = (a.double() * b.double()).numpy()
        return torch.from_numpy(cut(cut(x[:, 0] + x[:, 1]).astype(np.float64) + x[:, 2]))

    assert accumulator(call, tree).truncates is True
    assert accumulator(kernel_of(tree), tree).truncates is False


def test_one_rounding_is_exact_where_two_are_not() -> None:
    from fractions import Fraction

    generator = derive(0, "fma").numpy()
    a, b, c = (generator.standard_normal(20_000).astype(np.float32) for _ in range(3))
    c = c * np.float32(2.0) ** generator.integers(-30, 30, c.shape).astype(np.float32)
    product = a.astype(np.float64) * b.astype(np.float64)
    got = fma(product, c)
    for k in range(0, 20_000, 37):
        exact = Fraction(float(product[k])) + Fraction(float(c[k]))
        away = [
            abs(Fraction(float(near)) - exact) for near in (np.nextafter(got[k], -np.inf), np.nextafter(got[k], np.inf))
        ]
        assert abs(Fraction(float(got[k])) - exact) <= min(away)
    tie = fma(np.array([2.0**-24 + 2.0**-60]), np.array([1.0], dtype=np.float32))
    assert tie[0] == np.float32(1 + 2.0**-23)  # rounding twice gives 1


@pytest.mark.slow
def test_a_setting_of_the_kernels_shows_in_a_fresh_process() -> None:
    program = (
        "from holdfast.identification.order_kernels import order_signatures\n"
        "print(order_signatures(['numpy-dot'], 256)['numpy-dot'].tree.digest)"
    )

    def digest(**setting: str) -> str:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)} | setting
        return subprocess.run(
            [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
        ).stdout.strip()

    here = order_signatures(["numpy-dot"], 256)["numpy-dot"].tree.digest
    assert digest() == here
    if "openblas" not in str(np.show_config(mode="dicts")):
        pytest.skip("numpy runs on another BLAS here, which has no such setting")
    assert digest(OPENBLAS_CORETYPE="Nehalem") != here


def test_an_unknown_kernel_is_named_with_its_neighbours() -> None:
    with pytest.raises(UnknownName) as caught:
        order_signatures(["torch-sun"], 8)
    assert "torch-sum" in caught.value.hint
    two = OrderKernel("two", kernel_of(random_tree(2, 0, 2)))
    with pytest.raises(InvalidConfig, match="three addends"):
        order_signature(two, 2)
