"""A whole Sigstore in memory, for tests: it issues genuine keyless bundles for whatever is signed in it.

Its parts are in :mod:`tests.sigstore_parts`; here is how they work together, and somebody who signs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from holdfast.signing.envelope import Material, pae
from tests.sigstore_parts import (
    Ca,
    CertificateLog,
    SignatureLog,
    TimestampAuthority,
    b64,
    der,
    key_usage,
    name,
    new_key,
    sct_extension,
    sign,
    spki,
)

IDENTITY, ISSUER = "ada@example.org", "https://login.example.org"

ISSUER_RAW = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
ISSUER_TAGGED = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")


@dataclass
class World:
    """An instance of Sigstore; ``trusted_root()`` is what its users pin."""

    time: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    ca: Ca = field(default_factory=lambda: Ca("example"))
    certificate_log: CertificateLog = field(default_factory=CertificateLog)
    log: SignatureLog = field(default_factory=SignatureLog)
    tsa: TimestampAuthority | None = None

    def trusted_root(self) -> dict[str, Any]:
        return {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [_log_json(self.log)],
            "certificateAuthorities": [_authority_json(self.ca.chain)],
            "ctlogs": [_log_json(self.certificate_log)],
            "timestampAuthorities": [_authority_json(self.tsa.chain)] if self.tsa else [],
        }

    def login(self, **changes: Any) -> Session:
        """Return somebody with a fresh certificate; ``changes`` are parameters of :func:`certify`."""
        key = changes.pop("key", None) or new_key()
        return Session(self, key, certify(self, key, **changes))


def _validity() -> dict[str, str]:
    return {"start": "2020-01-01T00:00:00.000Z"}


def _log_json(log: CertificateLog | SignatureLog) -> dict[str, Any]:
    edwards = isinstance(log.key, ed25519.Ed25519PrivateKey)
    details = "PKIX_ED25519" if edwards else "PKIX_ECDSA_P256_SHA_256"
    return {
        "baseUrl": f"https://{log.origin}",
        "hashAlgorithm": "SHA2_256",
        "publicKey": {"rawBytes": b64(spki(log.key)), "keyDetails": details, "validFor": _validity()},
        "logId": {"keyId": b64(log.log_id)},
    }


def _authority_json(chain: list[x509.Certificate]) -> dict[str, Any]:
    certificates = [{"rawBytes": b64(item.public_bytes(Encoding.DER))} for item in chain]
    subject = {"organization": "example.org", "commonName": "example"}
    return {
        "subject": subject,
        "uri": "https://example.org",
        "certChain": {"certificates": certificates},
        "validFor": _validity(),
    }


def certify(
    world: World,
    key: ec.EllipticCurvePrivateKey,
    *,
    names: list[x509.GeneralName] | None = None,
    issuer: bytes | None = ISSUER.encode(),
    tagged: bytes | None = ISSUER.encode(),
    purposes: tuple[x509.ObjectIdentifier, ...] = (ExtendedKeyUsageOID.CODE_SIGNING,),
    usage: x509.KeyUsage | None = None,
    is_ca: bool = False,
    start: datetime | None = None,
    by: Ca | None = None,
    certificate_logs: list[CertificateLog] | None = None,
    logged_tbs: Callable[[bytes], bytes] = lambda tbs: tbs,
    logged_issuer: x509.Certificate | None = None,
    extra: tuple[tuple[x509.ExtensionType, bool], ...] = (),
) -> x509.Certificate:
    """Issue a certificate as Fulcio does: the precertificate is logged, and its timestamps are put inside."""
    ca, start = by or world.ca, start or world.time - timedelta(seconds=5)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(""))
        .issuer_name(ca.middle.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(minutes=10))
        .add_extension(usage or key_usage(), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key()), critical=False)
    )
    for value, critical in _extensions(names, issuer, tagged, purposes, is_ca, extra):
        builder = builder.add_extension(value, critical)
    logs = [world.certificate_log] if certificate_logs is None else certificate_logs
    if logs:
        tbs = logged_tbs(builder.sign(ca.key, hashes.SHA256()).tbs_certificate_bytes)
        promises = [log.promise(tbs, logged_issuer or ca.middle, start) for log in logs]
        builder = builder.add_extension(sct_extension(promises), critical=False)
    return builder.sign(ca.key, hashes.SHA256())


def _extensions(names, issuer, tagged, purposes, is_ca, extra):
    if purposes:
        yield x509.ExtendedKeyUsage(list(purposes)), False
    if names != []:
        yield x509.SubjectAlternativeName(names or [x509.RFC822Name(IDENTITY)]), True
    if issuer is not None:
        yield x509.UnrecognizedExtension(ISSUER_RAW, issuer), False
    if tagged is not None:
        yield x509.UnrecognizedExtension(ISSUER_TAGGED, der(12, tagged)), False
    if is_ca:
        yield x509.BasicConstraints(True, None), True
    yield from extra


def sha2(message: bytes) -> dict[str, str]:
    return {"algorithm": "SHA2_256", "digest": b64(hashlib.sha256(message).digest())}


@dataclass
class Session:
    """Somebody with a certificate for ten minutes: a signer, whose bundles are keyless ones."""

    world: World
    key: ec.EllipticCurvePrivateKey
    leaf: x509.Certificate
    stamped: bool = False
    kind: str = "dsse"
    time: datetime | None = None

    def seal(self, payload_type: str, payload: bytes) -> tuple[bytes, Material]:
        signature = sign(self.key, pae(payload_type, payload))
        entry = self.world.log.add(self.body(payload_type, payload, signature), self.time or self.world.time)
        return signature, self.material(entry, signature)

    def material(self, entry: dict[str, Any], signature: bytes) -> Material:
        tokens = (self.world.tsa.stamp(signature),) if self.stamped and self.world.tsa else ()
        return Material("certificate", {"rawBytes": b64(self.leaf.public_bytes(Encoding.DER))}, (entry,), tokens)

    def body(self, payload_type: str, payload: bytes, signature: bytes) -> dict[str, Any]:
        """Return what the log keeps about the signature."""
        if self.world.log.tiles and self.kind == "dsse 0.0.2":
            inner = {"payloadHash": sha2(payload), "signatures": [self.tile_signature(signature)]}
            return {"apiVersion": "0.0.2", "kind": "dsse", "spec": {"dsseV002": inner}}
        if self.world.log.tiles:
            return self.tile_body(pae(payload_type, payload), signature)
        digest = {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()}
        pem = b64(self.leaf.public_bytes(Encoding.PEM))
        if self.kind == "intoto":
            inner = [{"publicKey": pem, "sig": b64(b64(signature).encode())}]
            envelope = {"payloadType": payload_type, "signatures": inner}
            content = {"envelope": envelope, "hash": digest, "payloadHash": digest}
            return {"apiVersion": "0.0.2", "kind": "intoto", "spec": {"content": content}}
        spec = {
            "envelopeHash": digest,  # of the JSON that was sent, which nobody can compute again
            "payloadHash": digest,
            "signatures": [{"signature": b64(signature), "verifier": pem}],
        }
        return {"apiVersion": "0.0.1", "kind": "dsse", "spec": spec}

    def tile_signature(self, signature: bytes) -> dict[str, Any]:
        certificate = {"rawBytes": b64(self.leaf.public_bytes(Encoding.DER))}
        verifier = {"keyDetails": "PKIX_ECDSA_P256_SHA_256", "x509Certificate": certificate}
        return {"content": b64(signature), "verifier": verifier}

    def tile_body(self, message: bytes, signature: bytes) -> dict[str, Any]:
        record = {"data": sha2(message), "signature": self.tile_signature(signature)}
        return {"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": {"hashedRekordV002": record}}

    def sign_file(self, path: Path) -> bytes:
        """Return a bundle that signs a file as it is."""
        data = path.read_bytes()
        signature, digest = sign(self.key, data), hashlib.sha256(data)
        if self.world.log.tiles:
            body = self.tile_body(data, signature)
        else:
            spec = {
                "data": {"hash": {"algorithm": "sha256", "value": digest.hexdigest()}},
                "signature": {
                    "content": b64(signature),
                    "publicKey": {"content": b64(self.leaf.public_bytes(Encoding.PEM))},
                },
            }
            body = {"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": spec}
        material = self.material(self.world.log.add(body, self.time or self.world.time), signature)
        value = {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": material.to_json(),
            "messageSignature": {
                "messageDigest": sha2(data),
                "signature": b64(signature),
            },
        }
        return json.dumps(value).encode()
