"""Revocation lists: signed, versioned, expiring lists of what must not be relied on any more.

An entry names a key, a certificate, a bundle, a model or a dataset. Bytes are specified in
``docs/formats/revocation.md``. A list says nothing of what it does not name, so a verifier must insist on a *current*
list: it expires, its version counts up, and :class:`holdfast.signing.marks.Marks` remembers the highest one seen.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from holdfast.errors import InvalidConfig, SignatureInvalid, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence import canonical
from holdfast.evidence.statement import Statement, Subject
from holdfast.signing.bundle import Verified, sign_statement, verify_bundle
from holdfast.signing.editions import FIELDS, Edition
from holdfast.signing.envelope import read_envelope
from holdfast.signing.marks import Mark
from holdfast.signing.signers.protocol import KeyHolder, Signer
from holdfast.signing.times import now, read_time, write_time
from holdfast.signing.trusts import Threshold, TrustSources

PREDICATE_TYPE = "https://holdfast.dev/revocations/v1"
KINDS = ("key", "certificate", "bundle", "model", "dataset")
SIGNING = ("key", "certificate")  # kinds that sign, whose earlier signatures may stand
REASONS = ("compromise", "poisoned", "unsafe", "superseded", "retired", "withdrawn")
_HEX = re.compile(r"[0-9a-f]{64}")
_CERTIFICATE = re.compile(r"[0-9a-f]{64}/[1-9][0-9]{0,48}")


def bundle_names(data: bytes) -> tuple[str, str]:
    """Return the digests (hex) by which a bundle may be revoked: of its signed payload, and of its bytes.

    The payload's is the one to use: without it a blank in the bundle would make another thing of it.
    """
    payload = read_envelope(data).payload
    return hashlib.sha256(payload).hexdigest(), hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True, order=True)
class Revocation:
    """One thing not to rely on from ``effective`` on.

    Attributes:
        kind: ``key``, ``certificate``, ``bundle``, ``model`` or ``dataset``.
        id: the key's fingerprint; SHA-256 of the issuer's DER name, ``/``, and the serial number; SHA-256 of the
            bundle's signed payload, or of its bytes; the model id; the dataset's digest. Digests are lower-case hex.
        reason: ``compromise`` (somebody else can sign with it), ``poisoned``, ``unsafe``, ``superseded``, ``retired``
            or ``withdrawn``.
        effective: from when on.
    """

    kind: str
    id: str
    reason: str
    effective: datetime

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InvalidConfig(f"nothing of kind {self.kind!r} can be revoked", hint=f"one of {', '.join(KINDS)}")
        if self.reason not in REASONS:
            raise InvalidConfig(f"{self.reason!r} is no reason to revoke", hint=f"one of {', '.join(REASONS)}")
        if not (_CERTIFICATE if self.kind == "certificate" else _HEX).fullmatch(self.id):
            raise InvalidConfig(f"{self.id!r} does not name a {self.kind}", hint="give its digest in lower-case hex")
        write_time(self.effective)  # in UTC to the second, or not at all

    def to_json(self) -> dict[str, str]:
        """Return the JSON form."""
        return {"kind": self.kind, "id": self.id, "reason": self.reason, "effective": write_time(self.effective)}

    @classmethod
    def from_json(cls, value: Any) -> Revocation:
        """Read an entry back; anything not known exactly is refused, for it may be a revocation not understood."""
        if not isinstance(value, dict) or set(value) != {"kind", "id", "reason", "effective"}:
            raise UnreadableArtifact("a revocation needs exactly kind, id, reason and effective")
        if not all(isinstance(item, str) for item in value.values()):
            raise UnreadableArtifact("the fields of a revocation are text")
        effective = read_time(value["effective"], "effective time of a revocation")
        try:
            return cls(value["kind"], value["id"], value["reason"], effective)
        except InvalidConfig as error:
            raise UnreadableArtifact(str(error), hint=error.hint) from error

    def applies(self, *, signed: datetime | None, at: datetime) -> bool:
        """Return whether the entry stands against a thing at ``at``, signed at the proven time ``signed``, if any.

        A compromised key or certificate never counts again: its thief can choose what its signatures say of their
        time. Otherwise signatures that a trusted clock proves to be earlier than ``effective`` stay valid.
        """
        if self.reason == "compromise":
            return True
        if self.kind in SIGNING and signed is not None and signed < self.effective:
            return False
        return at >= self.effective


@dataclass(frozen=True, slots=True)
class RevocationList:
    """One edition of the list called ``name``; entries are sorted, and no thing is named twice."""

    name: str
    edition: Edition
    entries: tuple[Revocation, ...]

    def __post_init__(self) -> None:
        places = [(entry.kind, entry.id) for entry in self.entries]
        if places != sorted(set(places)):
            raise InvalidConfig("the revocations are not sorted, or name a thing twice")

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the canonical predicate: what the statement is about."""
        return hashlib.sha256(canonical.dumps(self.to_json())).hexdigest()

    @property
    def mark(self) -> tuple[str, Mark]:
        """What to remember of it: see :class:`holdfast.signing.marks.Marks`."""
        return f"revocations:{self.name}", Mark(self.edition.version, self.digest)

    def to_json(self) -> dict[str, Any]:
        """Return the predicate."""
        return {"name": self.name, **self.edition.to_json(), "entries": [entry.to_json() for entry in self.entries]}

    def find(self, kind: str, name: str) -> Revocation | None:
        """Return the entry on ``name``, if there is one."""
        return next((entry for entry in self.entries if (entry.kind, entry.id) == (kind, name)), None)

    def against(
        self, kind: str, name: str, *, signed: datetime | None = None, at: datetime | None = None
    ) -> Revocation | None:
        """Return the entry that stands against ``name`` at ``at`` (now by default); see :meth:`Revocation.applies`."""
        entry = self.find(kind, name)
        return entry if entry is not None and entry.applies(signed=signed, at=at or now()) else None

    def next(self, *added: Revocation, issued: datetime | None = None, lifetime: timedelta) -> RevocationList:
        """Return the next edition: all entries of this one and ``added``, which replace those on the same things.

        Raises:
            InvalidConfig: ``added`` would take back a compromise.
        """
        known = {(entry.kind, entry.id): entry for entry in self.entries}
        for entry in added:
            before = known.get((entry.kind, entry.id))
            if before is not None and before.reason == "compromise" != entry.reason:
                raise InvalidConfig(f"{entry.kind} {entry.id[:16]} is compromised and stays so")
            known[entry.kind, entry.id] = entry
        start = issued or now()
        edition = Edition(self.edition.version + 1, start, start + lifetime)
        return RevocationList(self.name, edition, tuple(known[place] for place in sorted(known)))

    @classmethod
    def first(cls, name: str, *entries: Revocation, lifetime: timedelta) -> RevocationList:
        """Return the first edition of a list."""
        start = now()
        return cls(name, Edition(1, start, start + lifetime), tuple(sorted(entries)))


