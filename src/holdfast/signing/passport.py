"""The passport: one signed bundle over every file of an assessment folder."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from holdfast._files import read_bytes, write_atomic
from holdfast.errors import RecordMissing, SignatureInvalid, UnsupportedVersion
from holdfast.evidence.beside import PASSPORT
from holdfast.evidence.digest import digest_tree
from holdfast.evidence.record import Record
from holdfast.evidence.statement import Statement, Subject
from holdfast.signing.bundle import Verified, sign_statement, verify_bundle
from holdfast.signing.keys import load_public
from holdfast.signing.oms import require_same
from holdfast.signing.signers.protocol import KeyHolder
from holdfast.signing.trusts import Threshold, TrustSource

PASSPORT_TYPE = "https://holdfast.dev/passport/v1"
BUNDLE, KEY = PASSPORT, "passport.pub"
_LIMIT = 64 << 20


def write_passport(folder: Path | str, signer: KeyHolder, *, facts: dict[str, Any] | None = None) -> Path:
    """Sign every file below ``folder`` as it is now; write the bundle and the public key beside it.

    Raises:
        UnreadableArtifact: the folder holds a link or a device.
        RecordMissing: there is nothing to sign.
    """
    folder = Path(folder)
    files = digest_tree(folder, exclude=(BUNDLE, KEY))
    if not files:
        raise RecordMissing(f"{folder} holds nothing to sign")
    subjects = tuple(Subject(name, {"blake3": item.blake3, "sha256": item.sha256}) for name, item in files.items())
    statement = Statement(subjects, PASSPORT_TYPE, dict(facts or {}))
    write_atomic(folder / KEY, signer.public.pem)
    write_atomic(folder / BUNDLE, sign_statement(statement, signer))
    return folder / BUNDLE


def verify_passport(folder: Path | str, trust: TrustSource | Threshold | None = None) -> Verified:
    """Return the passport's statement if its signature holds and the folder is exactly what was signed.

    Without ``trust`` the key that lies in the folder is used: that shows that nothing changed since the signature, but
    not who made it, and the proof says ``self_signed``.

    Raises:
        RecordMissing: no passport.
        SignatureInvalid, SignerUntrusted: the bundle is not ``trust``'s, or any byte of it changed.
        DigestMismatch: files are missing, new or changed; the first are named.
    """
    folder = Path(folder)
    if not (folder / BUNDLE).is_file():
        raise RecordMissing(f"{folder} holds no {BUNDLE}", hint="holdfast assess writes one")
    data, pem = (read_bytes(folder / name, "passport", limit=_LIMIT) for name in (BUNDLE, KEY))
    key = load_public(pem)
    if trust is not None:  # the first question is who signed; whether every byte is as it was comes after
        verify_bundle(data, trust)
    proof = verify_bundle(data, key, require_canonical=True)
    if proof.statement.predicate_type != PASSPORT_TYPE:
        raise UnsupportedVersion(f"{BUNDLE} is a {proof.statement.predicate_type}, not a passport")
    if pem != key.pem:
        raise SignatureInvalid(f"{KEY} is not the key that signed, byte for byte")
    _require_signed_files(folder, proof)
    return dataclasses.replace(proof, self_signed=trust is None)


def _require_signed_files(folder: Path, proof: Verified) -> None:
    files = digest_tree(folder, exclude=(BUNDLE, KEY))
    for algorithm in ("sha256", "blake3"):
        signed = {subject.name: _digest(subject, algorithm) for subject in proof.statement.subjects}
        require_same(signed, {name: getattr(item, algorithm) for name, item in files.items()})


def _digest(subject: Subject, algorithm: str) -> str:
    if algorithm not in subject.digest:
        raise SignatureInvalid(f"the passport has no {algorithm} digest of {subject.name}")
    return subject.digest[algorithm]


def passport_records(folder: Path | str, proof: Verified) -> dict[str, Record]:
    """Return the records of a verified passport by file name; bytes are checked again as they are read.

    Raises:
        DigestMismatch: a record changed since ``proof`` was made.
        UnreadableArtifact, UnsupportedVersion: a signed record that this version cannot read.
    """
    result = {}
    for subject in proof.statement.subjects:
        if subject.name.startswith("records/") and subject.name.endswith(".json"):
            data = read_bytes(Path(folder) / subject.name, "record", limit=_LIMIT)
            actual = hashlib.sha256(data).hexdigest()
            require_same({subject.name: _digest(subject, "sha256")}, {subject.name: actual})
            result[subject.name] = Record.from_bytes(data)
    return result
