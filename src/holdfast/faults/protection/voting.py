"""Triple modular redundancy: three copies, and the majority of each bit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from holdfast.faults.protection.addresses import flips_at, runs
from holdfast.faults.protection.protocol import (
    Cost,
    Decoded,
    Expectation,
    Protection,
    Raw,
    Tally,
    beyond,
    protections,
)
from holdfast.models.site import Site


@protections.register("voting")
@dataclass(frozen=True, slots=True, kw_only=True)
class Voting(Protection):
    """Every element is stored three times and each bit reads as two of the three say. A word is an element."""

    def check_site(self, site: Site) -> Site:
        """Return the two further copies, one after the other."""
        return Site(site.kind, f"{site.name}#copies", (2 * site.numel,), site.format, site.bits)

    def check_codes(self, site: Site, codes: Tensor, index: Tensor) -> Tensor:
        """Return the copies' codes."""
        return codes.take((index % max(1, site.numel)).to(codes.device))

    def decode(self, site: Site, raw: Raw) -> Decoded:
        """Vote: a bit reads wrong if two or three of its copies are."""
        bits, copies = runs(np.sort(np.concatenate([raw.data, raw.check % max(1, site.population)])))
        flipped = bits[copies >= 2]
        errors = {"data_errors": len(raw.data), "check_errors": len(raw.check)}
        tally = Tally.missing(site, flipped, affected=len(runs(bits // site.bits)[0]), **errors)
        return Decoded(flips=flips_at(site, flipped), tally=tally)

    def cost(self, site: Site) -> Cost:
        """Return the two copies."""
        return Cost(words=site.numel, check_bits=2 * site.population)

    def expected(self, site: Site, rate: float, check_rate: float) -> Expectation:
        """Return 3 p**2 - 2 p**3 per bit, where all copies fail at the same rate p."""
        bit = beyond([rate, check_rate, check_rate], 1)
        return Expectation(
            failed=site.numel * beyond([bit] * site.bits, 0), detected=0.0, residual=site.population * bit
        )
