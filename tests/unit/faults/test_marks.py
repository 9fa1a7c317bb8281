"""Words of a place: Philox as published, and the same for any company."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from holdfast.faults.marks import below, coins, philox, words
from holdfast.seeds import derive

VECTORS = [  # the known answers that Salmon et al. publish with Random123, philox4x32-10
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_philox_gives_the_published_answers(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    c0, c1, c2, c3 = (np.array([word], np.uint64) for word in counter)
    assert tuple(int(word[0]) for word in philox((c0, c1, c2, c3), key[0] | key[1] << 32)) == expected


def test_a_word_belongs_to_its_place() -> None:
    places = np.array([3, 2**33 + 1, 2**62, 0])
    together = words(derive(1), places)
    assert [int(words(derive(1), places[i : i + 1])[0]) for i in range(4)] == together.tolist()
    assert len({*together.tolist(), *words(derive(2), places).tolist()}) == 8


def test_coins_are_fair_and_independent_of_their_neighbours() -> None:
    drawn = coins(derive(3), np.arange(200_000))
    assert stats.binomtest(int(drawn.sum()), len(drawn), 0.5).pvalue > 1e-4
    assert stats.binomtest(int((drawn[1:] == drawn[:-1]).sum()), len(drawn) - 1, 0.5).pvalue > 1e-4


@pytest.mark.parametrize("share", [1e-3, 0.2, 0.5, 0.97])
def test_a_share_is_a_share_and_grows(share: float) -> None:
    places = np.arange(300_000) + 2**35
    chosen = below(derive(4), places, share)
    assert stats.binomtest(int(chosen.sum()), len(places), share).pvalue > 1e-4
    assert (chosen <= below(derive(4), places, min(1.0, share * 1.5))).all()


def test_no_share_and_the_whole() -> None:
    assert not below(derive(5), np.arange(1000), 0.0).any()
    assert below(derive(5), np.arange(1000), 1.0).all()
