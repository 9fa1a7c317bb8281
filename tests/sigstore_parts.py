"""The parts of a Sigstore in memory: authority, certificate log, signature logs of both generations, timestamps.

Everything is real cryptography by keys of its own. What each part signs is built here from the documents that define
it, not with the product's code, so that the two can disagree.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import struct
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
FAR_AHEAD = datetime(2090, 1, 1, tzinfo=UTC)
Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def spki(key: Any) -> bytes:
    public = key.public_key() if hasattr(key, "public_key") else key
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def sign(key: Key, message: bytes) -> bytes:
    return (
        key.sign(message, ec.ECDSA(hashes.SHA256()))
        if isinstance(key, ec.EllipticCurvePrivateKey)
        else key.sign(message)
    )


def key_usage(*, signs: bool = True, certifies: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(signs, False, False, False, False, certifies, False, False, False)


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) if text else x509.Name([])


# --- authorities


@dataclass
class Ca:
    """A root and an intermediate below it, whose chain is (intermediate, root)."""

    label: str
    start: datetime = LONG_AGO
    end: datetime = FAR_AHEAD
    key: ec.EllipticCurvePrivateKey = field(default_factory=new_key)
    root_key: ec.EllipticCurvePrivateKey = field(default_factory=new_key)
    intermediate_is_ca: bool = True

    def __post_init__(self) -> None:
        root, middle = name(f"{self.label} root"), name(f"{self.label} intermediate")
        self.root = _certificate(root, root, self.root_key, self.root_key, self, ca=True, length=1)
        self.middle = _certificate(
            middle, root, self.key, self.root_key, self, ca=self.intermediate_is_ca, length=0,
            purpose=ExtendedKeyUsageOID.CODE_SIGNING,
        )  # fmt: skip

    @property
    def chain(self) -> list[x509.Certificate]:
        return [self.middle, self.root]


def _certificate(subject, issuer, key, by, ca_window, *, ca, length=None, purpose=None, critical=False):
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(ca_window.start)
        .not_valid_after(ca_window.end)
        .add_extension(x509.BasicConstraints(ca, length if ca else None), critical=True)
        .add_extension(key_usage(signs=not ca, certifies=ca), critical=True)
    )
    if purpose is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=critical)
    return builder.sign(by, hashes.SHA256())


# --- certificate log (RFC 6962)

SCT_LIST = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")


@dataclass
class CertificateLog:
    """Makes signed certificate timestamps."""

    origin: str = "ctfe.example.org/2026"
    key: ec.EllipticCurvePrivateKey = field(default_factory=new_key)

    @property
    def log_id(self) -> bytes:
        return hashlib.sha256(spki(self.key)).digest()

    def promise(self, tbs: bytes, issuer: x509.Certificate, time: datetime) -> bytes:
        """Return a serialized timestamp over a precertificate's to-be-signed bytes."""
        stamp = struct.pack(">Q", int(time.timestamp() * 1000))
        entry = hashlib.sha256(spki(issuer.public_key())).digest() + struct.pack(">I", len(tbs))[1:] + tbs
        signature = sign(self.key, b"\x00\x00" + stamp + b"\x00\x01" + entry + b"\x00\x00")
        return b"\x00" + self.log_id + stamp + b"\x00\x00" + b"\x04\x03" + struct.pack(">H", len(signature)) + signature


def sct_extension(promises: list[bytes]) -> x509.UnrecognizedExtension:
    items = b"".join(struct.pack(">H", len(item)) + item for item in promises)
    return x509.UnrecognizedExtension(SCT_LIST, der(4, struct.pack(">H", len(items)) + items))


def der(tag: int, data: bytes) -> bytes:
    size = len(data)
    head = bytes([size]) if size < 128 else bytes([0x81, size]) if size < 256 else b"\x82" + struct.pack(">H", size)
    return bytes([tag]) + head + data


# --- signature log (Rekor), both generations


