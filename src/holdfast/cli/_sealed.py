"""Signing a folder of evidence: a record of what was observed beside it, and one bundle over every file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from holdfast._files import write_atomic
from holdfast.cli._common import password_for, say
from holdfast.evidence.beside import PASSPORT

if TYPE_CHECKING:
    from holdfast.evidence.record import Record
    from holdfast.signing import KeyHolder


def signer_for(key: str | None, password_file: str | None) -> KeyHolder | None:
    """Return who is to sign, before any work is done; None without a key."""
    if key is None:
        return None
    from holdfast.signing.signers import load_signer, require_key

    return require_key(load_signer(key, password=password_for(password_file)))


def seal(folder: Path, record: Record, signer: KeyHolder | None) -> str | None:
    """Write the record into ``folder`` and sign every file there; return the fingerprint, or None without a signer.

    ``holdfast verify FOLDER --trust KEY.pub`` verifies it, and ``holdfast check --evidence FOLDER`` reads the record.
    """
    if signer is None:
        if (folder / PASSPORT).exists():
            say(f"note: the signature in {folder} is of before this call; sign again with --key")
        return None
    from holdfast.signing.passport import write_passport

    write_atomic(folder / "records" / f"{record.kind}.json", record.to_bytes())
    write_passport(folder, signer, facts={"kind": record.kind, "subject": record.subject.to_json()})
    say(f"signed by {signer.public.fingerprint}: holdfast verify {folder} --trust KEY.pub")
    return signer.public.fingerprint
