"""The order-free sum: equal bit for bit to plain integers, and only as strong as its lanes."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from holdfast.data.commitments.multiset import BITS, LANES, MultisetHash, expand, lane_sum
from holdfast.errors import InvalidConfig, UnreadableArtifact

from . import reference_commitment as reference

DIGESTS = [hashlib.sha256(bytes([number])).digest() for number in range(75)]


@pytest.mark.parametrize("count", [0, 1, 2, 31, 32, 33, 75])
def test_the_sum_is_the_reference_bit_for_bit(count):
    state, digest = reference.multiset(DIGESTS[:count], 7 * count)
    found = MultisetHash.of(iter(DIGESTS[:count]), size=7 * count)
    assert found.state == state
    assert found.digest == digest
    assert found.count == count


def test_one_element_is_its_expansion():
    assert np.frombuffer(expand(DIGESTS[0]), "<u2").tolist() == reference.lanes(DIGESTS[0])
    assert lane_sum(DIGESTS[:1]).tobytes() == expand(DIGESTS[0])


def test_order_splits_and_merges_do_not_matter():
    whole = MultisetHash.of(DIGESTS, size=75)
    assert MultisetHash.of(reversed(DIGESTS), size=75) == whole
    parts = [MultisetHash.of(DIGESTS[at : at + 9], size=len(DIGESTS[at : at + 9])) for at in range(0, 75, 9)]
    assert sum(parts, MultisetHash()).digest == whole.digest
    assert (whole - parts[3]).digest == MultisetHash.of(DIGESTS[:27] + DIGESTS[36:], size=66).digest
    assert hash(whole + parts[0] - parts[0]) == hash(whole)


def test_every_earlier_element_matters():
    base = MultisetHash.of(DIGESTS, size=75)
    for place in range(len(DIGESTS)):
        other = [*DIGESTS]
        other[place] = hashlib.sha256(b"poison").digest()
        assert MultisetHash.of(other, size=75).digest != base.digest


def test_count_and_bytes_are_bound():
    one = MultisetHash.of(DIGESTS, size=75)
    assert one.digest != MultisetHash.of(DIGESTS, size=76).digest
    assert one.digest != MultisetHash(one.state, 76, 75).digest
    assert one != "a digest"


def test_only_what_is_in_it_is_taken_away():
    small, large = MultisetHash.of(DIGESTS[:2], size=2), MultisetHash.of(DIGESTS[:3], size=3)
    with pytest.raises(InvalidConfig, match="cannot be"):
        small - large
    with pytest.raises(InvalidConfig, match="no elements has a state"):
        small - MultisetHash.of(DIGESTS[1:3], size=2)
    with pytest.raises(InvalidConfig):
        MultisetHash(one_state(), 2**64, 0)
    assert (large - large) == MultisetHash()


def one_state():
    return MultisetHash.of(DIGESTS[:1], size=1).state


@pytest.mark.parametrize("lanes", [32, 512, 1023, 2048])
def test_there_is_one_set_of_parameters(lanes):
    assert (LANES, BITS) == (1024, 16)
    with pytest.raises(UnreadableArtifact, match="1024 lanes of 16 bits"):
        MultisetHash(bytes(2 * lanes), 1, 1)
    with pytest.raises(TypeError):
        MultisetHash(lanes=lanes)  # there is no such knob


def test_what_it_shows_names_it():
    assert repr(MultisetHash.of(DIGESTS, size=75)).startswith("MultisetHash(")