def tree_hash(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, as it is written there."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    return hashlib.sha256(b"\x01" + tree_hash(leaves[:split]) + tree_hash(leaves[split:])).digest()


def audit_path(place: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 6962, section 2.1.1, as it is written there."""
    if len(leaves) == 1:
        return []
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    if place < split:
        return [*audit_path(place, leaves[:split]), tree_hash(leaves[split:])]
    return [*audit_path(place - split, leaves[split:]), tree_hash(leaves[:split])]


@dataclass
class SignatureLog:
    """An append-only log with others' entries before, and one after, the entry in question."""

    origin: str = "rekor.example.org"
    key: Key = field(default_factory=new_key)
    tiles: bool = False  # second generation: no promise, no time
    leaves: list[bytes] = field(default_factory=lambda: [b"entry %d" % number for number in range(11)])
    offset: int = 1000  # of entries in older shards: the global index is not the index in the tree

    @property
    def log_id(self) -> bytes:
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            raw = self.key.public_key().public_bytes_raw()
            return hashlib.sha256(self.origin.encode() + b"\n\x01" + raw).digest()
        return hashlib.sha256(spki(self.key)).digest()

    def add(self, body: dict[str, Any], time: datetime) -> dict[str, Any]:
        """Log ``body`` and return the bundle's ``tlogEntries`` object about it."""
        data = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
        place = len(self.leaves)
        self.leaves += [data, b"somebody else's, later"]
        entry: dict[str, Any] = {
            "logIndex": str(place + (0 if self.tiles else self.offset)),
            "logId": {"keyId": b64(self.log_id)},
            "kindVersion": {"kind": body["kind"], "version": body["apiVersion"]},
            "canonicalizedBody": b64(data),
            "inclusionProof": self.prove(place),
        }
        if not self.tiles:
            entry["integratedTime"] = str(int(time.timestamp()))
            entry["inclusionPromise"] = {"signedEntryTimestamp": b64(self.promise(entry))}
        return entry

    def prove(self, place: int, **note: Any) -> dict[str, Any]:
        return {
            "logIndex": str(place),
            "rootHash": b64(tree_hash(self.leaves)),
            "treeSize": str(len(self.leaves)),
            "hashes": [b64(item) for item in audit_path(place, self.leaves)],
            "checkpoint": {"envelope": self.checkpoint(**note)},
        }

    def promise(self, entry: dict[str, Any], key: Key | None = None) -> bytes:
        """Sign ``{body, integratedTime, logID, logIndex}`` as canonical JSON, whose keys are in order already."""
        text = (
            f'{{"body":"{entry["canonicalizedBody"]}","integratedTime":{entry["integratedTime"]},'
            f'"logID":"{self.log_id.hex()}","logIndex":{entry["logIndex"]}}}'
        )
        return sign(key or self.key, text.encode())

    def checkpoint(
        self, *, origin: str = "", key: Key | None = None, signer: str = "", size: int = 0, root: bytes = b""
    ) -> str:
        origin = origin or (self.origin if self.tiles else f"{self.origin} - 1193050959916656506")
        text = f"{origin}\n{size or len(self.leaves)}\n{b64(root or tree_hash(self.leaves))}\n"
        signature = self.log_id[:4] + sign(key or self.key, text.encode())
        return f"{text}\n— {signer or self.origin} {b64(signature)}\n"


# --- timestamp authority (RFC 3161), by the openssl command


@dataclass
class TimestampAuthority:
    """Stamps with the current time; its key and certificate lie in ``folder`` for the openssl command."""

    folder: Path
    key: ec.EllipticCurvePrivateKey = field(default_factory=new_key)
    root_key: ec.EllipticCurvePrivateKey = field(default_factory=new_key)
    start: datetime = LONG_AGO
    end: datetime = FAR_AHEAD

    def __post_init__(self) -> None:
        root = name("time root")
        self.root = _certificate(root, root, self.root_key, self.root_key, self, ca=True, length=0)
        self.leaf = _certificate(
            name("time"), root, self.key, self.root_key, self, ca=False,
            purpose=ExtendedKeyUsageOID.TIME_STAMPING, critical=True,
        )  # fmt: skip
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "tsa.pem").write_bytes(self.leaf.public_bytes(Encoding.PEM))
        private = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (self.folder / "tsa.key").write_bytes(private)
        (self.folder / "serial").write_text("01\n")
        (self.folder / "tsa.cnf").write_text(
            "[tsa]\ndefault_tsa=t\n[t]\nserial=serial\nsigner_digest=sha256\ndefault_policy=1.2.3.4\n"
            "digests=sha256\nordering=no\ntsa_name=no\ness_cert_id_chain=no\ness_cert_id_alg=sha256\n"
        )

    @property
    def chain(self) -> list[x509.Certificate]:
        return [self.leaf, self.root]

    def stamp(self, message: bytes) -> bytes:
        (self.folder / "message").write_bytes(message)
        self._openssl("ts", "-query", "-data", "message", "-sha256", "-cert", "-out", "query")
        return self.answer((self.folder / "query").read_bytes())

    def answer(self, query: bytes) -> bytes:
        """Return the response to an RFC 3161 request."""
        (self.folder / "query").write_bytes(query)
        reply = ("-reply", "-config", "tsa.cnf", "-queryfile", "query", "-signer", "tsa.pem", "-inkey", "tsa.key")
        self._openssl("ts", *reply, "-out", "answer")
        return (self.folder / "answer").read_bytes()

    def _openssl(self, *arguments: str) -> None:
        command = [shutil.which("openssl") or "openssl", *arguments]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True)
