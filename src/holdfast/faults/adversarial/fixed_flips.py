"""A list of flips as a fault: what an attack found, written down and replayed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from holdfast._files import read_bytes, write_atomic
from holdfast.errors import DigestMismatch, InvalidConfig, NoSuchSite, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence import canonical
from holdfast.evidence.digest import digest_bytes
from holdfast.execution.condition import Flips, Population, faults
from holdfast.faults.adversarial.changes import flips_of, places_of
from holdfast.models.site import Site
from holdfast.seeds import Seed

FLIPS_TYPE = "holdfast.flips/v1"


@dataclass(frozen=True)
class FlipList:
    """Flipped bits by site; its text is its size and digest, so that a campaign's plan stays short.

    Attributes:
        sites: (site, ((flat element, bit), ...)), in the order of the model; no bit twice.
    """

    sites: tuple[tuple[Site, tuple[tuple[int, int], ...]], ...] = field(repr=False)

    def __post_init__(self) -> None:
        if len({site for site, _ in self.sites}) != len(self.sites):
            raise InvalidConfig("a list of flips names a site twice")
        for site, places in self.sites:
            if not places or len(set(places)) != len(places):
                raise InvalidConfig(f"{site.address} has no flips, or a bit that is flipped twice")
            if any(not (0 <= element < site.numel and 0 <= bit < site.bits) for element, bit in places):
                raise InvalidConfig(
                    f"a flip lies outside the {site.numel} elements of {site.bits} bits of {site.address}"
                )

    @classmethod
    def of(cls, flips: Sequence[Flips]) -> FlipList:
        """List flips that hold for any stored value.

        Raises:
            InvalidConfig: a bit is set or cleared rather than flipped.
        """
        if any(column is not None for item in flips for column in (item.rise, item.fall, item.rewrite)):
            raise InvalidConfig("a bit that is set or cleared flips only where the other value is stored")
        pairs = ((item.site, zip(*(part.tolist() for part in places_of(item)), strict=True)) for item in flips)
        return cls(tuple((site, found) for site, found in ((s, tuple(p)) for s, p in pairs) if found))

    @property
    def bits(self) -> int:
        """Number of flips."""
        return sum(len(places) for _, places in self.sites)

    @cached_property
    def digest(self) -> str:
        """BLAKE3 of the canonical JSON of the sites and their flips."""
        return digest_bytes(canonical.dumps(self.to_json()))

    def to_json(self) -> list[dict[str, Any]]:
        """Return one object per site: kind, name, shape, format, bits, and ``flips`` as [element, bit] pairs."""
        return [
            {name: getattr(site, name) for name in ("kind", "name", "format", "bits")}
            | {"shape": list(site.shape), "flips": [list(place) for place in places]}
            for site, places in self.sites
        ]

    @classmethod
    def from_json(cls, value: object) -> FlipList:
        """Read the list back.

        Raises:
            UnreadableArtifact: anything is missing, extra, of another type or out of range.
        """
        if not isinstance(value, list):
            raise UnreadableArtifact("a list of flips is a JSON array of sites")
        try:
            return cls(tuple(map(_site_of, value)))
        except InvalidConfig as error:
            raise UnreadableArtifact(f"the flips are malformed: {error}") from error

    def __repr__(self) -> str:
        return f"FlipList({self.bits} bits, {self.digest})"


def _site_of(value: object) -> tuple[Site, tuple[tuple[int, int], ...]]:
    known = {"kind": str, "name": str, "format": str, "bits": int, "shape": list, "flips": list}
    if not isinstance(value, dict) or set(value) != set(known):
        raise InvalidConfig(f"a site has exactly {', '.join(sorted(known))}")
    if any(type(value[name]) is not wanted for name, wanted in known.items()):
        raise InvalidConfig("a field of a site has another type")
    pairs = value["flips"]
    whole = all(isinstance(pair, list) and len(pair) == 2 and all(type(x) is int for x in pair) for pair in pairs)
    if not whole or not all(type(side) is int and side >= 0 for side in value["shape"]) or not 1 <= value["bits"] <= 64:
        raise InvalidConfig("a shape is non-negative integers, a width 1 to 64, a flip a pair of integers")
    site = Site(value["kind"], value["name"], tuple(value["shape"]), value["format"], value["bits"])
    return site, tuple((element, bit) for element, bit in pairs)


@faults.register("fixed-flips")
@dataclass(frozen=True, kw_only=True)
class FixedFlips:
    """The same flips every time, whatever the seed: ``fixed-flips:path=attack.json``, or a list in memory.

    Raises:
        InvalidConfig: neither a path nor a list is given, or both.
        UnreadableArtifact: the file is missing or malformed.
        DigestMismatch: the flips in the file were edited; a file without a digest is taken as it is.
    """

    path: str | None = None  # a file that ``save`` wrote, read once
    listed: FlipList | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.listed is None):
            raise InvalidConfig("fixed flips come from a file or from a list", hint="fixed-flips:path=attack.json")
        _ = self.flip_list  # a file that cannot be read is refused now, not in the middle of a campaign

    @cached_property
    def flip_list(self) -> FlipList:
        """The flips."""
        return self.listed if self.listed is not None else _checked(read_flips(self.path or ""))

    @property
    def deterministic(self) -> bool:
        """True: no seed changes the flips."""
        return True

    @property
    def digest(self) -> str:
        """Digest of the flips, whatever file they stand in."""
        return self.flip_list.digest

    def flips(self, population: Population, seed: Seed) -> list[Flips]:
        """Return the listed flips.

        Raises:
            NoSuchSite: a site is not selected, or not of the shape and format it had.
        """
        known = {site.address: site for site in population.sites}
        for site, _ in self.flip_list.sites:
            found = known.get(site.address)
            if found is None:
                raise NoSuchSite(f"the flips of {site.address} fall outside the selection", hint=f"at={site.kind}")
            if found != site:
                raise NoSuchSite(
                    f"{site.address} is {found.format}{list(found.shape)} here and was {site.format}{list(site.shape)}",
                    hint="replay flips on the model they were found for",
                )
        return [flips_of(known[site.address], places) for site, places in self.flip_list.sites]

    def save(self, path: Path | str, **about: Any) -> None:
        """Write the flips and, beside them, whatever ``about`` says of their origin, as canonical JSON."""
        value = about | {"type": FLIPS_TYPE, "digest": self.digest, "sites": self.flip_list.to_json()}
        write_atomic(path, canonical.dumps(value) + b"\n")


def _checked(value: Mapping[str, Any]) -> FlipList:
    listed = FlipList.from_json(value["sites"])
    if value.get("digest", listed.digest) != listed.digest:
        raise DigestMismatch("the flips are not those their digest was written for", hint="run the attack again")
    return listed


def read_flips(path: Path | str) -> Mapping[str, Any]:
    """Return the whole contents of a file of flips.

    Raises:
        UnreadableArtifact: missing, or no strict JSON.
        UnsupportedVersion: not a file of flips of this version.
    """
    value = canonical.loads(read_bytes(path, "flips", limit=canonical.MAX_BYTES), what=str(path))
    if not isinstance(value, dict) or value.get("type") != FLIPS_TYPE or "sites" not in value:
        raise UnsupportedVersion(f"{path} holds no {FLIPS_TYPE}", hint="holdfast attack writes such a file")
    return value
