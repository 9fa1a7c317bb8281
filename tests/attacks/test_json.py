"""Hostile JSON, read before any signature is checked: refused, and soon."""

from __future__ import annotations

import time

import pytest

from holdfast.errors import UnreadableArtifact
from holdfast.evidence import canonical


def test_a_duplicate_at_the_end_of_a_long_object_costs_no_quadratic_time() -> None:
    keys = ",".join(f'"k{number}":0' for number in range(200_000))
    begun = time.process_time()
    with pytest.raises(UnreadableArtifact, match="duplicate key 'z'"):
        canonical.loads(f'{{{keys},"z":0,"z":1}}'.encode())
    assert time.process_time() - begun < 10  # it took minutes


@pytest.mark.parametrize("text", ["1e999", "-1e999", "1" * 400, '{"version": 1e400}', "[1.0e309]"])
def test_a_number_beyond_a_double_never_becomes_an_infinity(text: str) -> None:
    with pytest.raises(UnreadableArtifact, match="strict JSON"):
        canonical.loads(text.encode())


@pytest.mark.parametrize("text", ["[" * 1_000_000, '{"a":' * 1_000_000, "1" * 1_000_000])
def test_depth_and_long_numbers_are_bounded(text: str) -> None:
    with pytest.raises(UnreadableArtifact, match="strict JSON"):
        canonical.loads(text.encode())
