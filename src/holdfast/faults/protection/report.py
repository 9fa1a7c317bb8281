"""What a protection did with the errors of some chips, beside what theory says, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from holdfast.execution.condition import Population
from holdfast.execution.statistics import Proportion
from holdfast.faults.bit_errors import BitErrors
from holdfast.faults.protection.addresses import NONE, Addresses, expand
from holdfast.faults.protection.protected import Protected
from holdfast.faults.protection.protocol import Cost, Expectation, Protection, Raw, Tally, all_elements
from holdfast.models.site import Site
from holdfast.seeds import derive


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """CPU-seconds per MB (10**6 bytes) of data, of this package's own encoder and decoder on this machine."""

    encode: float  # compute the check bits of a memory
    decode: float  # compute them again, compare, and decode the words that differ


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectionReport:
    """Counts of ``chips`` reads, as proportions with 95 % Wilson intervals.

    Wrong bits come several to a word. The interval of the residual bit rate therefore rests on as many independent
    draws as there would be if words were drawn, not bits (Kish's design effect).
    """

    protection: str
    chips: int
    data_bits: int  # of one chip
    words: int  # of one chip
    cost: Cost  # of one chip
    tally: Tally  # over all chips
    expected: Expectation | None  # of all chips; None unless the fault is bit-errors
    timing: Timing | None = None

    @property
    def raw(self) -> Proportion:
        """Data bits that were stored wrong."""
        return Proportion.wilson(self.tally.data_errors, self.data_bits * self.chips)

    @property
    def residual(self) -> Proportion:
        """Data bits that read flipped; those of words read as zero are ``erased``."""
        total = self.data_bits * self.chips
        spread = self.tally.squares / self.tally.residual if self.tally.residual else 1.0
        drawn = Proportion.wilson(round(self.tally.residual / spread), max(1, round(total / spread)))
        if not total:
            return Proportion.wilson(0, 0)
        return replace(drawn, value=self.tally.residual / total, n=total, successes=self.tally.residual)

    @property
    def failed(self) -> Proportion:
        """Words that the decoder did not restore, whether or not it noticed."""
        return self._of_words(self.tally.failed)

    @property
    def wrong(self) -> Proportion:
        """Words of which some data reads flipped."""
        return self._of_words(self.tally.wrong)

    @property
    def detected(self) -> Proportion:
        """Words that were given up."""
        return self._of_words(self.tally.detected)

    @property
    def miscorrected(self) -> Proportion:
        """Words in which the decoder flipped something and that are wrong all the same."""
        return self._of_words(self.tally.miscorrected)

    @property
    def memory_overhead(self) -> float:
        """Extra bits per data bit."""
        return self.cost.check_bits / self.data_bits if self.data_bits else 0.0

    def expected_rate(self, name: str) -> float | None:
        """Return the analytic ``failed`` or ``detected`` share of words or ``residual`` share of bits, if known."""
        amount: float | None = getattr(self.expected, name, None)
        total = (self.data_bits if name == "residual" else self.words) * self.chips
        return amount / total if amount is not None and total else None

    def _of_words(self, count: int) -> Proportion:
        return Proportion.wilson(count, self.words * self.chips)


def report(
    fault: Protected, population: Population, *, chips: int = 1, seed: int = 0, timing: bool = False
) -> ProtectionReport:
    """Draw ``chips`` chips of ``population`` and report what the protection made of their errors.

    Args:
        fault: the fault and the protection.
        population: sites of a model, see :func:`holdfast.execution.injection.population_of`; without a reader only
            protections that do not depend on what is stored.
        chips: chip i is drawn under ``derive(seed, "chip", i)``.
        seed: of all chips.
        timing: measure the encoder and the decoder on one MB of random codes.
    """
    parts = [decoded.tally for i in range(chips) for _, decoded in fault.read(population, derive(seed, "chip", i))]
    cost = _sum(Cost, [fault.protection.cost(site) for site in population.sites])
    if fault.check_bits == "safe":
        cost = replace(cost, safe_bits=cost.safe_bits + cost.check_bits)
    return ProtectionReport(
        protection=fault.by if isinstance(fault.by, str) else repr(fault.by),
        chips=chips,
        data_bits=population.bits,
        words=cost.words,
        cost=cost,
        tally=Tally.total(parts),
        expected=_expected(fault, population, chips),
        timing=measure_time(fault.protection) if timing else None,
    )


def _expected(fault: Protected, population: Population, chips: int) -> Expectation | None:
    if not isinstance(fault.law, BitErrors):
        return None
    rate, check_rate = fault.law.rate, fault.law.rate if fault.check_bits == "fail" else 0.0
    parts = [fault.protection.expected(site, rate, check_rate) for site in population.sites]

    def total(name: str) -> float | None:
        values = [getattr(part, name) for part in parts]
        return None if None in values else chips * sum(values)

    return Expectation(**{item.name: total(item.name) for item in fields(Expectation)})


def _sum(kind: type[Cost], parts: Sequence[Cost]) -> Cost:
    return kind(**{item.name: sum(getattr(part, item.name) for part in parts) for item in fields(kind)})


def measure_time(protection: Protection, *, rate: float = 1e-4, megabytes: int = 1) -> Timing:
    """Return the time of ``protection`` on int8 codes within -64 .. 63, with independent errors of ``rate``."""
    site = Site("weights", "timed", (megabytes * 10**6,), "int8", 8)
    codes = torch.randint(-64, 64, site.shape, generator=derive(0, "timing").torch(), dtype=torch.int8)
    guard = protection.check_site(site)
    raw = Raw(data=_drawn(site, rate), check=_drawn(guard, rate), codes=lambda: codes)
    encode = _seconds(lambda: _encode(protection, site, guard, codes))
    decode = _seconds(lambda: protection.decode(site, raw))
    return Timing(encode=encode / megabytes, decode=(encode + decode) / megabytes)


def _drawn(site: Site | None, rate: float) -> Addresses:
    if site is None:
        return NONE
    flips = BitErrors(rate=rate).flips(Population((site,)), derive(0, "timing"))
    return expand(site, flips[0].index.numpy(), flips[0].mask.numpy()) if flips else NONE


def _encode(protection: Protection, site: Site, guard: Site | None, codes: Tensor) -> Tensor:
    if guard is None:
        return protection.data_codes(site, codes, all_elements(site))
    return protection.check_codes(site, codes, all_elements(guard))


def _seconds(call: Callable[[], object]) -> float:
    call()
    before = time.process_time()
    call()
    return time.process_time() - before
