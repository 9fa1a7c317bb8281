"""What a library of platforms is made of: subjects, machines, entries, and the classes that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from holdfast.evidence import canonical
from holdfast.evidence.digest import digest_bytes

_SHOWN = 8  # letters of a machine's digest that name it


@dataclass(frozen=True, slots=True)
class Subject:
    """One model and one set of probes: only traces of the same subject can be compared."""

    name: str
    model_digest: str
    probe_digest: str

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"name": self.name, "model": self.model_digest, "probes": self.probe_digest}


@dataclass(frozen=True, slots=True)
class Machine:
    """One computer with the software on it: what a setting such as ``batch-1`` is a setting *of*."""

    processor: str
    features: tuple[str, ...]
    system: str
    versions: Mapping[str, str]  # runtime -> version

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self) | {"features": list(self.features), "versions": dict(self.versions)}

    @property
    def name(self) -> str:
        """The start of the digest of the JSON form."""
        return digest_bytes(canonical.dumps(self.to_json()))[:_SHOWN]


@dataclass(frozen=True, slots=True)
class Entry:
    """What one platform of one machine answered.

    Attributes:
        platform: name of the setting, such as ``batch-1``.
        machine: name of the machine.
        described: JSON form of the platform, as its own process saw it.
        outputs: subject name to digest of the output bits.
    """

    platform: str
    machine: str
    described: Mapping[str, Any]
    outputs: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self) | {"described": dict(self.described), "outputs": dict(self.outputs)}


@dataclass(frozen=True, slots=True)
class Skipped:
    """A platform that did not run on a machine, and why; ``subject`` is empty when it ran for none."""

    platform: str
    machine: str
    reason: str
    subject: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class EquivalenceClass:
    """Platforms that no subject tells apart (HSPI's *EQC*, Zhang et al., ICML 2025).

    Attributes:
        labels: the platforms, sorted.
        outputs: subject name to digest of the output bits they share.
    """

    labels: tuple[str, ...]
    outputs: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The labels joined by `` = ``."""
        return " = ".join(self.labels)

    @property
    def digest(self) -> str:
        """Joint digest of the bits over all subjects."""
        return digest_bytes(canonical.dumps(dict(self.outputs)))

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"labels": list(self.labels), "digest": self.digest, "outputs": dict(self.outputs)}
