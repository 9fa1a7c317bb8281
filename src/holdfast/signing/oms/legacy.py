"""Signatures of ``model-signing`` before 1.1, read only when the caller asks for it; none is ever written.

Version 0.2 signed a text that is no DSSE encoding: ``DSSEV1``, the lengths, and Python's ``repr`` of the payload,
always hashed with SHA-256; its statement has the predicate ``Digests/v0.1`` and a subject per file, without a root.
Versions 0.3.1 to 1.0.1 put the whole public key into the bundle instead of its fingerprint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from holdfast.errors import SignatureInvalid, UnsupportedVersion
from holdfast.evidence import canonical
from holdfast.evidence.beside import is_canonical
from holdfast.evidence.statement import PAYLOAD_TYPE, Statement
from holdfast.signing.envelope import PUBLIC_KEY, Checker, Envelope
from holdfast.signing.oms.serialization import Serialization, require_count
from holdfast.signing.oms.statement import Listing

PREDICATE_TYPE = "https://model_signing/Digests/v0.1"
_HINT = "verify it with --legacy if you must, and have it signed again"


@dataclass(frozen=True, slots=True)
class LegacyEnvelope(Envelope):
    """An envelope whose signature is over version 0.2's own encoding."""

    @property
    def signed(self) -> bytes:
        """The bytes under the signature: the ``repr`` is the defect that makes them what they are."""
        head = f"DSSEV1 {len(self.payload_type)} {self.payload_type} {len(self.payload)} "
        return f"{head}{self.payload!r}".encode()

    def check(self, index: int, key: Checker) -> None:
        """Check signature ``index`` with SHA-256, which version 0.2 used on every curve."""
        key.verify(self.signatures[index].value, self.signed, sha256=True)


def as_signed(envelope: Envelope, *, legacy: bool) -> Envelope:
    """Return ``envelope`` with the encoding under which its payload was signed.

    The payload's own predicate says which encoding that is; neither passes for the other.

    Raises:
        UnsupportedVersion: an old format, and ``legacy`` is not allowed.
    """
    old_statement = _predicate_type(envelope) == PREDICATE_TYPE
    old_key = envelope.material.kind == PUBLIC_KEY and "rawBytes" in envelope.material.value
    if (old_statement or old_key) and not legacy:
        raise UnsupportedVersion("the signature is in a format of model-signing before 1.1", hint=_HINT)
    if not old_statement:
        return envelope
    return LegacyEnvelope(envelope.payload, envelope.payload_type, envelope.signatures, envelope.material)


def _predicate_type(envelope: Envelope) -> Any:
    value = canonical.loads(envelope.payload, what="statement") if envelope.payload_type == PAYLOAD_TYPE else None
    return value.get("predicateType") if isinstance(value, dict) else None


def read_legacy(statement: Statement, payload: bytes) -> Listing:
    """Return what a statement of version 0.2 signs: every subject is a file.

    Raises:
        SignatureInvalid: a malformed name, or a digest that is not the SHA-256 of a whole file.
    """
    subjects = canonical.loads(payload, what="statement")["subject"]
    require_count(len(subjects))
    for subject in statement.subjects:
        if not is_canonical(subject.name):
            raise SignatureInvalid(f"the signed statement holds the file name {subject.name!r}")
    for value in subjects:
        if set(value["digest"]) != {"sha256"} or value.get("annotations") != {"actual_hash_algorithm": "file-sha256"}:
            raise SignatureInvalid(f"the signed digest of {value['name']} is not the SHA-256 of a file")
    return Listing(Serialization(), {item.name: item.digest["sha256"] for item in statement.subjects})
