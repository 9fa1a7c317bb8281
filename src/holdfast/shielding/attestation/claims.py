"""What verified evidence says: the only thing a policy, a key server or an application looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """Statements of one device about one world, each covered by a signature that reaches a trusted root.

    Attributes:
        kind: of the evidence.
        root: SHA-256 (hex) of the trust anchor's public key, or the name of the pinned key.
        identity: which device or module spoke.
        measurements: what runs there, hex by name, such as ``mrenclave`` or ``pcr.12``.
        versions: security versions by name, such as ``tcb.snp`` or ``isv_svn``.
        report_data: what the world was asked to have signed, where the nonce must stand.
        filled: ``report_data`` is a field of fixed size, filled up with zeros behind the nonce.
        debug: the operator can read or change the world's memory.
        tcb: the vendor's word for the platform's patch level; empty where the vendor has none.
        advisories: security advisories that apply.
        unrevoked: current revocation lists, that the vendor or the chain's root signed, name nothing of the chain.
        issued: the evidence's own time, where it states one.
        details: further signed facts for people to read; no policy decides by them.
    """

    kind: str
    root: str
    identity: str
    measurements: Mapping[str, str]
    versions: Mapping[str, int]
    report_data: bytes
    debug: bool
    filled: bool = False
    tcb: str = ""
    advisories: tuple[str, ...] = ()
    unrevoked: bool = False
    issued: datetime | None = None
    details: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the claims as JSON values."""
        return {
            "advisories": list(self.advisories),
            "debug": self.debug,
            "details": dict(self.details),
            "identity": self.identity,
            "issued": None if self.issued is None else self.issued.isoformat(),
            "kind": self.kind,
            "measurements": dict(self.measurements),
            "report_data": self.report_data.hex(),
            "root": self.root,
            "tcb": self.tcb,
            "unrevoked": self.unrevoked,
            "versions": {name: str(value) for name, value in self.versions.items()},
        }
