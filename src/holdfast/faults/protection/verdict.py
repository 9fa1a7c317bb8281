"""From the errors of words, through what a decoder says about each, to the bits that the model reads."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from holdfast.faults.protection.addresses import NONE, Masks, either, flips_at
from holdfast.faults.protection.protocol import Decoded, Policy, Raw, Tally
from holdfast.models.site import Site


class Placement(Protocol):
    """How the words of a site lie in its memory, such as :class:`holdfast.faults.protection.layout.Layout`."""

    @property
    def site(self) -> Site:
        """Whose words they are."""
        ...

    @property
    def word(self) -> int:
        """Data bits of a whole word."""
        ...

    def places(self, address: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the word of each bit address and the bit's position in it."""
        ...

    def addresses(self, word: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Return the bit addresses of positions of words; -1 where a word has no such position."""
        ...

    def reads(self, word: np.ndarray, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the bits of the model that read flipped if these data positions do: which of them, and its address."""
        ...

    def cleared(self, word: np.ndarray) -> Masks:
        """Return the bits that are cleared when ``word`` (int64, shape (n,), ascending) reads as zero."""
        ...


@dataclass(frozen=True)
class Errors:
    """Wrong bits by word and position, int64, shape (n,), in the order of both.

    Positions 0 up to ``data`` are data bits, those up to ``length`` check bits.
    """

    word: np.ndarray
    position: np.ndarray
    data: int
    length: int

    @classmethod
    def of(cls, layout: Placement, raw: Raw, check: int) -> Errors:
        """Return the errors of a site in words of ``layout``, each with ``check`` bits of the check site."""
        word, position = layout.places(raw.data)
        guard, bit = np.divmod(raw.check, max(1, check))
        length = layout.word + check
        keys = np.concatenate([word * length + position, guard * length + layout.word + bit])
        return cls.from_keys(np.sort(keys), layout.word, length)

    @classmethod
    def from_keys(cls, keys: np.ndarray, data: int, length: int) -> Errors:
        """Return the errors at ``word * length + position``, ascending."""
        word, position = np.divmod(keys, length)
        return cls(word, position, data, length)

    @functools.cached_property
    def keys(self) -> np.ndarray:
        """``word * length + position``."""
        keys: np.ndarray = self.word * self.length + self.position
        return keys

    @functools.cached_property
    def firsts(self) -> np.ndarray:
        """Where each word's errors begin."""
        return np.flatnonzero(np.diff(self.word, prepend=-1))

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """For each error, which of the affected words it lies in."""
        return np.searchsorted(self.words, self.word)

    @functools.cached_property
    def words(self) -> np.ndarray:
        """The affected words, ascending."""
        words: np.ndarray = self.word[self.firsts]
        return words


@dataclass(frozen=True)
class Verdict:
    """What a decoder does about the affected words; a row is the place of a word in ``Errors.words``."""

    given_up: np.ndarray  # bool, one per affected word
    fixed_row: np.ndarray  # of each bit that the decoder flips, ascending
    fixed_position: np.ndarray  # its position, ascending within a row

    @classmethod
    def nothing(cls) -> Verdict:
        """Return the verdict on no words."""
        return cls(np.empty(0, np.bool_), NONE, NONE)


def settle(layout: Placement, errors: Errors, verdict: Verdict, policy: Policy) -> Decoded:
    """Flip what the decoder flips, treat what it gave up by ``policy``, and count."""
    words, rows = errors.words, len(errors.words)
    fixed = words[verdict.fixed_row] * errors.length + verdict.fixed_position
    left = Errors.from_keys(either(errors.keys, fixed), errors.data, errors.length)
    row = np.searchsorted(words, left.word)
    of_data = left.position < errors.data
    zeroed = verdict.given_up & (policy == "zero")
    reads = of_data & ~zeroed[row]
    which, flipped = layout.reads(left.word[reads], left.position[reads])
    cleared = layout.cleared(words[zeroed])
    counts = np.bincount(row[reads][which], minlength=rows)
    right = np.bincount(errors.rows[errors.position < errors.data], minlength=rows) == 0
    failed = (np.bincount(row, minlength=rows) > 0) | verdict.given_up
    changed = np.bincount(verdict.fixed_row, minlength=rows) > 0
    tally = Tally(
        data_errors=int((errors.position < errors.data).sum()),
        check_errors=int((errors.position >= errors.data).sum()),
        affected=rows,
        failed=int(failed.sum()),
        detected=int(verdict.given_up.sum()),
        miscorrected=int((failed & changed).sum()),
        missed=int((failed & ~changed & ~verdict.given_up).sum()),
        needless=int((verdict.given_up & right).sum()),
        wrong=int((counts > 0).sum()),
        residual=int(counts.sum()),
        squares=int((counts**2).sum()),
        erased=int(np.bitwise_count(cleared[1].view(np.uint64)).sum()),
    )
    return Decoded(flips=flips_at(layout.site, np.sort(flipped), cleared), tally=tally)
