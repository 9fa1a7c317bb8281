"""Sampling laws are weights over one population; strata cover it once; orders are permutations."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig, UnknownName
from holdfast.execution.sampling import LAWS, Permutation, masses
from holdfast.execution.sampling_draws import StrataDraws
from holdfast.execution.sampling_macs import count_macs
from holdfast.execution.strata import WAYS, bit_classes, stratify
from holdfast.faults import BitFlip
from holdfast.models import Site, build_architecture, sites
from holdfast.seeds import derive

FEW = (
    Site("weights", "a.weight", (4, 3), "fp32", 32),
    Site("weights", "a.bias", (4,), "fp16", 16),
    Site("weights", "b.weight", (2, 2), "int8", 8),
)


def test_the_four_laws() -> None:
    assert masses(FEW, "bit-uniform") == pytest.approx([384 / 480, 64 / 480, 32 / 480])
    assert masses(FEW, "neuron-uniform") == pytest.approx([12 / 20, 4 / 20, 4 / 20])
    assert masses(FEW, "layer-uniform") == pytest.approx([1 / 3] * 3)
    assert masses(FEW, "mac-weighted", {"weights:a.weight": 30, "weights:b.weight": 10}) == [0.75, 0.0, 0.25]
    with pytest.raises(UnknownName, match="layer-unform"):
        masses(FEW, "layer-unform")
    with pytest.raises(InvalidConfig, match="no selected site has any weight"):
        masses(FEW, "mac-weighted")


@pytest.mark.parametrize("size", [1, 2, 7, 1000, 65_599])
def test_an_order_holds_every_number_once(size: int) -> None:
    order = Permutation(size, derive(0, "order"))
    assert sorted(order[place] for place in range(size)) == list(range(size))
    with pytest.raises(InvalidConfig):
        order[size]


def test_large_orders_look_random() -> None:
    order = Permutation(10**12, derive(0, "order"))
    found = np.array([order[place] for place in range(3000)])
    assert len(set(found.tolist())) == 3000
    assert abs(found.mean() / 10**12 - 0.5) < 0.02
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.06
    assert order[5] != Permutation(10**12, derive(1, "order"))[5]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("law", ["bit-uniform", "layer-uniform"])
def test_strata_hold_every_bit_once(way: str, law: str) -> None:
    found = stratify(FEW, masses(FEW, law), way, most=200)
    held = Counter((cell.site.name, bit) for stratum in found for cell in stratum.cells for bit in cell.positions)
    assert held == Counter((site.name, bit) for site in FEW for bit in range(site.bits))
    assert math.fsum(stratum.mass for stratum in found) == pytest.approx(1.0)
    assert sum(stratum.bits for stratum in found) == 480


def test_neighbouring_layers_share_strata_when_there_are_too_many() -> None:
    weights = [site for site in sites(build_architecture("cifar-resnet20")) if site.kind == "weights"]
    found = stratify(weights, masses(weights, "bit-uniform"), "layer-class", most=40)
    assert len(found) == 40
    assert sum(stratum.bits for stratum in found) == 269722 * 32
    assert max(stratum.mass for stratum in found) < 0.2


def test_classes_follow_the_fields_of_the_format() -> None:
    fp32 = bit_classes("fp32", 32)
    assert (fp32[31], fp32[30], fp32[29], fp32[23]) == ("sign", "exponent-high", "exponent-low", "exponent-low")
    assert (fp32[22], fp32[0]) == ("mantissa-high", "mantissa-low")
    assert bit_classes("int8", 8)[7] == "sign"
    assert set(bit_classes("int64", 64)) == {"magnitude-low", "magnitude-high"}  # an integer that is no number format


def test_draws_without_replacement_try_every_case_once() -> None:
    (stratum,) = stratify(FEW, masses(FEW, "bit-uniform"), "none")
    draws = StrataDraws(BitFlip(), [stratum], 3, 7)
    cases = [draws.trial(0, place, place) for place in range(480 * 3)]
    assert len({(trial.address, trial.input) for trial in cases}) == 480 * 3
    again = StrataDraws(BitFlip(), [stratum], 3, 7).trial(0, 99, 5)
    assert (again.address, again.input, again.number) == (cases[99].address, cases[99].input, 5)


def test_uneven_strata_are_drawn_by_the_law() -> None:
    (stratum,) = stratify(FEW, masses(FEW, "layer-uniform"), "none")
    assert not stratum.even
    draws = StrataDraws(BitFlip(), [stratum], 3, 0)
    seen = Counter(draws.trial(0, place, place).address[0] for place in range(1500))
    assert all(abs(count / 1500 - 1 / 3) < 0.05 for count in seen.values())


def test_multiply_accumulates_of_a_net(digits: Dataset) -> None:
    model = build_architecture("cifar-resnet20").eval()
    example = torch.zeros(3, 32, 32)
    known = sites(model, example)
    found = count_macs(model, example, known)
    assert sum(count for site, count in found.items() if site.startswith("activations:")) == 40_551_040
    assert found["weights:conv1.weight"] == 32 * 32 * 16 * 27 == found["activations:conv1"]
    assert "weights:layer1.0.bn1.weight" not in found


def test_matrix_products_inside_a_block_count(digits: Dataset) -> None:
    model, example = build_architecture("vit-tiny").eval(), torch.zeros(3, 32, 32)
    found = count_macs(model, example, sites(model, example))
    assert found["activations:blocks.0.attn/matmul"] > 0
    assert found["weights:blocks.0.attn.qkv.weight"] == found["activations:blocks.0.attn.qkv"]
    with pytest.raises(InvalidConfig, match="no multiply-accumulate"):
        count_macs(nn.ReLU(), example, ())


def test_laws_are_the_ones_documented() -> None:
    assert list(LAWS) == ["bit-uniform", "layer-uniform", "neuron-uniform", "mac-weighted"]