def sign_revocations(revocations: RevocationList, signer: Signer, *more: KeyHolder) -> bytes:
    """Return the bundle over ``revocations``."""
    subject = Subject(f"revocations:{revocations.name}", {"sha256": revocations.digest})
    return sign_statement(Statement((subject,), PREDICATE_TYPE, revocations.to_json()), signer, *more)


def verify_revocations(
    data: bytes,
    trust: TrustSources | Threshold,
    *,
    at: datetime | None = None,
    maximum_age: timedelta | None = None,
) -> tuple[RevocationList, Verified]:
    """Return the list in the bundle ``data`` that ``trust`` signed and that is current at ``at`` (now by default).

    Raises:
        SignatureInvalid, SignerUntrusted: see :func:`holdfast.signing.bundle.verify_bundle`.
        UnreadableArtifact: an entry of an unknown kind, or one that is malformed: it may be meant for you.
        PolicyError: expired, issued in the future, or older than ``maximum_age``.
    """
    proof = verify_bundle(data, trust)
    revocations = parse_revocations(proof.statement)
    revocations.edition.require_current(at, f"revocation list {revocations.name!r}", maximum_age=maximum_age)
    return revocations, proof


def parse_revocations(statement: Statement) -> RevocationList:
    """Return the list that ``statement`` holds, after checking that it is consistent; decides nothing about trust."""
    if statement.predicate_type != PREDICATE_TYPE:
        raise UnsupportedVersion(f"this is a {statement.predicate_type}, not a revocation list")
    revocations = _from_predicate(statement.predicate)
    expected = Subject(f"revocations:{revocations.name}", {"sha256": revocations.digest})
    if statement.subjects != (expected,):
        raise SignatureInvalid("the revocation list is not the one its statement names")
    return revocations


def _from_predicate(value: Mapping[str, Any]) -> RevocationList:
    if set(value) != {"name", "entries", *FIELDS} or not isinstance(value["name"], str) or not value["name"]:
        raise UnreadableArtifact(f"a revocation list needs exactly name, entries, {', '.join(FIELDS)}")
    if not isinstance(value["entries"], list):
        raise UnreadableArtifact("the entries of the revocation list are no list")
    entries = tuple(Revocation.from_json(item) for item in value["entries"])
    try:
        return RevocationList(value["name"], Edition.from_json(value, "revocation list"), entries)
    except InvalidConfig as error:
        raise UnreadableArtifact(str(error)) from error
