"""What a log entry says: that exactly this content was signed, with this signature, by the key of this certificate.

A log proves that an entry is public; only its body ties the entry to the bundle at hand. Each kind of body has its own
spelling of the same three facts. (Rekor's ``pkg/types``; for v2 ``rekor-tiles``.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from holdfast.errors import SignatureInvalid, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence import canonical
from holdfast.signing.envelope import from_base64, pae
from holdfast.signing.sigstore import strict
from holdfast.signing.sigstore.entry import Entry
from holdfast.signing.x509.certificates import MALFORMED

_LIMIT = 8 << 20
_HASHES = {"SHA2_256": hashlib.sha256, "SHA2_384": hashlib.sha384, "SHA2_512": hashlib.sha512}


@dataclass(frozen=True, slots=True)
class Sealed:
    """A DSSE payload of a type."""

    payload_type: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Message:
    """The SHA-256 of a file that was signed as it is."""

    sha256: bytes


Content = Sealed | Message


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a body says: whether of this content, with which signature, by which certificate (PEM or DER)."""

    matches: bool
    signature: bytes
    verifier: bytes


def verify_body(entry: Entry, content: Content, signature: bytes, leaf: x509.Certificate) -> None:
    """Return if the body of ``entry`` is about ``content``, ``signature`` and ``leaf``.

    Raises:
        UnsupportedVersion: a kind of entry that is unknown, or not for this content.
        UnreadableArtifact: a malformed body.
        SignatureInvalid: it is about something else.
    """
    value = strict.mapping(canonical.loads(entry.body, what="log entry", max_bytes=_LIMIT), "the log entry")
    if (value.get("kind"), value.get("apiVersion")) != entry.kind:
        raise SignatureInvalid("the log entry is of another kind than the bundle says")
    claim = _claim(entry.kind, strict.member(value, "spec"), content)
    if not claim.matches:
        raise SignatureInvalid("the log entry is about other content")
    if claim.signature != signature:
        raise SignatureInvalid("the log entry is about another signature")
    if _der(claim.verifier) != leaf.public_bytes(Encoding.DER):
        raise SignatureInvalid("the log entry is about another signer's certificate")


def _claim(kind: tuple[str, str], spec: Mapping[str, Any], content: Content) -> _Claim:
    if kind == ("dsse", "0.0.1") and isinstance(content, Sealed):
        return _dsse(spec, content)
    if kind == ("intoto", "0.0.2") and isinstance(content, Sealed):
        return _intoto(spec, content)
    if kind == ("hashedrekord", "0.0.1") and isinstance(content, Message):
        return _hashed(spec, content)
    if kind == ("dsse", "0.0.2") and isinstance(content, Sealed):
        return _dsse_tiles(strict.member(spec, "dsseV002"), content)
    if kind == ("hashedrekord", "0.0.2"):
        return _hashed_tiles(strict.member(spec, "hashedRekordV002"), content)
    raise UnsupportedVersion(f"a log entry of kind {kind[0]} {kind[1]} says nothing about this signature")


def _dsse(spec: Mapping[str, Any], content: Sealed) -> _Claim:
    one = _only(spec.get("signatures"))
    signature = strict.binary(one.get("signature"), "logged signature")
    verifier = strict.binary(one.get("verifier"), "logged verifier")
    return _Claim(_same(spec.get("payloadHash"), hashlib.sha256(content.payload)), signature, verifier)


def _intoto(spec: Mapping[str, Any], content: Sealed) -> _Claim:
    inner = strict.member(spec, "content")
    envelope = strict.member(inner, "envelope")
    one = _only(envelope.get("signatures"))
    twice = strict.binary(one.get("sig"), "logged signature")  # this kind encodes the base64 text once more
    same = _same(inner.get("payloadHash"), hashlib.sha256(content.payload))
    matches = same and envelope.get("payloadType") == content.payload_type
    signature = from_base64(twice.decode("ascii", "replace"), "logged signature")
    return _Claim(matches, signature, strict.binary(one.get("publicKey"), "logged verifier"))


def _hashed(spec: Mapping[str, Any], content: Message) -> _Claim:
    signature = strict.member(spec, "signature")
    wanted = {"algorithm": "sha256", "value": content.sha256.hex()}
    return _Claim(
        strict.member(spec, "data").get("hash") == wanted,
        strict.binary(signature.get("content"), "logged signature"),
        strict.binary(strict.member(signature, "publicKey").get("content"), "logged verifier"),
    )


def _dsse_tiles(spec: Mapping[str, Any], content: Sealed) -> _Claim:
    matches = _same_output(spec.get("payloadHash"), content.payload, None)
    return _tile_claim(matches, _only(spec.get("signatures")))


def _hashed_tiles(spec: Mapping[str, Any], content: Content) -> _Claim:
    """Read the record of the bytes under the signature: of a payload they are its DSSE encoding."""
    if isinstance(content, Message):
        matches = _same_output(spec.get("data"), None, content.sha256)
    else:
        matches = _same_output(spec.get("data"), pae(content.payload_type, content.payload), None)
    return _tile_claim(matches, strict.member(spec, "signature"))


def _tile_claim(matches: bool, signature: Mapping[str, Any]) -> _Claim:
    certificate = strict.member(signature, "verifier", "x509Certificate")
    return _Claim(
        matches,
        strict.binary(signature.get("content"), "logged signature"),
        strict.binary(certificate.get("rawBytes"), "logged verifier"),
    )


def _same_output(value: Any, message: bytes | None, sha256: bytes | None) -> bool:
    """Return whether a logged hash (``algorithm``, ``digest``) is that of ``message``, or is the given SHA-256."""
    output = strict.mapping(value, "logged hash")
    algorithm = strict.text(output.get("algorithm"), "algorithm")
    if algorithm not in (_HASHES if message is not None else ("SHA2_256",)):
        raise UnsupportedVersion(f"the log entry hashes with {algorithm!r}")
    wanted = sha256 if message is None else _HASHES[algorithm](message).digest()
    return strict.binary(output.get("digest"), "logged digest") == wanted


def _same(value: Any, digest: Any) -> bool:
    return bool(value == {"algorithm": "sha256", "value": digest.hexdigest()})


def _only(value: Any) -> Mapping[str, Any]:
    """Return the only signature of a logged envelope: a second one would be somebody's whom nobody checks."""
    if not isinstance(value, list) or len(value) != 1:
        raise SignatureInvalid("the log entry does not have exactly one signature")
    return strict.mapping(value[0], "the logged signature")


def _der(verifier: bytes) -> bytes:
    """Return the DER of a certificate in PEM or DER; anything else, such as a bare key, is nobody's certificate."""
    try:
        if verifier.startswith(b"-----BEGIN CERTIFICATE-----"):
            return x509.load_pem_x509_certificate(verifier).public_bytes(Encoding.DER)
        return x509.load_der_x509_certificate(verifier).public_bytes(Encoding.DER)
    except MALFORMED as error:
        raise UnreadableArtifact("the log entry's verifier is no certificate") from error
