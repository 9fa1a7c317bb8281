from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig, NoSuchSite
from holdfast.execution import Flips, Population, inject
from holdfast.execution.injection import applied, population_of
from holdfast.faults import BitErrors, BitFlip
from holdfast.models import Site, select, sites
from holdfast.numerics import bits
from holdfast.seeds import Seed, derive


def bytes_of(model: nn.Module) -> dict[str, bytes]:
    return {key: value.numpy().tobytes() for key, value in model.state_dict().items()}


def test_stored_faults_are_undone_to_the_bit(trained: nn.Module) -> None:
    before = bytes_of(trained)
    with inject(trained, BitErrors(rate=0.05), at="weights,buffers", seed=3) as faulty:
        assert faulty is trained
        assert bytes_of(trained) != before
    assert bytes_of(trained) == before


def test_undone_after_an_exception(trained: nn.Module) -> None:
    before = bytes_of(trained)
    with pytest.raises(RuntimeError), inject(trained, BitFlip(), seed=1):
        raise RuntimeError
    assert bytes_of(trained) == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in trained.modules())


def test_a_seed_is_a_chip(trained: nn.Module) -> None:
    def broken(seed: int) -> dict[str, bytes]:
        with inject(trained, BitFlip(), seed=seed):
            return bytes_of(trained)

    assert broken(5) == broken(5)
    assert broken(5) != broken(6)


def flip_at(model: nn.Module, site_name: str, example: Tensor, bit: int = 31) -> Flips:
    site = next(site for site in sites(model, example) if site.name == site_name)
    return Flips(site, torch.tensor([site.numel - 1]), bits.one_bit(torch.tensor([bit])))


@pytest.mark.parametrize("name", ["conv1", "relu#1", "/add", "/mean", "fc"])
def test_flowing_faults_change_one_element_of_every_sample(trained: nn.Module, digits: Dataset, name: str) -> None:
    from holdfast.models import tap

    images, _ = digits.batch(torch.arange(4))
    flips = flip_at(trained, name, digits.example)
    seen: list[Tensor] = []

    def keep(output: Tensor) -> Tensor:
        seen.append(output.clone())
        return output

    with torch.no_grad():
        with tap(trained, {name: keep}):
            trained(images)
        with applied(trained, [flips]), tap(trained, {name: keep}):
            trained(images)
    differs = bits.int_view(seen[0]) != bits.int_view(seen[1])
    assert differs.flatten(1).sum(1).tolist() == [1, 1, 1, 1]
    assert differs.flatten(1)[:, -1].all()
    assert torch.equal(seen[0].flatten(1)[:, -1], -seen[1].flatten(1)[:, -1])  # bit 31 is the sign


def test_the_callers_input_is_left_alone(trained: nn.Module, digits: Dataset) -> None:
    images, _ = digits.batch(torch.arange(2))
    before = images.clone()
    with torch.no_grad(), applied(trained, [flip_at(trained, "input", digits.example, bit=30)]):
        faulty = trained(images)
    assert bits.bit_equal(images, before)
    assert not bits.bit_equal(faulty, trained(images).detach())


def test_memory_layout_survives_a_flip(trained: nn.Module, digits: Dataset) -> None:
    model = copy.deepcopy(trained).to(memory_format=torch.channels_last)
    images = digits.batch(torch.arange(4))[0].contiguous(memory_format=torch.channels_last)
    nothing = Flips(flip_at(model, "conv2", digits.example).site, torch.tensor([0]), torch.tensor([0]))
    with torch.no_grad():
        clean = model(images)
        with applied(model, [nothing]):
            tapped = model(images)
    assert bits.bit_equal(clean, tapped)


def test_every_bit_has_one_address(trained: nn.Module) -> None:
    population = Population(select(trained, "weights"))
    assert population.bits == 32 * sum(value.numel() for value in trained.parameters())
    found = [population.locate(address) for address in range(0, population.bits, 997)]
    starts = {}
    total = 0
    for site in population.sites:
        starts[site] = total
        total += site.population
    assert [starts[site] + element * site.bits + bit for site, element, bit in found] == list(
        range(0, population.bits, 997)
    )
    with pytest.raises(InvalidConfig):
        population.locate(population.bits)


def test_bit_flips_hit_sites_in_proportion_to_their_bits(trained: nn.Module) -> None:
    population = Population(select(trained, "weights"))
    hits = [BitFlip().flips(population, derive(0, number))[0].site.name for number in range(2000)]
    largest = max(population.sites, key=lambda site: site.population)
    expected = largest.population / population.bits
    assert abs(hits.count(largest.name) / 2000 - expected) < 4 * (expected * (1 - expected) / 2000) ** 0.5


def test_unknown_places_are_named(trained: nn.Module, digits: Dataset) -> None:
    with pytest.raises(NoSuchSite), inject(trained, BitFlip(), at="weights:conv9*"):
        pass
    with pytest.raises(InvalidConfig), inject(trained, BitFlip(), at="activations"):
        pass


@dataclass(frozen=True)
class ReadErrors:
    """Transient errors for the tests: each forward pass reads its own wrong bits."""

    rate: float = 1e-3
    each_read = True

    def flips(self, population: Population, seed: Seed) -> Sequence[Flips]:
        return BitErrors(rate=self.rate).flips(population, seed)


@pytest.mark.parametrize("at", ["weights", "activations:relu#1", "weights,activations:relu#1"])
def test_a_fault_of_each_read_differs_from_pass_to_pass(trained: nn.Module, digits: Dataset, at: str) -> None:
    images, _ = digits.batch(torch.arange(4))
    before = bytes_of(trained)
    with torch.no_grad():
        clean = trained(images)
        with inject(trained, ReadErrors(), at=at, seed=3, example=digits.example):
            first, second = (trained(images).view(torch.int32) for _ in range(2))  # bits: a NaN equals itself
            assert bytes_of(trained) == before  # nothing stays between two reads
        with inject(trained, ReadErrors(), at=at, seed=3, example=digits.example):
            again = trained(images).view(torch.int32)
        after = trained(images)
    assert not torch.equal(first, clean.view(torch.int32))
    assert not torch.equal(first, second)
    assert torch.equal(first, again)  # the n-th read under one seed is always the same
    assert torch.equal(after, clean)


def test_a_fault_of_each_read_leaves_nothing_after_a_pass_that_failed(trained: nn.Module, digits: Dataset) -> None:
    before = bytes_of(trained)
    with torch.no_grad(), inject(trained, ReadErrors(), at="weights", seed=3):
        with pytest.raises(RuntimeError):
            trained(torch.zeros(1, 7))
        assert bytes_of(trained) == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in trained.modules())


def test_a_population_of_a_model_reads_its_codes(trained: nn.Module) -> None:
    population = population_of(trained, "weights", None)
    site = population.sites[0]
    expected = dict(trained.named_parameters())[site.name].detach().view(torch.int32).flatten()
    assert torch.equal(population.codes(site).to(torch.int32), expected)
    assert population.starts[:2] == (0, site.population)
    assert [population.locate(start)[0] for start in population.starts] == list(population.sites)
    with pytest.raises(InvalidConfig, match="unknown"):
        Population(population.sites).codes(site)


def test_bits_that_are_set_or_cleared_count_as_touched() -> None:
    site = Site("weights", "w", (2,), "fp32", 32)
    flips = Flips(
        site, torch.tensor([0, 1]), torch.tensor([1, 0]), rise=torch.tensor([4, 8]), fall=torch.tensor([0, 16])
    )
    assert flips.touched.tolist() == [5, 24]
