"""Entries of a signature log (Rekor) as a bundle carries them, and the three proofs that the log has them.

* the **promise** (SET): the log's signature over the entry, its place and its time, as RFC 8785 JSON;
* the **inclusion proof**: the way from the entry to the root of the log's Merkle tree;
* the **checkpoint**: the log's signature over that root.

Logs of the first generation give all three. Those of the second (tiles) give no promise and no time, so the time comes
from a timestamp authority.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from holdfast.errors import (
    RecordMissing,
    SignatureInvalid,
    SignerUntrusted,
    UnreadableArtifact,
    UnsupportedVersion,
)
from holdfast.evidence import canonical
from holdfast.signing.envelope import to_base64
from holdfast.signing.sigstore import strict
from holdfast.signing.sigstore.checkpoint import verify_checkpoint
from holdfast.signing.sigstore.merkle import leaf_hash, verify_inclusion
from holdfast.signing.sigstore.trusted_root import Log, TrustedRoot

_MOST_HASHES = 64
FIRST = {("hashedrekord", "0.0.1"), ("dsse", "0.0.1"), ("intoto", "0.0.2")}  # kinds of entries of Rekor v1
SECOND = {("hashedrekord", "0.0.2"), ("dsse", "0.0.2")}  # of Rekor v2
_LAST = 253_402_300_799  # seconds: the end of the year 9999


@dataclass(frozen=True, slots=True)
class Proof:
    """Where in the log's tree the entry stands, and the signed root that says so."""

    index: int
    size: int
    root: bytes
    hashes: tuple[bytes, ...]
    checkpoint: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One log entry; ``body`` are the bytes the log keeps, ``integrated`` seconds since 1970 or 0."""

    log_id: bytes
    index: int
    kind: tuple[str, str]
    integrated: int
    promise: bytes
    proof: Proof
    body: bytes


def parse_entry(value: Mapping[str, Any]) -> Entry:
    """Parse one of a bundle's ``tlogEntries``.

    Raises:
        UnreadableArtifact: malformed.
        RecordMissing: without its inclusion proof or the proof's checkpoint.
        UnsupportedVersion: of an unknown kind.
    """
    integrated = strict.whole(value.get("integratedTime"), "integratedTime")
    if integrated > _LAST:
        raise UnreadableArtifact("the log entry's time is after the year 9999")
    promise = value.get("inclusionPromise") or {}
    token = strict.mapping(promise, "inclusionPromise").get("signedEntryTimestamp")
    return Entry(
        log_id=strict.binary(strict.member(value, "logId").get("keyId"), "log id", length=32),
        index=strict.whole(value.get("logIndex"), "logIndex"),
        kind=_kind(strict.member(value, "kindVersion")),
        integrated=integrated,
        promise=strict.binary(token, "log promise") if token else b"",
        proof=_proof(value.get("inclusionProof")),
        body=strict.binary(value.get("canonicalizedBody"), "log entry"),
    )


def _kind(value: Mapping[str, Any]) -> tuple[str, str]:
    kind = strict.text(value.get("kind"), "kind"), strict.text(value.get("version"), "version")
    if kind not in FIRST | SECOND:
        raise UnsupportedVersion(f"unknown kind of log entry: {kind[0]} {kind[1]}")
    return kind


def _proof(value: Any) -> Proof:
    if not value:
        raise RecordMissing("the log entry has no inclusion proof")
    proof = strict.mapping(value, "inclusionProof")
    note = strict.mapping(proof.get("checkpoint") or {}, "checkpoint").get("envelope")
    if not note:
        raise RecordMissing("the log entry's inclusion proof has no checkpoint")
    hashes = strict.listed(proof.get("hashes"), "hashes", most=_MOST_HASHES)
    return Proof(
        index=strict.whole(proof.get("logIndex"), "inclusionProof.logIndex"),
        size=strict.whole(proof.get("treeSize"), "inclusionProof.treeSize"),
        root=strict.binary(proof.get("rootHash"), "root hash", length=32),
        hashes=tuple(strict.binary(item, "proof hash", length=32) for item in hashes),
        checkpoint=strict.text(note, "checkpoint"),
    )


def verify_entry(entry: Entry, root: TrustedRoot) -> datetime | None:
    """Return when ``entry`` came into a pinned log, by that log's own promise; None where such a log makes none.

    Raises:
        SignerUntrusted: a log that the root does not know, or does not believe at that time.
        RecordMissing: no promise from a log of the first generation.
        SignatureInvalid: the promise, the inclusion proof or the checkpoint does not hold.
    """
    log = root.signature_log(entry.log_id)
    _verify_inclusion(entry, log)
    if entry.kind in SECOND and not entry.promise:
        return None
    return _verify_promise(entry, log)


def _verify_inclusion(entry: Entry, log: Log) -> None:
    proof = entry.proof
    checkpoint = verify_checkpoint(proof.checkpoint, log)
    if (checkpoint.size, checkpoint.root) != (proof.size, proof.root):
        raise SignatureInvalid("the log's inclusion proof is for another tree than its checkpoint")
    verify_inclusion(leaf_hash(entry.body), proof.index, proof.size, proof.hashes, proof.root)


def _verify_promise(entry: Entry, log: Log) -> datetime:
    if not entry.promise or not entry.integrated:
        raise RecordMissing("the log entry has no signed promise with its time")
    try:
        log.key.verify(entry.promise, promise_message(entry))
    except SignatureInvalid:
        raise SignatureInvalid("the log's promise is not for this entry, place and time, or not this log's") from None
    time = datetime.fromtimestamp(entry.integrated, UTC)
    if not log.validity.holds(time):
        raise SignerUntrusted(f"the signature log {log.origin} is not believed at {time:%F %T}")
    return time


def promise_message(entry: Entry) -> bytes:
    """Return the canonical JSON under a log's promise."""
    content = {
        "body": to_base64(entry.body),
        "integratedTime": entry.integrated,
        "logID": entry.log_id.hex(),
        "logIndex": entry.index,
    }
    return canonical.dumps(content)
