"""Checkpoints: a log's signed statement of its size and root hash (C2SP tlog-checkpoint in a signed-note).

::

    ORIGIN \\n SIZE \\n base64(ROOT) \\n [extension lines] \\n
    — NAME base64(HINT || SIGNATURE) \\n ...

Cosignatures of witnesses, whose names and hints are others', are read over: they add, and nothing depends on them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from holdfast.errors import RecordMissing, SignatureInvalid, UnreadableArtifact
from holdfast.signing.envelope import from_base64
from holdfast.signing.sigstore.trusted_root import Log

_LINE = re.compile("— ([^ \n+]+) ([A-Za-z0-9+/=]+)")
_DIGITS = re.compile(r"0|[1-9][0-9]{0,15}")
_LIMIT = 1 << 16  # characters
_MOST = 32  # signatures


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's size and root hash, of the log that calls itself ``origin``; ``body`` is what is signed."""

    origin: str
    size: int
    root: bytes
    body: bytes
    signatures: tuple[tuple[str, bytes, bytes], ...]  # name, hint (4 bytes), signature


def parse_checkpoint(note: str) -> Checkpoint:
    """Parse a checkpoint strictly; raises :class:`UnreadableArtifact`."""
    body, separator, tail = note.partition("\n\n")
    if len(note) > _LIMIT or not separator or not tail.endswith("\n"):
        raise UnreadableArtifact("the log's checkpoint is no signed note")
    lines, signatures = body.split("\n"), tail[:-1].split("\n")
    if len(lines) < 3 or not lines[0] or not _DIGITS.fullmatch(lines[1]) or len(signatures) > _MOST:
        raise UnreadableArtifact("the log's checkpoint has no origin, size and root")
    root = from_base64(lines[2], "checkpoint root")
    if len(root) != 32:
        raise UnreadableArtifact("the log's checkpoint has a root of another length")
    signed = (body + "\n").encode()
    return Checkpoint(lines[0], int(lines[1]), root, signed, tuple(map(_signature, signatures)))


def _signature(line: str) -> tuple[str, bytes, bytes]:
    found = _LINE.fullmatch(line)
    data = from_base64(found[2], "checkpoint signature") if found else b""
    if found is None or len(data) <= 4:
        raise UnreadableArtifact("the log's checkpoint has a malformed signature line")
    return found[1], data[:4], data[4:]


def verify_checkpoint(note: str, log: Log) -> Checkpoint:
    """Return the checkpoint ``note`` if ``log`` signed it.

    Raises:
        UnreadableArtifact: no signed note of a checkpoint.
        RecordMissing: ``log`` did not sign it, or not exactly once.
        SignatureInvalid: of another origin, or the log's signature does not verify.
    """
    checkpoint = parse_checkpoint(note)
    own = [item for item in checkpoint.signatures if item[0] == log.origin and item[1] == log.log_id[:4]]
    if len(own) != 1:
        raise RecordMissing(f"the checkpoint has {len(own)} signatures by the log {log.origin}, not one")
    if not _same_origin(checkpoint.origin, log.origin):
        raise SignatureInvalid(f"the checkpoint is of {checkpoint.origin!r}, not of the log {log.origin}")
    log.key.verify(own[0][2], checkpoint.body)
    return checkpoint


def _same_origin(origin: str, name: str) -> bool:
    """Return whether a checkpoint's origin is the log's name; Rekor v1 adds the number of the shard's tree."""
    return origin == name or re.fullmatch(re.escape(name) + r" - [0-9]{1,20}", origin) is not None
