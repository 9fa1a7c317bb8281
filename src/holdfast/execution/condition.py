"""Conditions: what may happen to the bits of a model while it runs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from holdfast._registry import Registry
from holdfast.errors import InvalidConfig
from holdfast.models.site import Site
from holdfast.seeds import Seed


@dataclass(frozen=True)
class Population:
    """All bits of some sites, in order, each with one address."""

    sites: tuple[Site, ...]
    reader: Callable[[Site], Tensor] | None = field(default=None, compare=False, repr=False)  # flat codes of a site

    def codes(self, site: Site) -> Tensor:
        """Return the codes that ``site`` stores, flat, for a law that depends on them; only sites of a model have any.

        Raises:
            InvalidConfig: nothing is stored behind this population.
            NoSuchSite: the site is computed, not stored.
        """
        if self.reader is None:
            raise InvalidConfig(f"what {site.address} stores is unknown here", hint="inject into a model instead")
        return self.reader(site)

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(site.population for site in self.sites))

    @property
    def bits(self) -> int:
        """Number of bits."""
        return self._ends[-1] if self.sites else 0

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The address of each site's first bit, in the order of the sites."""
        return (0, *self._ends[:-1]) if self.sites else ()

    def locate(self, address: int) -> tuple[Site, int, int]:
        """Return (site, flat element, bit) of a bit address.

        Raises:
            InvalidConfig: the address is outside 0 .. bits-1.
        """
        if not 0 <= address < self.bits:
            raise InvalidConfig(f"bit {address} is outside a population of {self.bits}")
        place = bisect_right(self._ends, address)
        site = self.sites[place]
        element, bit = divmod(address - (self._ends[place] - site.population), site.bits)
        return site, element, bit


class Rewrite(Protocol):
    """A rule from stored codes to new ones; frozen, so that one fault does the same in every pass."""

    def __call__(self, codes: Tensor, site: Site) -> Tensor:
        """Return the codes (int64, (n,)) that replace ``codes``, int64 with bits above the width of ``site`` clear."""
        ...


@dataclass(frozen=True)
class Flips:
    """Bits that change in one site.

    Attributes:
        site: where.
        index: flat elements, int64, shape (n,), each at most once.
        mask: int64, shape (n,); bits that flip whatever they hold.
        rise: int64, shape (n,), or None; bits that become one (and so flip only where zero is stored).
        fall: int64, shape (n,), or None; bits that become zero. No bit is in two of the three.
        rewrite: a rule from what the three leave to the code that stands there in the end, or None.
    """

    site: Site
    index: Tensor
    mask: Tensor
    rise: Tensor | None = None
    fall: Tensor | None = None
    rewrite: Rewrite | None = None

    @property
    def touched(self) -> Tensor:
        """The bits that may change, int64, shape (n,): whichever column names them; a rule may change any."""
        if self.rewrite is not None:
            return torch.full_like(self.mask, -1 if self.site.bits == 64 else (1 << self.site.bits) - 1)
        mask = self.mask
        for column in (self.rise, self.fall):
            mask = mask if column is None else mask | column
        return mask

    def against(self, codes: Tensor) -> Tensor:
        """Return the XOR masks (int64, shape (n,)) that these changes mean for elements that hold ``codes`` (n,).

        Works on the device of the codes.
        """
        held = codes.to(torch.int64)
        mask = self.mask.to(held.device)
        if self.rise is not None:
            mask = mask | (self.rise.to(held.device) & ~held)
        if self.fall is not None:
            mask = mask | (self.fall.to(held.device) & held)
        if self.rewrite is None:
            return mask
        width = -1 if self.site.bits == 64 else (1 << self.site.bits) - 1
        return (self.rewrite((held ^ mask) & width, self.site) ^ held) & width

    @classmethod
    def joined(cls, parts: Sequence[Flips]) -> Flips:
        """Return changes of one site as one; an element may then occur once per part."""

        def column(name: str) -> Tensor | None:
            values = [getattr(part, name) for part in parts]
            if all(value is None for value in values):
                return None
            return torch.cat([torch.zeros_like(p.mask) if v is None else v for p, v in zip(parts, values, strict=True)])

        index, mask = torch.cat([part.index for part in parts]), torch.cat([part.mask for part in parts])
        rules = [(part.rewrite, len(part.index)) for part in parts]
        rewrite = InTurn(tuple(rules)) if any(rule is not None for rule, _ in rules) else None
        return cls(parts[0].site, index, mask, column("rise"), column("fall"), rewrite)


@dataclass(frozen=True)
class InTurn:
    """Rules one after the other: each takes so many of the codes; None leaves its share as it is."""

    rules: tuple[tuple[Rewrite | None, int], ...]

    def __call__(self, codes: Tensor, site: Site) -> Tensor:
        """Return the codes that every rule makes of its share."""
        shares = codes.split([count for _, count in self.rules])
        return torch.cat(
            [part if rule is None else rule(part, site) for (rule, _), part in zip(self.rules, shares, strict=True)]
        )


@runtime_checkable
class Fault(Protocol):
    """A law that draws flips; a frozen dataclass whose fields are its parameters.

    A fault with a true class attribute ``each_read`` is no property of the chip but of one read of it: it is drawn
    afresh for every forward pass, see :func:`holdfast.execution.inject`. A fault with a time has
    ``in_pass(population, seed, number)``, which returns what is present in forward pass ``number`` of a run. A fault
    with a ``digest`` read a file, and the digest names what it read.
    """

    def flips(self, population: Population, seed: Seed) -> Sequence[Flips]:
        """Return the flips of one realisation; the same for the same arguments, everywhere."""
        ...


def require_fault(fault: object) -> None:
    """Refuse what draws no flips.

    Raises:
        InvalidConfig: a name, a class or anything else instead of a law.
    """
    if isinstance(fault, Fault) and not isinstance(fault, type):
        return
    hint = "for example holdfast.BitFlip() or holdfast.BitErrors(rate=0.01)"
    raise InvalidConfig(f"a fault is a law, not {_called(fault)}", hint=hint)


def _called(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def by_pass(fault: Fault) -> bool:
    """Say whether what is present differs from one forward pass to the next."""
    return bool(getattr(fault, "each_read", False)) or hasattr(fault, "in_pass")


def require_untimed(fault: Fault, what: str) -> None:
    """Refuse a fault with a time where there is but one pass.

    Raises:
        InvalidConfig: the fault is present in some passes only.
    """
    if hasattr(fault, "in_pass"):
        hint = "leave the time away, or use inject and inject_generation, which count passes"
        raise InvalidConfig(f"{what} has no passes for a fault to come and go in", hint=hint)


faults: Registry[Fault] = Registry("fault", "holdfast.faults")


class OnAnotherLaw:
    """What a law that changes the draws of another one, its ``law``, has in common with that one."""

    __slots__ = ()

    @property
    def each_read(self) -> bool:
        """Whether every pass is drawn anew, as under the bare law."""
        return bool(getattr(_bare(self), "each_read", False))

    @property
    def deterministic(self) -> bool:
        """Whether every seed draws the same, as under the bare law."""
        return bool(getattr(_bare(self), "deterministic", False))

    @property
    def digest(self) -> str | None:
        """Digest of what the bare law read from a file, if it did."""
        digest: str | None = getattr(_bare(self), "digest", None)
        return digest


def _bare(law: object) -> object:
    return getattr(law, "law")  # noqa: B009  a property of the one, a cached property of the other
