"""A fire drill: flip bits of live weights at random moments and time how long an audit takes to find each."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.errors import IntegrityError, InvalidConfig
from holdfast.seeds import derive
from holdfast.signing.resident.repair import write
from holdfast.signing.resident.roots import octets

if TYPE_CHECKING:
    from holdfast.signing.resident.audit import Audit


@dataclass(frozen=True, slots=True)
class Drill:
    """Seconds from each flip to its repair, in order."""

    latencies: tuple[float, ...]

    @property
    def worst(self) -> float:
        """The longest, in seconds."""
        return max(self.latencies)

    @property
    def mean(self) -> float:
        """The mean, in seconds."""
        return sum(self.latencies) / len(self.latencies)


def drill(audit: Audit, flips: int, *, seed: int = 0, patience: float = 60.0) -> Drill:
    """Flip one random bit of the audited weights, ``flips`` times, and wait each time until it is found and mended.

    Every stored bit is equally likely. Weights are as before when this returns.

    Raises:
        InvalidConfig: no flips, or an audit that does not run, or that has nothing to mend from.
        IntegrityError: a flip was not found within ``patience`` seconds, or not mended.
    """
    if flips < 1 or audit.source is None or not audit.running:
        raise InvalidConfig("a drill needs a running audit that can mend, and a flip or more")
    generator = derive(seed, "drill").numpy()
    return Drill(tuple(_one(audit, generator, patience) for _ in range(flips)))


def _one(audit: Audit, generator: object, patience: float) -> float:
    place = int(generator.integers(audit.bytes * 8))  # type: ignore[attr-defined]
    time.sleep(float(generator.random()) * min(0.05, audit.period or 0.05))  # type: ignore[attr-defined]
    seen, begun = len(audit.incidents), time.monotonic()
    _flip(audit, place // 8, place % 8)
    while len(audit.incidents) == seen:
        if time.monotonic() - begun > patience:
            raise IntegrityError(f"a flipped bit was not found within {patience:g} s")
        time.sleep(0.0005)
    if not audit.incidents[seen].repaired:
        raise IntegrityError(f"a flipped bit of {audit.incidents[seen].tensor} was found and not mended")
    return time.monotonic() - begun


def _flip(audit: Audit, byte: int, bit: int) -> None:
    for root in audit.roots:
        if byte < root.length:
            write(root.tensor, byte, octets(root.tensor)[byte : byte + 1] ^ (1 << bit))
            return
        byte -= root.length
