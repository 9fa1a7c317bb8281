"""Keyless signatures verified offline: a certificate that lived for minutes, and the public logs that saw it.

The key of a keyless signature is thrown away at once, so all that remains to prove is: somebody with this identity had
this key (Fulcio and the certificate log), used it on this content while the certificate was valid (the signature log's
time, or a timestamp), and that is public (the inclusion proof). Every step is needed; a missing element is a refusal.
Nothing here opens a network connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from holdfast.errors import RecordMissing, SignerUntrusted, UnreadableArtifact, UnsupportedVersion
from holdfast.signing.envelope import CERTIFICATE, Material
from holdfast.signing.sigstore import strict
from holdfast.signing.sigstore.body import Content, verify_body
from holdfast.signing.sigstore.chain import load_certificate
from holdfast.signing.sigstore.entry import Entry, parse_entry, verify_entry
from holdfast.signing.sigstore.fulcio import Subject, read_subject, verify_leaf
from holdfast.signing.sigstore.sct import verify_scts
from holdfast.signing.sigstore.trusted_root import TrustedRoot
from holdfast.signing.sigstore.tsa import verify_timestamp

_MOST_ENTRIES, _MOST_TOKENS = 4, 8


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a bundle brings along for one keyless signature, parsed and not yet believed."""

    leaf: x509.Certificate
    entries: tuple[Entry, ...]
    timestamps: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Signing:
    """Proof that ``subject`` signed at ``time`` with the key of ``leaf``; only :func:`verify_signing` makes one."""

    subject: Subject
    time: datetime
    leaf: x509.Certificate


def read_evidence(material: Material) -> Evidence:
    """Parse the verification material of a keyless bundle.

    Raises:
        UnsupportedVersion: it holds a key or a chain, not one Fulcio certificate.
        RecordMissing: no log entry.
        UnreadableArtifact: malformed, or more entries or timestamps than anybody needs.
    """
    if material.kind != CERTIFICATE:
        raise UnsupportedVersion(f"the bundle is verified by {material.kind}, not by a Fulcio certificate")
    return gather(strict.binary(material.value.get("rawBytes"), "certificate"), material)


def gather(leaf: bytes, material: Material) -> Evidence:
    """Return the evidence about the DER certificate ``leaf``; raises as :func:`read_evidence` does."""
    if not material.tlog_entries:
        raise RecordMissing("the bundle has no log entry")
    if len(material.tlog_entries) > _MOST_ENTRIES or len(material.timestamps) > _MOST_TOKENS:
        raise UnreadableArtifact(f"the bundle has more than {_MOST_ENTRIES} log entries or {_MOST_TOKENS} timestamps")
    if len(set(material.timestamps)) != len(material.timestamps):
        raise UnreadableArtifact("the bundle has one timestamp twice")
    return Evidence(load_certificate(leaf), tuple(map(parse_entry, material.tlog_entries)), material.timestamps)


def verify_signing(evidence: Evidence, content: Content, signature: bytes, root: TrustedRoot) -> Signing:
    """Return who signed ``content`` and when, from everything but the signature's own arithmetic.

    The caller verifies ``signature`` over the content with the key of ``evidence.leaf``, and judges the subject.

    Raises:
        RecordMissing: an element is absent: certificate timestamp, promise, inclusion proof, checkpoint or time.
        SignatureInvalid: an element does not hold, or is about something else.
        SignerUntrusted: an authority or log that the root does not know, or not at that time; a certificate that was
            not valid then, or not made for signing.
        UnreadableArtifact: a malformed element.
        UnsupportedVersion: an unknown kind of log entry.
    """
    times = _times(evidence, signature, root)
    for time in times:
        issuer = verify_leaf(evidence.leaf, root, time)
    verify_scts(evidence.leaf, issuer, root)
    for entry in evidence.entries:
        verify_body(entry, content, signature, evidence.leaf)
        _require_believed(entry, times[0], root)
    return Signing(read_subject(evidence.leaf), times[0], evidence.leaf)


def _times(evidence: Evidence, signature: bytes, root: TrustedRoot) -> list[datetime]:
    """Return every proven time of the signature, timestamps before logs; all of them must fit the certificate."""
    logged = [verify_entry(entry, root) for entry in evidence.entries]
    stamped = [verify_timestamp(token, signature, root) for token in evidence.timestamps]
    times = stamped + [time for time in logged if time is not None]
    if not times:
        raise RecordMissing("nothing proves when it was signed: no timestamp, and no promise with a time")
    return times


def _require_believed(entry: Entry, time: datetime, root: TrustedRoot) -> None:
    log = root.signature_log(entry.log_id)
    if not log.validity.holds(time):
        raise SignerUntrusted(f"the signature log {log.origin} is not believed at {time:%F %T}")
