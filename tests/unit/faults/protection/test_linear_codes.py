"""Binary codes: their distance, all error patterns of low weight, and the decoder against plain integers."""

from __future__ import annotations

import itertools
from math import comb

import numpy as np
import pytest

from holdfast.errors import InvalidConfig
from holdfast.faults.protection.columns import extended_hamming, hamming, hsiao
from holdfast.faults.protection.layout import Layout
from holdfast.faults.protection.linear import LinearCode
from holdfast.faults.protection.verdict import Errors
from holdfast.models.site import Site

CODES = {
    "hsiao": LinearCode(hsiao(64, 8), 8),
    "hamming": LinearCode(extended_hamming(64, 8), 8),
    "on-die": LinearCode(hamming(128, 8), 8, detects=False),
    "in-place": LinearCode(hsiao(57, 7), 7),
}
SECDED = ("hsiao", "hamming", "in-place")


class Reference:
    """The textbook decoder of one received word, a plain integer, check bits above the data bits."""

    def __init__(self, code: LinearCode) -> None:
        self.code = code
        self.rows = [
            sum(1 << j for j, column in enumerate(code.matrix.tolist()) if column >> i & 1) for i in range(code.check)
        ]

    def encode(self, data: int) -> int:
        word = data
        for i, row in enumerate(self.rows):
            word |= ((data & row).bit_count() & 1) << (self.code.data + i)
        return word

    def decode(self, received: int) -> tuple[int, bool]:
        """Return the corrected word and whether it is given up."""
        syndrome = sum(((received & row).bit_count() & 1) << i for i, row in enumerate(self.rows))
        if syndrome == 0:
            return received, False
        if syndrome in self.code.matrix.tolist():
            return received ^ 1 << self.code.matrix.tolist().index(syndrome), False
        return received, self.code.detects


