"""What stands between raw memory errors and the model: the contract of a protection."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from holdfast._registry import Registry
from holdfast.errors import InvalidConfig
from holdfast.execution.condition import Flips
from holdfast.faults.protection.addresses import Addresses, runs
from holdfast.models.site import Site
from holdfast.numerics.formats import formats

CHECK_FORMAT = "check-bits"
"""The format of check memory whose bits have no meaning of their own."""

Policy = Literal["leave", "zero"]
"""What becomes of a word that the decoder gives up: it reads as it is stored, or as zero bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """What went wrong in the memory of one site, before anything is decoded.

    Attributes:
        data: addresses of wrong bits of the site itself.
        check: addresses of wrong bits of the protection's check site.
        codes: returns the codes that are meant to be stored, flat; only asked where the answer depends on them.
    """

    data: Addresses
    check: Addresses
    codes: Callable[[], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Exact counts of one or more reads of a protected memory.

    An affected word (one with a wrong bit, data or check) is either *restored*, bit for bit and without being given
    up, or it *failed*. A failed word is *detected* if the decoder gave it up, *miscorrected* if the decoder flipped
    something and it is wrong all the same, *missed* if the decoder did nothing about it.
    """

    data_errors: int = 0  # wrong bits among the data bits, as stored
    check_errors: int = 0  # wrong bits among the check bits
    affected: int = 0  # words
    failed: int = 0  # words
    detected: int = 0  # words
    miscorrected: int = 0  # words
    missed: int = 0  # words
    needless: int = 0  # words given up although all their data was right
    wrong: int = 0  # words of which some data reads flipped
    residual: int = 0  # data bits that read flipped
    squares: int = 0  # sum over words of the square of that number: how much the residual bits cluster
    erased: int = 0  # data bits that read as zero because their word was given up

    @property
    def restored(self) -> int:
        """Affected words that read right again, check bits included."""
        return self.affected - self.failed

    @classmethod
    def missing(cls, site: Site, left: np.ndarray, **others: int) -> Tally:
        """Count where nothing is given up and a word is an element: ``left``, its bits that read flipped, ascending."""
        counts = runs(left // site.bits)[1]
        failed, squares = len(counts), int((counts**2).sum())
        return cls(failed=failed, missed=failed, wrong=failed, residual=len(left), squares=squares, **others)

    @classmethod
    def total(cls, parts: Sequence[Tally]) -> Tally:
        """Return the sum."""
        return cls(**{item.name: sum(getattr(part, item.name) for part in parts) for item in fields(cls)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """What the model reads: the changes that are left, None if there are none, and how they came about."""

    flips: Flips | None
    tally: Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What guarding one site takes."""

    words: int  # units that are decoded
    check_bits: int = 0  # extra memory
    safe_bits: int = 0  # data or check bits that must live in memory that does not fail


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What independent errors of one rate leave, exactly; None where no closed form is known.

    Sums over a site, so that several sites add up.
    """

    failed: float | None = None  # words
    detected: float | None = None  # words
    residual: float | None = None  # data bits that read flipped; those of words read as zero do not count


class Protection(ABC):
    """A protection of memory; subclasses are frozen dataclasses whose fields are its parameters."""

    __slots__ = ()

    def check_site(self, site: Site) -> Site | None:
        """Return the extra memory that guards ``site``; None if there is none."""
        return None

    def check_codes(self, site: Site, codes: Tensor, index: Tensor) -> Tensor:
        """Return what the check site holds at its flat elements ``index``, int64, shape (n,).

        Args:
            site: the one that is guarded.
            codes: all its codes, flat.
            index: int64, shape (n,).
        """
        raise InvalidConfig(f"{type(self).__name__} keeps no check bits")

    def data_codes(self, site: Site, codes: Tensor, index: Tensor) -> Tensor:
        """Return what the site's own memory holds at flat elements ``index``: its codes, unless bits are borrowed."""
        return codes.take(index.to(codes.device))

    def admit(self, site: Site, codes: Callable[[], Tensor]) -> None:
        """Refuse what cannot be guarded.

        Raises:
            UnsupportedFormat: the site's format, or what it stores.
        """
        return

    @abstractmethod
    def decode(self, site: Site, raw: Raw) -> Decoded:
        """Return what is left of the errors ``raw``; nothing where there are none."""

    @abstractmethod
    def cost(self, site: Site) -> Cost:
        """Return the price of guarding ``site``."""

    def expected(self, site: Site, rate: float, check_rate: float) -> Expectation:
        """Return what independent errors leave of ``site``, at a rate of its data bits and one of its check bits."""
        return Expectation()


def beyond(chances: Iterable[float], most: int) -> float:
    """Return the probability that more than ``most`` of independent events happen; a sum of positive terms only."""
    counts = [1.0] + [0.0] * (most + 1)  # the last one: more than most
    for chance in chances:
        counts[-1] += counts[-2] * chance
        for k in range(most, 0, -1):
            counts[k] = counts[k] * (1 - chance) + counts[k - 1] * chance
        counts[0] *= 1 - chance
    return counts[-1]


def require_policy(on_detect: str) -> None:
    """Refuse a policy that does not exist.

    Raises:
        InvalidConfig: neither ``leave`` nor ``zero``.
    """
    if on_detect not in ("leave", "zero"):
        raise InvalidConfig(f"what is given up cannot be treated by {on_detect!r}", hint="leave or zero")


@functools.cache
def meanings(format: str) -> tuple[str, ...]:
    """Return what each bit of a format means, least significant first.

    Raises:
        UnknownName: no such format.
    """
    if format == CHECK_FORMAT:  # of another protection, around this one
        return ("check",)
    return formats.build(format).fields()


def check_memory(site: Site, elements: int, bits: int) -> Site:
    """Return the check site of ``site``: its name is a place of its own, so its errors are independent."""
    return Site(site.kind, f"{site.name}#check", (elements,), CHECK_FORMAT, bits)


def all_elements(site: Site) -> Tensor:
    """Return the flat elements of ``site``, int64."""
    return torch.arange(site.numel)


protections: Registry[Protection] = Registry("protection", "holdfast.protections")
