"""A mixture of faults: what struck how often, operator by operator, as an error model was measured.

A file lists faults with their weights and the sites they befall, as CLASSES (Bolchini et al., 2022) lists, for every
kind of operator, the patterns it saw and what became of the values. It is JSON of exactly these fields::

    {"type": "holdfast.fault-mixture/v1", "source": "where the numbers come from",
     "faults": [{"weight": 0.7, "at": "activations:*conv*", "fault": "corruption:where=channel,what=random-bits"},
                {"weight": 0.3, "at": "*", "fault": "bit-flip"}]}
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from holdfast._files import read_bytes
from holdfast.errors import InvalidConfig, UnreadableArtifact, UnsupportedVersion, UsageError
from holdfast.evidence import canonical
from holdfast.evidence.digest import digest_bytes
from holdfast.execution.condition import Fault, Flips, Population, by_pass, faults
from holdfast.faults.marks import words
from holdfast.seeds import Seed, derive

MIXTURE_TYPE = "holdfast.fault-mixture/v1"


@dataclass(frozen=True)
class Share:
    """One fault of a mixture.

    Attributes:
        weight: how often it strikes, relative to the others that befall the same site.
        at: pattern of site addresses, ``kind:glob``.
        fault: what happens then.
    """

    weight: float
    at: str
    fault: Fault


@faults.register("mixture")
@dataclass(frozen=True, kw_only=True)
class Mixture:
    """One fault of several, drawn for the site that is struck: ``mixture:path=errors.json``, or shares in memory.

    A bit is drawn uniformly, so sites are struck in proportion to their size; among the faults whose ``at`` matches
    that site one is drawn in proportion to its weight, and strikes that site alone.

    Raises:
        InvalidConfig: neither a path nor shares, or both, or a fault that comes and goes with the passes.
        UnreadableArtifact: the file is missing or malformed.
        UnsupportedVersion: another type of file.
    """

    path: str | None = None
    shares: tuple[Share, ...] | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (not self.shares):
            raise InvalidConfig("a mixture comes from a file or from shares", hint="mixture:path=errors.json")
        if any(by_pass(share.fault) for share in self.parts):
            raise InvalidConfig(
                "a mixture has no faults that come and go with the passes", hint="timed:fault=(mixture:...)"
            )

    @functools.cached_property
    def _read(self) -> tuple[tuple[Share, ...], str | None]:
        return (self.shares, None) if self.shares else _read(self.path or "")

    @property
    def parts(self) -> tuple[Share, ...]:
        """The faults and their weights."""
        return self._read[0]

    @property
    def digest(self) -> str | None:
        """Digest of the file, if there is one."""
        return self._read[1]

    def flips(self, population: Population, seed: Seed) -> Sequence[Flips]:
        """Return what befalls the site that ``seed`` strikes.

        Raises:
            InvalidConfig: the population is empty, or no fault is for the site.
        """
        if not population.bits:
            raise InvalidConfig("there is no bit to corrupt in an empty population", hint="select at least one site")
        site, _, _ = population.locate(seed.key % population.bits)
        known = [share for share in self.parts if fnmatchcase(site.address, share.at)]
        if not known:
            raise InvalidConfig(f"the mixture has no fault for {site.address}", hint="add one with at=*")
        ends = np.cumsum([share.weight for share in known])
        drawn = (
            float(words(derive(seed, "share"), np.zeros(1, np.int64)).view(np.uint64)[0] >> np.uint64(11)) * 2.0**-53
        )
        fault = known[int(np.searchsorted(ends[:-1] / ends[-1], drawn, side="right"))].fault
        return fault.flips(Population((site,), population.reader), derive(seed, "fault"))


def _read(path: str) -> tuple[tuple[Share, ...], str]:
    data = read_bytes(path, "mixture of faults", limit=canonical.MAX_BYTES)
    value = canonical.loads(data, what=path)
    if not isinstance(value, dict) or value.get("type") != MIXTURE_TYPE:
        raise UnsupportedVersion(f"{path} holds no {MIXTURE_TYPE}")
    if set(value) != {"type", "source", "faults"} or not isinstance(value["faults"], list) or not value["faults"]:
        raise UnreadableArtifact(f"{path} has exactly type, source and faults, and one fault or more")
    return tuple(_share(item, path) for item in value["faults"]), digest_bytes(data)


def _share(value: Any, path: str) -> Share:
    if not isinstance(value, dict) or set(value) != {"weight", "at", "fault"}:
        raise UnreadableArtifact(f"a fault of {path} has exactly weight, at and fault")
    weight, at, spec = value["weight"], value["at"], value["fault"]
    number = isinstance(weight, int | float) and not isinstance(weight, bool) and 0 < weight < math.inf
    if not number or not isinstance(at, str) or not isinstance(spec, str):
        raise UnreadableArtifact(f"in {path} a weight is a positive number, at and fault are text")
    try:
        return Share(float(weight), at, faults.build(spec))
    except UsageError as error:
        raise UnreadableArtifact(f"in {path}: {error}") from error
