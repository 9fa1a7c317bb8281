"""What a machine is made of that neutrons can upset, as a TOML file that its owner writes.

::

    [structure.weights]          # any name
    kind = "dram"                # sram, dram, register or logic
    sites = "weights:**"         # what of the campaign lives there; without it every upset counts as a failure
    bits = 2.4e8                 # how many; the cross-section is then per bit, else of the whole structure
    derating = 1.0               # share of the time that they matter, 0..1
    events = 12                  # counted in a beam of
    fluence = 4.1e10             # neutrons per cm2, over
    tested_bits = 8.6e9          # bits; or instead of these three: cross_section = 3.4e-20 (cm2)
    ecc = false                  # true takes what was measured with ECC on, in [structure.weights.with_ecc]
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast._files import read_bytes
from holdfast._registry import unknown
from holdfast.errors import InvalidConfig, UnreadableArtifact

KINDS = ("sram", "dram", "register", "logic")
_SECTION = ("cross_section", "events", "fluence", "tested_bits")
_KEYS = ("kind", "sites", "bits", "derating", "ecc", "with_ecc", *_SECTION)


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossSection:
    """How large a target is, in cm2, per bit or for a whole structure: known, or events counted in a beam.

    Attributes:
        known: cm2, taken as exact; or else
        events: counted,
        fluence: neutrons per cm2 that they were counted under, and
        tested_bits: bits that they were counted in; None: the whole structure.
    """

    known: float | None = None
    events: int | None = None
    fluence: float | None = None
    tested_bits: float | None = None

    def __post_init__(self) -> None:
        if (self.known is None) == (self.events is None) or (self.events is None) != (self.fluence is None):
            hint = "write cross_section = ..., or events = ... and fluence = ..."
            raise InvalidConfig("a cross-section is either known, or events under a fluence", hint=hint)
        numbers = (self.known, self.fluence, self.tested_bits)
        if any(value is not None and not 0 < value < math.inf for value in numbers) or (self.events or 0) < 0:
            raise InvalidConfig("cross-sections, fluences and bits are positive, and events are counted from 0")

    @property
    def exposure(self) -> float:
        """Neutrons per cm2, times tested bits."""
        return (self.fluence or 1.0) * (self.tested_bits or 1.0)

    @property
    def value(self) -> float:
        """cm2."""
        return self.known if self.known is not None else (self.events or 0) / self.exposure


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """One kind of storage or logic of a machine; see the file format above.

    Attributes:
        name: of the structure.
        kind: sram, dram, register or logic.
        section: its cross-section, of one bit where ``bits`` is given.
        bits: how many; None: the cross-section is of the whole structure.
        sites: patterns of the campaign's sites that live there; None: every upset counts as a failure.
        derating: share of the upsets that matter at all, 0..1.
    """

    name: str
    kind: str
    section: CrossSection
    bits: float | None = None
    sites: str | None = None
    derating: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("kind of structure", self.kind, KINDS)
        if not 0 <= self.derating <= 1 or (self.bits is not None and not 0 < self.bits < math.inf):
            raise InvalidConfig(f"{self.name}: a derating lies between 0 and 1, and bits are positive")
        if self.section.events is not None and (self.section.tested_bits is None) != (self.bits is None):
            hint = "give both, for a cross-section per bit, or neither, for one of the whole structure"
            raise InvalidConfig(f"{self.name}: bits and tested_bits go together", hint=hint)


def read_structures(path: Path | str) -> list[Structure]:
    """Read the structures of a machine from a TOML file.

    Raises:
        UnreadableArtifact: no such file, or no TOML.
        UnknownName: a key or kind that does not exist.
        InvalidConfig: no structure, a cross-section that is missing or ambiguous, or ECC on that was not measured.
    """
    try:
        table = tomllib.loads(read_bytes(path, "structures").decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UnreadableArtifact(f"{path} is no TOML file: {error}") from error
    found = table.get("structure")
    if not isinstance(found, dict) or not found or not all(isinstance(item, dict) for item in found.values()):
        raise InvalidConfig(f"{path} describes no structure", hint="write [structure.NAME] and what it is made of")
    return [_structure(name, item) for name, item in found.items()]


def _structure(name: str, table: Mapping[str, Any]) -> Structure:
    for key in table:
        if key not in _KEYS:
            raise unknown(f"key of structure {name!r}", key, _KEYS)
    measured = table
    if table.get("ecc", False):
        measured = table.get("with_ecc", {})
        if not measured:
            hint = f"measure it and write [structure.{name}.with_ecc]: no factor is made up here"
            raise InvalidConfig(f"{name}: ECC is on, but its cross-section was measured without", hint=hint)
    section = {key: _number(name, key, measured[key]) for key in _SECTION if key in measured}
    options = {key: _number(name, key, table[key]) for key in ("bits", "derating") if key in table}
    return Structure(
        name=name,
        kind=str(table.get("kind", "")),
        section=CrossSection(
            known=section.get("cross_section"),
            events=_whole(name, section.get("events")),
            fluence=section.get("fluence"),
            tested_bits=section.get("tested_bits"),
        ),
        sites=None if table.get("sites") is None else str(table["sites"]),
        **options,
    )


def _number(name: str, key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InvalidConfig(f"{name}: {key} = {value!r} is no number")
    return float(value)


def _whole(name: str, value: float | None) -> int | None:
    if value is not None and value != int(value):
        raise InvalidConfig(f"{name}: events are counted, so {value} is none")
    return None if value is None else int(value)
