"""Multi-bit upsets: one event, such as a neutron, that flips several bits in a pattern of the memory's structure.

The classes are those that Sullivan et al. (*Characterizing and Mitigating Soft Errors in GPU DRAM*, MICRO 2021) found
in HBM2 under a neutron beam. What one access moves is an *entry* of four *beats* of 64 bits; bit j of every beat comes
through *pin* j, and eight neighbouring bits of a beat are a *byte*. The shares of the preset ``hbm2`` are round numbers
of ours after that paper, from memory: three quarters of the events in one bit, most others in one byte, and whole
entries rare. They were not checked against its table, nor are the patterns inside a class measured. Pass your own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from holdfast.errors import InvalidConfig
from holdfast.execution.condition import Flips, Population, faults
from holdfast.faults.addresses import NOTHING, changes_at
from holdfast.faults.marks import words
from holdfast.faults.rates import check_rate, errors, per_site, union
from holdfast.seeds import Seed, derive

BEAT, ENTRY = 64, 256  # bits
PRESETS = {"hbm2": "bit=0.74/byte=0.225/pin=0.002/two=0.002/three=0.001/beat=0.009/entry=0.021"}


@faults.register("multi-bit-upsets")
@dataclass(frozen=True, slots=True, kw_only=True)
class MultiBitUpsets:
    """At each bit an upset begins with probability ``rate``, of a class drawn by the given shares.

    ======  =========================================================================================
    bit     this bit alone
    byte    two or more bits of its byte, each set of them equally likely
    pin     two or more bits of its pin, likewise
    two     this bit and one more of its entry, of another byte and pin
    three   these two and any third one of the entry
    beat    each bit of its beat with probability one half
    entry   each bit of its entry with probability one half
    ======  =========================================================================================

    Sites begin at an entry's first bit, and bits beyond a site's end are nobody's. A bit that two upsets meet flips
    once, so upsets of a lower rate are a subset. A site's upsets depend on the seed and its address alone.
    """

    rate: float  # upsets per bit, 0..1
    shares: str = "hbm2"  # a preset, or class=share/class=share/..., adding up to one

    def __post_init__(self) -> None:
        check_rate(self.rate, "rate of upsets")
        shares_of(self.shares)

    def flips(self, population: Population, seed: Seed) -> list[Flips]:
        """Return the flips of chip ``seed``."""
        found = []
        for site, start, own in per_site(population, seed):
            hit = self._hit(errors(site.population, self.rate, own), own)
            found.append(start + hit[hit < site.population])
        return changes_at(population, flip=union(found))

    def _hit(self, anchors: np.ndarray, seed: Seed) -> np.ndarray:
        shares = shares_of(self.shares)
        chance = words(derive(seed, "class"), anchors).view(np.uint64) / 2.0**64
        number = np.searchsorted(np.cumsum(list(shares.values()))[:-1], chance, side="right")
        groups = [CLASSES[name](anchors[number == place], derive(seed, "pattern")) for place, name in enumerate(shares)]
        return np.concatenate([NOTHING, *groups])


def shares_of(text: str) -> dict[str, float]:
    """Return the share of each class of upsets that ``text``, a preset or ``class=share/...``, writes.

    Raises:
        InvalidConfig: an unknown class, a share outside 0..1, or shares that do not add up to one.
    """
    shares: dict[str, float] = {}
    for part in PRESETS.get(text, text).split("/"):
        name, _, value = part.partition("=")
        if name not in CLASSES or name in shares:
            hint = f"write class=share/class=share with {', '.join(CLASSES)}, or a preset: {', '.join(PRESETS)}"
            raise InvalidConfig(f"cannot read {part!r} among the shares of upsets", hint=hint)
        shares[name] = _share(value)
    if abs(sum(shares.values()) - 1) > 1e-9:
        raise InvalidConfig(f"the shares of upsets add up to {sum(shares.values()):g}, not to one")
    return shares


def _share(value: str) -> float:
    try:
        share = float(value)
    except ValueError:
        raise InvalidConfig(f"a share of upsets is {value!r}, not a number") from None
    check_rate(share, "share of upsets")
    return share


def _bit(anchor: np.ndarray, seed: Seed) -> np.ndarray:
    return anchor


def _byte(anchor: np.ndarray, seed: Seed) -> np.ndarray:
    return _several(anchor // 8 * 8, np.arange(8), words(seed, anchor))


def _pin(anchor: np.ndarray, seed: Seed) -> np.ndarray:
    return _several(anchor // ENTRY * ENTRY + anchor % BEAT, np.arange(0, ENTRY, BEAT), words(seed, anchor))


def _several(base: np.ndarray, steps: np.ndarray, word: np.ndarray) -> np.ndarray:
    """Return two or more of the places ``base + steps``, chosen by ``word`` uniformly among all such sets."""
    patterns = np.arange(2 ** len(steps))
    patterns = patterns[np.bitwise_count(patterns) >= 2]
    chosen = patterns[word.view(np.uint64) % np.uint64(len(patterns))]
    row, column = np.nonzero(chosen[:, None] >> np.arange(len(steps)) & 1)
    places: np.ndarray = base[row] + steps[column]
    return places


def _two(anchor: np.ndarray, seed: Seed) -> np.ndarray:
    return np.concatenate([anchor, _second(anchor, seed)])


def _three(anchor: np.ndarray, seed: Seed) -> np.ndarray:
    second = _second(anchor, seed)
    # a third one among 254: count on from the first, over the second
    step = 1 + _choose(derive(seed, "third"), anchor, ENTRY - 2)
    step += step >= (second - anchor) % ENTRY
    third = anchor // ENTRY * ENTRY + (anchor + step) % ENTRY
    return np.concatenate([anchor, second, third])


def _second(anchor: np.ndarray, seed: Seed) -> np.ndarray:
    offset = anchor % ENTRY
    second: np.ndarray = anchor - offset + _PARTNERS[offset, _choose(seed, anchor, _PARTNERS.shape[1])]
    return second


def _choose(seed: Seed, anchor: np.ndarray, count: int) -> np.ndarray:
    return (words(seed, anchor).view(np.uint64) % np.uint64(count)).astype(np.int64)


def _partners() -> np.ndarray:
    """Return, for each bit of an entry, the bits of another byte and another pin: int64, shape (256, 245)."""
    place = np.arange(ENTRY)
    near = (place[:, None] // 8 == place // 8) | (place[:, None] % BEAT == place % BEAT)
    return np.nonzero(~near)[1].reshape(ENTRY, -1)


_PARTNERS = _partners()


def _beat(anchor: np.ndarray, seed: Seed) -> np.ndarray:
    return _noise(anchor // BEAT * BEAT, anchor, seed)


def _entry(anchor: np.ndarray, seed: Seed) -> np.ndarray:
    base = anchor // ENTRY * ENTRY
    return np.concatenate([_noise(base + BEAT * beat, anchor, derive(seed, beat)) for beat in range(ENTRY // BEAT)])


def _noise(base: np.ndarray, anchor: np.ndarray, seed: Seed) -> np.ndarray:
    octets = words(seed, anchor).astype("<i8").view(np.uint8).reshape(-1, 8)
    row, column = np.nonzero(np.unpackbits(octets, axis=1, bitorder="little"))
    return base[row] + column


CLASSES: dict[str, Callable[[np.ndarray, Seed], np.ndarray]] = {
    "bit": _bit,
    "byte": _byte,
    "pin": _pin,
    "two": _two,
    "three": _three,
    "beat": _beat,
    "entry": _entry,
}
