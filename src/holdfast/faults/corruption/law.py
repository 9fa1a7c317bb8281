"""One law for every corruption: where in a tensor, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from holdfast.errors import InvalidConfig
from holdfast.execution.condition import Flips, Population, faults
from holdfast.faults.corruption.catalogue import Pattern, Value, patterns, values
from holdfast.models.site import Site
from holdfast.seeds import Seed, derive


@faults.register("corruption")
@dataclass(frozen=True, slots=True, kw_only=True)
class Corruption:
    """One event that strikes one tensor: a pattern of elements, and what becomes of them.

    A bit is drawn uniformly from the population, and the pattern is laid around it, so a tensor is struck as often as
    its size says, and so is every place in it. The default, ``single`` and ``bit-flip``, is the law :class:`BitFlip`
    bit for bit. Both parts are specifications: ``where=(block:rows=2,columns=8)``, ``what=(bit-flip:bit=30)``.
    """

    where: str = "single"  # a pattern: single, row, column, block, bullet-wake, channel, gemm-tile, mbu, ...
    what: str = "bit-flip"  # a value: bit-flip, stuck, random-bits, power-law, set, zero, nan, histogram, ...

    def __post_init__(self) -> None:
        _ = self.pattern, self.value  # a part that does not exist is refused now

    @property
    def pattern(self) -> Pattern:
        """Where."""
        return _pattern(self.where)

    @property
    def value(self) -> Value:
        """What."""
        return _value(self.what)

    @property
    def digest(self) -> str | None:
        """Digest of the file that the value was read from, if it was."""
        return getattr(self.value, "digest", None)

    def flips(self, population: Population, seed: Seed) -> list[Flips]:
        """Return the changes of the one tensor that ``seed`` strikes.

        Raises:
            InvalidConfig: the population has no bits, or the value cannot befall the tensor.
            UnsupportedFormat: the tensor's codes are no numbers that the value could be.
        """
        if not population.bits:
            raise InvalidConfig("there is no bit to corrupt in an empty population", hint="select at least one site")
        return [self.around(*population.locate(seed.key % population.bits), seed)]

    def around(self, site: Site, element: int, bit: int, seed: Seed) -> Flips:
        """Return the changes around a given bit of ``site``: for a sampling that draws the bit itself."""
        region = self.pattern.region(site, element, bit, derive(seed, "where"))
        return self.value.changes(site, region, derive(seed, "what"))


@lru_cache(maxsize=256)
def _pattern(spec: str) -> Pattern:
    return patterns.build(_bare(spec))


@lru_cache(maxsize=256)
def _value(spec: str) -> Value:
    return values.build(_bare(spec))


def _bare(spec: str) -> str:
    """Return a part as it is written alone; inside a specification with commas it stands in parentheses."""
    return spec[1:-1] if spec.startswith("(") and spec.endswith(")") else spec
