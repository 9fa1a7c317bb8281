"""Any damage to a signed file: what it touches is refused, what it does not touch comes out unchanged."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import ArtifactError, DigestMismatch
from holdfast.signing.opened import open_verified
from holdfast.signing.outboards import damaged_ranges
from tests.signed_models import KEY, KIB, make_model

WEIGHTS = "model.safetensors"
ROWS, COLUMNS = 40, 33  # rows of 132 bytes: no group begins where a row does


@pytest.fixture(scope="module")
def model() -> Iterator[Path]:
    make = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        weights = {name: torch.randn(ROWS, COLUMNS, generator=make) for name in "abcd"}
        yield make_model(Path(folder) / "m", weights, outboards=KIB)


@pytest.fixture(scope="module")
def good(model: Path) -> bytes:
    return (model / WEIGHTS).read_bytes()


@pytest.fixture(scope="module")
def genuine(model: Path) -> dict[str, torch.Tensor]:
    with open_verified(model, KEY.public) as opened:
        return opened.get_tensors()


places = st.integers(0, 4 * ROWS * COLUMNS * 4 - 1)


@given(place=places, bit=st.integers(0, 7), rows=st.tuples(st.integers(0, ROWS), st.integers(0, ROWS)))
@settings(max_examples=150, deadline=None)
def test_one_bit_of_the_data(model: Path, good: bytes, genuine: dict, place: int, bit: int, rows: tuple[int, int]):
    place += len(good) - 4 * ROWS * COLUMNS * 4
    changed = bytearray(good)
    changed[place] ^= 1 << bit
    (model / WEIGHTS).write_bytes(changed)
    group = place // KIB
    with open_verified(model, KEY.public) as opened:  # the header is whole
        for name, value in genuine.items():
            entry = opened.entry(name)
            hit = entry.offset <= place < entry.offset + entry.length
            assert outcome(lambda name=name: opened.get_tensor(name), value) != hit
            first, last = sorted(rows)
            start, stop = (entry.offset + row * COLUMNS * 4 for row in (first, last))
            if first < last and (first, last) != (0, ROWS):
                hit = start // KIB <= group <= (stop - 1) // KIB
                part = slice(first, last)
                assert outcome(lambda name=name, part=part: opened.get_slice(name)[part], value[part]) != hit
    assert damaged_ranges(model, WEIGHTS, KEY.public) == ((group * KIB, min((group + 1) * KIB, len(good))),)


def outcome(read, value: torch.Tensor) -> bool:
    """Whether ``read`` gives ``value``; False when it is refused, and nothing else may happen."""
    try:
        found = read()
    except DigestMismatch:
        return False
    assert torch.equal(found, value)
    return True


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_change_of_the_header_or_the_length(model: Path, good: bytes, genuine: dict, data: st.DataObject):
    header = 8 + int.from_bytes(good[:8], "little")
    changed = bytearray(good)
    for place in data.draw(st.lists(st.integers(0, header - 1), min_size=1, max_size=4)):
        changed[place] = data.draw(st.integers(0, 255))
    changed = changed[: data.draw(st.integers(0, len(good)))] if data.draw(st.booleans()) else changed
    (model / WEIGHTS).write_bytes(changed)
    for strict in (True, False):
        try:
            with open_verified(model, KEY.public, strict=strict) as opened:
                found = opened.get_tensors()
        except (DigestMismatch, ArtifactError):
            continue
        assert found.keys() == genuine.keys()
        assert all(torch.equal(found[name], value) for name, value in genuine.items())
        assert len(changed) == len(good)
