"""The pinned root of a Sigstore instance: ``trusted_root.json`` of media type v0.1, as protobuf-specs define it.

It lists the certificate authorities (Fulcio), the certificate-transparency logs, the signature logs (Rekor) and the
timestamp authorities, each with the time during which it is to be believed. Whoever can change this file decides who
signed, so it comes from a channel that is trusted already; nothing here fetches it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509

from holdfast._files import read_bytes
from holdfast.errors import SignerUntrusted, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence import canonical
from holdfast.signing.sigstore import strict
from holdfast.signing.sigstore.chain import load_certificate, require_linked
from holdfast.signing.sigstore.log_key import LogKey

MEDIA_TYPES = (
    "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
    "application/vnd.dev.sigstore.trustedroot.v0.1+json",
)
_MOST = 64  # logs or authorities of one kind
_LIMIT = 4 << 20  # bytes of the file


@dataclass(frozen=True, slots=True)
class Validity:
    """From ``start`` to ``end``, both included; an open end is None."""

    start: datetime
    end: datetime | None

    def holds(self, time: datetime) -> bool:
        """Return whether ``time`` is inside."""
        return self.start <= time and (self.end is None or time <= self.end)


@dataclass(frozen=True, slots=True)
class Log:
    """A transparency log: the host that names it, its id (32 bytes), its key, and when to believe it."""

    origin: str
    log_id: bytes
    key: LogKey
    validity: Validity


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate chain, issuing certificate first and self-signed root last, and when to believe it."""

    chain: tuple[x509.Certificate, ...]
    validity: Validity


@dataclass(frozen=True, slots=True)
class TrustedRoot:
    """Whom a Sigstore instance consists of; hashable, so that a trust built on it counts once."""

    authorities: tuple[Authority, ...]
    signature_logs: tuple[Log, ...]
    certificate_logs: tuple[Log, ...]
    timestamp_authorities: tuple[Authority, ...]

    def signature_log(self, log_id: bytes) -> Log:
        """Return the signature log called ``log_id``; raise :class:`SignerUntrusted` for an unknown one."""
        return _find(self.signature_logs, log_id, "signature log")

    def certificate_log(self, log_id: bytes) -> Log:
        """Return the certificate log called ``log_id``; raise :class:`SignerUntrusted` for an unknown one."""
        return _find(self.certificate_logs, log_id, "certificate log")


def _find(logs: tuple[Log, ...], log_id: bytes, what: str) -> Log:
    for log in logs:
        if log.log_id == log_id:
            return log
    raise SignerUntrusted(f"the trusted root knows no {what} {log_id.hex()[:20]}")


def read_trusted_root(path: Path | str) -> TrustedRoot:
    """Read a ``trusted_root.json``; raises as :func:`parse_trusted_root` does."""
    return parse_trusted_root(read_bytes(path, "trusted root", limit=_LIMIT))


def parse_trusted_root(data: bytes) -> TrustedRoot:
    """Parse a trusted root strictly.

    Raises:
        UnsupportedVersion: another media type.
        UnreadableArtifact: malformed, a log id that is not its key's, or a chain that does not end in its own root.
    """
    value = strict.mapping(canonical.loads(data, what="trusted root"), "the trusted root")
    if value.get("mediaType") not in MEDIA_TYPES:
        raise UnsupportedVersion(f"unknown media type {value.get('mediaType')!r} of a trusted root")
    root = TrustedRoot(
        authorities=_authorities(value, "certificateAuthorities"),
        signature_logs=_logs(value, "tlogs"),
        certificate_logs=_logs(value, "ctlogs"),
        timestamp_authorities=_authorities(value, "timestampAuthorities"),
    )
    if not root.authorities or not root.signature_logs or not root.certificate_logs:
        raise UnreadableArtifact("a trusted root needs a certificate authority, a signature log and a certificate log")
    return root


def _authorities(value: Mapping[str, Any], key: str) -> tuple[Authority, ...]:
    return tuple(parse_authority(item) for item in strict.listed(value.get(key), key, most=_MOST))


def parse_authority(value: Any) -> Authority:
    """Parse one certificate authority; raises :class:`UnreadableArtifact` for a chain that is empty or incomplete."""
    listed = strict.listed(strict.member(value, "certChain").get("certificates"), "certificates", most=_MOST)
    chain = tuple(
        load_certificate(strict.binary(strict.mapping(item, "certificate").get("rawBytes"), "certificate"))
        for item in listed
    )
    require_linked(chain)
    return Authority(chain, _validity(value))


def _logs(value: Mapping[str, Any], key: str) -> tuple[Log, ...]:
    logs = tuple(_log(item) for item in strict.listed(value.get(key), key, most=_MOST))
    if len({log.log_id for log in logs}) != len(logs):
        raise UnreadableArtifact(f"two of the {key} have one id")
    return logs


def _log(value: Any) -> Log:
    public = strict.member(value, "publicKey")
    if value.get("hashAlgorithm") != "SHA2_256":
        raise UnreadableArtifact(f"a log hashes with {value.get('hashAlgorithm')!r}, not SHA2_256")
    key = LogKey(strict.binary(public.get("rawBytes"), "log key"), strict.text(public.get("keyDetails"), "keyDetails"))
    origin = _origin(strict.text(value.get("baseUrl"), "baseUrl"))
    log_id = strict.binary(strict.member(value, "logId").get("keyId"), "log id", length=32)
    if log_id not in key.names(origin):
        raise UnreadableArtifact(f"the id of the log {origin} is not its key's")
    return Log(origin, log_id, key, _validity(public))


def _origin(url: str) -> str:
    """Return a log's name in its checkpoints: its address without scheme and final slash."""
    parts = urlsplit(url)
    plain = parts.scheme in ("http", "https") and parts.netloc and "@" not in parts.netloc
    if not plain or parts.query or parts.fragment:
        raise UnreadableArtifact(f"a log's address is {url!r}, no plain URL")
    return (parts.netloc + parts.path).rstrip("/")


def _validity(value: Any) -> Validity:
    window = strict.member(value, "validFor")
    end = window.get("end")
    until = None if end is None else strict.moment(end, "validFor.end")
    return Validity(strict.moment(window.get("start"), "validFor.start"), until)
