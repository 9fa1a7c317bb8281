"""Chipkill against a decoder that multiplies polynomials bit by bit and tries every single-symbol correction."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from holdfast.errors import InvalidConfig
from holdfast.faults.protection import Chipkill
from holdfast.faults.protection.galois import times
from holdfast.faults.protection.protocol import Raw
from holdfast.models.site import Site

DATA, CHECK = 16, 3
LENGTH = DATA + CHECK


def product(a: int, b: int) -> int:
    """Multiply in GF(2^8) modulo 0x11d, shift and add."""
    result = 0
    for bit in range(8):
        if b >> bit & 1:
            result ^= a << bit
    for bit in range(14, 7, -1):
        if result >> bit & 1:
            result ^= 0x11D << (bit - 8)
    return result


def power(exponent: int) -> int:
    result = 1
    for _ in range(exponent):
        result = product(result, 2)
    return result


POWERS = [[power(i * j % 255) for i in range(LENGTH)] for j in range(CHECK)]


def syndromes(word: list[int]) -> tuple[int, ...]:
    totals = [0] * CHECK
    for j in range(CHECK):
        for symbol, factor in zip(word, POWERS[j], strict=True):
            totals[j] ^= product(symbol, factor)
    return tuple(totals)


SINGLES = {
    tuple(product(value, POWERS[j][i]) for j in range(CHECK)): (i, value)
    for i in range(LENGTH)
    for value in range(1, 256)
}


def decoded(word: list[int]) -> tuple[list[int], bool]:
    """Return the corrected word, and whether it is given up."""
    found = syndromes(word)
    if not any(found):
        return word, False
    if found not in SINGLES:
        return word, True
    place, value = SINGLES[found]
    return [symbol ^ value if i == place else symbol for i, symbol in enumerate(word)], False


def encoded(data: np.ndarray) -> list[list[int]]:
    site = Site("weights", "w", (data.size,), "int8", 8)
    codes = torch.from_numpy(data.ravel()).view(torch.int8)
    check = Chipkill().check_codes(site, codes, torch.arange(len(data))).tolist()
    return [[*row.tolist(), *(c >> 8 * k & 255 for k in range(CHECK))] for row, c in zip(data, check, strict=True)]


def read(patterns: list[dict[int, int]], **options: object) -> tuple[list[list[int]], object]:
    """Return the data errors (16 bytes a word) that are left of symbol errors {symbol: value}, one word each."""
    site = Site("weights", "w", (DATA * len(patterns),), "int8", 8)
    places = [
        (word, 8 * symbol + bit)
        for word, pattern in enumerate(patterns)
        for symbol, value in sorted(pattern.items())
        for bit in range(8)
        if value >> bit & 1
    ]
    data = [word * 8 * DATA + place for word, place in places if place < 8 * DATA]
    check = [word * 8 * CHECK + place - 8 * DATA for word, place in places if place >= 8 * DATA]
    raw = Raw(data=np.array(data, np.int64), check=np.array(check, np.int64), codes=lambda: torch.zeros(0))
    result = Chipkill(**options).decode(site, raw)
    left = np.zeros(site.numel, np.int64)
    if result.flips is not None:
        left[result.flips.index.numpy()] = result.flips.mask.numpy()
    return left.reshape(-1, DATA).tolist(), result.tally


def test_products_are_those_of_polynomials() -> None:
    every = np.arange(256)
    table = times(every[:, None], every[None, :])
    assert all(table[a, b] == product(a, b) for a in range(0, 256, 3) for b in range(256))


def test_code_words_have_no_syndrome() -> None:
    data = np.random.Generator(np.random.Philox(3)).integers(0, 256, (50, DATA), dtype=np.uint8)
    assert all(syndromes(word) == (0, 0, 0) for word in encoded(data))


def test_every_single_symbol_error_is_corrected() -> None:
    left, tally = read([{i: value} for i in range(LENGTH) for value in range(1, 256)])
    assert not any(any(word) for word in left)
    assert (tally.affected, tally.failed, tally.detected) == (LENGTH * 255, 0, 0)


def test_two_wrong_symbols_are_always_detected() -> None:
    generator = np.random.Generator(np.random.Philox(4))
    pairs = [(i, j) for i in range(LENGTH) for j in range(i)]
    patterns = [{i: int(a), j: int(b)} for i, j in pairs for a, b in generator.integers(1, 256, (40, 2))]
    _, tally = read(patterns)
    assert tally.detected == tally.failed == len(patterns)
    assert tally.miscorrected == 0


@pytest.mark.parametrize("chip", range(LENGTH))
def test_any_chip_may_fail(chip: int) -> None:
    values = np.random.Generator(np.random.Philox(chip)).integers(1, 256, 200)
    left, tally = read([{chip: int(value)} for value in values])
    assert not any(any(word) for word in left)
    assert tally.restored == 200


def test_the_decoder_is_the_one_that_tries_everything() -> None:
    generator = np.random.Generator(np.random.Philox(5))
    data = generator.integers(0, 256, (600, DATA), dtype=np.uint8)
    patterns = [
        {int(i): int(generator.integers(1, 256)) for i in generator.choice(LENGTH, 1 + k % 5, replace=False)}
        for k in range(len(data))
    ]
    left, tally = read(patterns)
    given_up = miscorrected = 0
    for sent, pattern, remaining in zip(encoded(data), patterns, left, strict=True):
        received = [symbol ^ pattern.get(i, 0) for i, symbol in enumerate(sent)]
        word, up = decoded(received)
        assert [a ^ b for a, b in zip(sent, word, strict=True)][:DATA] == remaining
        given_up += up
        miscorrected += word not in (sent, received)
    assert (tally.detected, tally.miscorrected) == (given_up, miscorrected)


def test_given_up_words_read_as_zero_on_request() -> None:
    site = Site("weights", "w", (3 * DATA,), "int8", 8)
    raw = Raw(data=np.array([128, 136]), check=np.empty(0, np.int64), codes=lambda: torch.zeros(0))
    result = Chipkill(on_detect="zero").decode(site, raw)
    assert result.flips is not None
    assert result.flips.index.tolist() == list(range(DATA, 2 * DATA))
    assert (result.flips.mask == 0).all()
    assert result.flips.fall is not None
    assert (result.flips.fall == 255).all()
    assert result.tally.erased == 8 * DATA


def mistaken() -> dict[int, int]:
    """Return errors of symbols 0, 1 and 2 whose syndromes are those of a single one at symbol 10."""
    target = tuple(POWERS[j][10] for j in range(CHECK))
    for a in range(1, 256):
        for b in range(1, 256):
            pattern = {0: a, 1: b, 2: target[0] ^ a ^ b}
            if syndromes([pattern.get(i, 0) for i in range(LENGTH)]) == target:
                return pattern
    raise AssertionError("an MDS code of distance 4 has such a word")


def test_three_wrong_symbols_may_be_mistaken_for_one() -> None:
    pattern = mistaken()
    left, tally = read([{i: product(value, scale) for i, value in pattern.items()} for scale in range(1, 256)])
    assert [word[10] for word in left] == list(range(1, 256))
    assert (tally.miscorrected, tally.detected) == (255, 0)


def test_a_correction_of_a_byte_that_a_short_word_lacks_is_refused() -> None:
    bits = [8 * i + bit for i, value in sorted(mistaken().items()) for bit in range(8) if value >> bit & 1]
    raw = Raw(data=np.array(bits), check=np.empty(0, np.int64), codes=lambda: torch.zeros(0))
    short = Chipkill().decode(Site("weights", "w", (4,), "int8", 8), raw).tally
    whole = Chipkill().decode(Site("weights", "w", (16,), "int8", 8), raw).tally
    assert (short.detected, short.miscorrected) == (1, 0)
    assert (whole.detected, whole.miscorrected) == (0, 1)


@pytest.mark.parametrize("options", [{"check": 2}, {"check": 9}, {"data": 0}, {"data": 253}, {"on_detect": "panic"}])
def test_impossible_codes_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InvalidConfig):
        Chipkill(**options)
