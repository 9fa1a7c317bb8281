"""Addresses of a population and the changes of its sites: one and the same thing, whatever the widths and sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import InvalidConfig
from holdfast.execution import Population
from holdfast.faults.addresses import addresses_of, changes_at
from holdfast.models.site import Site

SITES = (
    Site("weights", "nibbles", (7,), "int4", 4),
    Site("weights", "none", (0,), "int8", 8),
    Site("buffers", "doubles", (3,), "fp64", 64),
    Site("weights", "five", (9,), "rquant5", 5),
)
MIXED = Population(SITES)


@given(
    st.lists(
        st.tuples(st.integers(0, MIXED.bits - 1), st.sampled_from(("flip", "rise", "fall"))),
        unique_by=lambda item: item[0],
    )
)
@settings(deadline=None)
def test_there_and_back(chosen: list[tuple[int, str]]) -> None:
    columns = {name: [address for address, column in chosen if column == name] for name in ("flip", "rise", "fall")}
    arrays = {name: np.array(found, np.int64) for name, found in columns.items()}
    changes = changes_at(MIXED, **arrays)
    found = addresses_of(MIXED, changes)
    assert found["mask"].tolist() == sorted(columns["flip"])
    assert found["rise"].tolist() == sorted(columns["rise"])
    assert found["fall"].tolist() == sorted(columns["fall"])
    assert [item.site for item in changes] == [site for site in SITES if site in {item.site for item in changes}]


@given(st.integers(0, MIXED.bits - 1))
@settings(deadline=None)
def test_an_address_means_what_the_population_says(address: int) -> None:
    (item,) = changes_at(MIXED, rise=np.array([address]))
    site, element, bit = MIXED.locate(address)
    assert (item.site, item.index.tolist()) == (site, [element])
    assert item.rise is not None
    assert item.rise.tolist() == np.array([1 << bit], np.uint64).view(np.int64).tolist()
    assert item.mask.tolist() == [0]
    assert item.fall is None


def test_bits_of_one_element_are_one_entry() -> None:
    (item,) = changes_at(MIXED, flip=np.array([5, 4, 7]))
    assert (item.index.tolist(), item.mask.tolist()) == ([1], [0b1011])


def test_addresses_far_beyond_32_bits() -> None:
    first = Site("weights", "first", (2**31 + 1,), "int8", 8)
    second = Site("weights", "second", (2**40,), "int4", 4)
    population = Population((first, second))
    address = np.array([2**34 + 7, 2**34 + 8, 2**34 + 8 + 4 * (2**40 - 1) + 3, 0])
    low, high = changes_at(population, flip=address)
    assert (low.index.tolist(), low.mask.tolist()) == ([0, 2**31], [1, 128])
    assert (high.index.tolist(), high.mask.tolist()) == ([0, 2**40 - 1], [1, 8])
    assert addresses_of(population, [low, high])["mask"].tolist() == sorted(address.tolist())


def test_nothing_changes_nothing() -> None:
    assert changes_at(MIXED) == []
    assert addresses_of(MIXED, [])["mask"].size == 0


@pytest.mark.parametrize("address", [-1, MIXED.bits])
def test_an_address_outside(address: int) -> None:
    with pytest.raises(InvalidConfig, match="inside a population"):
        changes_at(MIXED, flip=np.array([address]))