def decoded(code: LinearCode, patterns: list[tuple[int, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """Decode each pattern in a word of its own; return what is given up and the flipped position, -1 for none."""
    site = Site("weights", "w", (len(patterns) * code.data,), "x", 1)
    word = np.repeat(np.arange(len(patterns)), [len(item) for item in patterns])
    errors = Errors(word, np.array(list(itertools.chain(*patterns))), code.data, code.length)
    verdict = code.decode(errors, Layout(site, code.data))
    flipped = np.full(len(patterns), -1)
    flipped[verdict.fixed_row] = verdict.fixed_position
    return verdict.given_up, flipped


@pytest.mark.parametrize("name", CODES)
def test_every_single_error_is_corrected(name: str) -> None:
    code = CODES[name]
    given_up, flipped = decoded(code, [(place,) for place in range(code.length)])
    assert not given_up.any()
    assert flipped.tolist() == list(range(code.length))


@pytest.mark.parametrize("name", SECDED)
def test_every_double_error_is_detected_and_left_alone(name: str) -> None:
    code = CODES[name]
    given_up, flipped = decoded(code, list(itertools.combinations(range(code.length), 2)))
    assert len(given_up) == comb(code.length, 2)
    assert given_up.all()
    assert (flipped == -1).all()


@pytest.mark.parametrize("name", SECDED)
def test_triple_errors_are_miscorrected_as_often_as_codewords_of_weight_four_say(name: str) -> None:
    """A triple is miscorrected iff a fourth bit completes it to a code word, and each such word has four triples."""
    code = CODES[name]
    given_up, flipped = decoded(code, list(itertools.combinations(range(code.length), 3)))
    assert (given_up == (flipped == -1)).all()
    pairs = np.bincount([a ^ b for a, b in itertools.combinations(code.matrix.tolist(), 2)])
    words_of_weight_four = int((pairs * (pairs - 1) // 2).sum()) // 3
    assert (~given_up).sum() == 4 * words_of_weight_four > 0


@pytest.mark.parametrize(("name", "share"), [("hsiao", 0.5628), ("hamming", 0.7596)])
def test_hsiao_miscorrects_fewer_triples_than_hamming(name: str, share: float) -> None:
    given_up, _ = decoded(CODES[name], list(itertools.combinations(range(72), 3)))
    assert 1 - given_up.mean() == pytest.approx(share, abs=5e-5)


@pytest.mark.parametrize("design", [0, 1, 2])
def test_the_on_die_code_flips_a_third_bit_after_half_of_the_doubles_and_reports_nothing(design: int) -> None:
    """Of 255 sums of two columns 136 are columns: about 53 %."""
    code = LinearCode(hamming(128, 8, design), 8, detects=False)
    doubles = list(itertools.combinations(range(code.length), 2))
    given_up, flipped = decoded(code, doubles)
    assert not given_up.any()
    harmed = sum(third >= 0 and third not in pair for pair, third in zip(doubles, flipped.tolist(), strict=True))
    assert harmed == int((flipped >= 0).sum())
    assert 0.5 < harmed / len(doubles) < 0.56


def test_designs_of_on_die_codes_differ() -> None:
    assert len({hamming(128, 8, design) for design in range(5)}) == 5
    assert len(set(hamming(128, 8))) == 128


@pytest.mark.parametrize("name", CODES)
def test_the_decoder_is_the_textbook_one(name: str) -> None:
    """Whole received words, random data and up to six errors, decoded bit by bit."""
    code = CODES[name]
    reference = Reference(code)
    generator = np.random.Generator(np.random.Philox(1))
    patterns = [tuple(sorted(generator.choice(code.length, 1 + k % 6, replace=False).tolist())) for k in range(600)]
    given_up, flipped = decoded(code, patterns)
    for pattern, up, place in zip(patterns, given_up, flipped.tolist(), strict=True):
        sent = reference.encode(int.from_bytes(generator.bytes(16), "little") & ((1 << code.data) - 1))
        received = sent ^ sum(1 << k for k in pattern)
        expected = received if place < 0 else received ^ 1 << place
        assert reference.decode(received) == (expected, bool(up))


@pytest.mark.parametrize("name", CODES)
def test_the_encoder_is_the_textbook_one(name: str) -> None:
    code = CODES[name]
    reference = Reference(code)
    generator = np.random.Generator(np.random.Philox(2))
    octets = generator.integers(0, 256, (200, -(-code.data // 8)), dtype=np.uint8)
    if code.data % 8:
        octets[:, -1] &= (1 << code.data % 8) - 1
    for row, check in zip(octets, code.encode(octets).tolist(), strict=True):
        assert reference.encode(int.from_bytes(row.tobytes(), "little")) >> code.data == check


def test_hsiao_rows_are_equally_heavy() -> None:
    columns = hsiao(64, 8)
    assert len(set(columns)) == 64
    assert {sum(column >> row & 1 for column in columns) for row in range(8)} == {26}


def test_extended_hamming_covers_every_bit_once_more() -> None:
    """Adding all rows gives the overall parity check back: it covers all 72 bits."""
    matrix = CODES["hamming"].matrix.tolist()
    whole = [column.bit_count() & 1 for column in matrix]
    assert whole == [1] * 72


def test_too_few_check_bits_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="7 check bits cannot guard 58"):
        hsiao(58, 7)
    with pytest.raises(InvalidConfig, match="cannot guard"):
        hamming(248, 8)


def enumerated(code: LinearCode, rate: float, check_rate: float) -> tuple[float, float, float, float]:
    """Return (failing, detecting, leaving, leaving with erasure) by going through every error pattern of a word."""
    failing = detecting = leaving = erasing = 0.0
    chances = [rate] * code.data + [check_rate] * code.check
    for pattern in itertools.product((0, 1), repeat=code.length):
        places = tuple(k for k, bit in enumerate(pattern) if bit)
        chance = float(np.prod([p if bit else 1 - p for p, bit in zip(chances, pattern, strict=True)]))
        (up,), (place,) = decoded(code, [places]) if places else ((False,), (-1,))
        left = set(places) ^ ({int(place)} if place >= 0 else set())
        wrong = sum(k < code.data for k in left)
        failing += chance * (bool(left) or bool(up))
        detecting += chance * bool(up)
        leaving += chance * wrong
        erasing += chance * wrong * (not up)
    return failing, detecting, leaving, erasing


@pytest.mark.parametrize(
    "code",
    [
        LinearCode(hsiao(4, 4), 4),
        LinearCode(hsiao(3, 4), 4),
        LinearCode(extended_hamming(4, 4), 4),
        LinearCode(hamming(6, 4), 4, detects=False),
        LinearCode((1,) * 8, 1, corrects=False),
    ],
)
@pytest.mark.parametrize(("rate", "check_rate"), [(0.1, 0.1), (0.3, 0.0), (0.02, 0.2)])
def test_expectations_are_those_of_full_enumeration(code: LinearCode, rate: float, check_rate: float) -> None:
    failing, detecting, leaving, erasing = enumerated(code, rate, check_rate)
    assert code.failing(rate, check_rate) == pytest.approx(failing, rel=1e-12)
    assert code.detecting(rate, check_rate) == pytest.approx(detecting, rel=1e-12, abs=0)
    assert code.leaving(rate, check_rate, erasing=False) == pytest.approx(leaving, rel=1e-12)
    assert code.leaving(rate, check_rate, erasing=True) == pytest.approx(erasing, rel=1e-12)


def test_expectations_of_tiny_rates_keep_their_digits() -> None:
    code, rate = CODES["hsiao"], 1e-12
    assert code.failing(rate, rate) == pytest.approx(comb(72, 2) * rate**2, rel=1e-9)
    # of two errors each data bit is in 71 pairs; nothing is miscorrected at this order
    assert code.leaving(rate, rate, erasing=False) == pytest.approx(64 * 71 * rate**2, rel=1e-9)
