"""Bits that do not fail, chosen by what they mean: sign, exponent, mantissa, the most significant ones."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from holdfast.errors import InvalidConfig, UnsupportedFormat
from holdfast.faults.protection.addresses import flips_at, runs
from holdfast.faults.protection.protocol import (
    CHECK_FORMAT,
    Cost,
    Decoded,
    Expectation,
    Protection,
    Raw,
    Tally,
    beyond,
    meanings,
    protections,
)
from holdfast.models.site import Site

_PART = re.compile(r"([a-z]+(?:-[a-z]+)*)(?:-(\d+))?")


@protections.register("protect-bits")
@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectBits(Protection):
    """Some bits of every element live in memory that does not fail; the others fail as before. A word is an element.

    A part of ``field`` names what the format calls its bits (``sign``, ``exponent``, ``mantissa``, ``magnitude``), or
    ``msb`` or ``lsb`` for either end of the element. ``exponent-2`` means the two most significant bits of the
    exponent, ``msb-2`` those of the element, ``lsb-2`` the two least significant. Parts are joined by ``+``.
    """

    field: str  # e.g. "exponent", "sign+exponent-1", "msb-2"

    def __post_init__(self) -> None:
        for part in self.field.split("+"):
            match = _PART.fullmatch(part)
            if match is None or match[2] == "0":
                raise InvalidConfig(f"{part!r} names no bits", hint="for example sign, exponent, exponent-1, msb-2")

    def safe(self, site: Site) -> tuple[int, ...]:
        """Return the bits of an element that do not fail, ascending.

        Raises:
            UnsupportedFormat: the site's format has no such field, or fewer bits.
        """
        if site.format == CHECK_FORMAT:  # check bits of another protection mean nothing by themselves
            return ()
        return tuple(sorted({bit for part in self.field.split("+") for bit in _bits(part, site)}))

    def decode(self, site: Site, raw: Raw) -> Decoded:
        """Return the errors outside the safe bits."""
        exposed = ~np.isin(np.arange(site.bits), self.safe(site))
        left = raw.data[exposed[raw.data % site.bits]]
        affected = len(runs(raw.data // site.bits)[0])
        tally = Tally.missing(site, left, data_errors=len(raw.data), affected=affected)
        return Decoded(flips=flips_at(site, left), tally=tally)

    def cost(self, site: Site) -> Cost:
        """Return the bits that need memory of another kind; none is added."""
        return Cost(words=site.numel, safe_bits=site.numel * len(self.safe(site)))

    def expected(self, site: Site, rate: float, check_rate: float) -> Expectation:
        """Return what fails of the other bits."""
        exposed = site.bits - len(self.safe(site))
        failing = beyond([rate] * exposed, 0)
        return Expectation(failed=site.numel * failing, detected=0.0, residual=site.numel * exposed * rate)


def _bits(part: str, site: Site) -> list[int]:
    match = _PART.fullmatch(part)
    name, count = (match[1], match[2]) if match else (part, None)
    if name in ("msb", "lsb"):
        found, count = list(range(site.bits)), count or "1"
    else:
        found = [bit for bit, meaning in enumerate(meanings(site.format)) if meaning == name]
    wanted = int(count or len(found))
    if not found or wanted > len(found):
        known = ", ".join(dict.fromkeys(reversed(meanings(site.format))))
        raise UnsupportedFormat(f"{site.address} ({site.format}) has no {part} bits", hint=f"it has {known}; or msb-1")
    return found[:wanted] if name == "lsb" else found[len(found) - wanted :]
