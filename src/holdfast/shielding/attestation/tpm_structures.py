"""The structures of TPM 2.0 that a quote consists of (TCG, TPM 2.0 Library, Part 2). All integers are big-endian."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from holdfast.errors import SignerUntrusted, UnreadableArtifact
from holdfast.shielding.attestation.cursor import Cursor

HASHES: Mapping[int, str] = {0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512"}  # no SHA-1
_CRYPTOGRAPHY: Mapping[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
RSA, ECC, NULL = 0x0001, 0x0023, 0x0010
RSASSA, RSAPSS, ECDSA = 0x0014, 0x0016, 0x0018
_CURVES: Mapping[int, type[ec.EllipticCurve]] = {0x0003: ec.SECP256R1, 0x0004: ec.SECP384R1, 0x0005: ec.SECP521R1}
_MAGIC, _QUOTE = 0xFF544347, 0x8018
_FIELD = 2048  # bytes; no field of a quote is longer
_BANKS, _REGISTERS = 8, 24
# made inside the TPM and unable to leave it, signs, and signs nothing that pretends to come from the TPM
_NEEDED = {"fixedTPM": 1, "fixedParent": 4, "sensitiveDataOrigin": 5, "restricted": 16, "sign": 18}
_DECRYPT = 17
Key = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@dataclass(frozen=True, slots=True)
class Attestation:
    """A TPMS_ATTEST of type quote; ``selected`` lists the registers by bank, in the order they were hashed."""

    extra: bytes
    clock: int
    resets: int
    restarts: int
    safe: bool
    firmware: int
    selected: tuple[tuple[str, tuple[int, ...]], ...]
    digest: bytes


@dataclass(frozen=True, slots=True)
class AttestationKey:
    """A TPMT_PUBLIC that may sign quotes; ``name`` is the TPM's own name of it, hex."""

    name: str
    key: Key


@dataclass(frozen=True, slots=True)
class Signature:
    """A TPMT_SIGNATURE: ``values`` holds r and s, or the one RSA signature."""

    scheme: int
    hash: str
    values: tuple[bytes, ...]


def hash_of(name: str) -> hashes.HashAlgorithm:
    """Return the hash of a bank or scheme."""
    return _CRYPTOGRAPHY[name]


def read_attestation(data: bytes) -> Attestation:
    """Read a TPMS_ATTEST.

    Raises:
        UnreadableArtifact: it was not made by a TPM, is no quote, or is malformed.
    """
    cursor = Cursor(data, "TPM quote", "big")
    if cursor.number(4) != _MAGIC:
        raise UnreadableArtifact("the TPM quote was not made by a TPM (no TPM_GENERATED_VALUE)")
    if cursor.number(2) != _QUOTE:
        raise UnreadableArtifact("the TPM attests something else than a quote of registers")
    cursor.block(2, limit=_FIELD)  # the qualified name of the key, which only its own TPM can check
    extra = cursor.block(2, limit=_FIELD)
    clock, resets, restarts, safe = cursor.number(8), cursor.number(4), cursor.number(4), cursor.number(1)
    firmware, selected = cursor.number(8), _selection(cursor)
    digest = cursor.block(2, limit=_FIELD)
    cursor.end()
    return Attestation(extra, clock, resets, restarts, safe == 1, firmware, selected, digest)


def _selection(cursor: Cursor) -> tuple[tuple[str, tuple[int, ...]], ...]:
    count = cursor.number(4)
    if not 1 <= count <= _BANKS:
        raise UnreadableArtifact(f"the TPM quote selects from {count} banks")
    banks: dict[str, tuple[int, ...]] = {}
    for _ in range(count):
        bank = _hash(cursor)
        chosen = int.from_bytes(cursor.take(min(cursor.number(1), 32)), "little")
        if bank in banks or chosen >> _REGISTERS:
            raise UnreadableArtifact("the TPM quote selects a bank twice, or registers that no PC has")
        banks[bank] = tuple(index for index in range(_REGISTERS) if chosen >> index & 1)
    return tuple(banks.items())


def _hash(cursor: Cursor) -> str:
    number = cursor.number(2)
    if number not in HASHES:
        raise UnreadableArtifact(f"the {cursor.what} uses hash {number:#06x}", hint="SHA-256, SHA-384 and SHA-512 are")
    return HASHES[number]


def read_signature(data: bytes) -> Signature:
    """Read a TPMT_SIGNATURE of ECDSA, RSASSA or RSAPSS; raise :class:`UnreadableArtifact` for anything else."""
    cursor = Cursor(data, "signature of the TPM quote", "big")
    scheme = cursor.number(2)
    if scheme not in (ECDSA, RSASSA, RSAPSS):
        raise UnreadableArtifact(f"the TPM quote is signed with the unknown scheme {scheme:#06x}")
    name = _hash(cursor)
    values = tuple(cursor.block(2, limit=_FIELD) for _ in range(2 if scheme == ECDSA else 1))
    cursor.end()
    return Signature(scheme, name, values)


def read_key(data: bytes) -> AttestationKey:
    """Read a TPM2B_PUBLIC, or the TPMT_PUBLIC in one.

    Raises:
        UnreadableArtifact: malformed, or of an unknown kind.
        SignerUntrusted: a key that could sign quotes of registers that never were.
    """
    public = data[2:] if len(data) >= 2 and int.from_bytes(data[:2], "big") == len(data) - 2 else data
    cursor = Cursor(public, "attestation key", "big")
    kind, name, attributes = cursor.number(2), _hash(cursor), cursor.number(4)
    cursor.block(2, limit=_FIELD)
    _require_attributes(attributes)
    if kind not in (RSA, ECC):
        raise UnreadableArtifact(f"the attestation key is of the unknown kind {kind:#06x}")
    _skip_schemes(cursor)
    key = _rsa(cursor) if kind == RSA else _ecc(cursor)
    cursor.end()
    identifier = next(number for number, known in HASHES.items() if known == name)
    return AttestationKey(f"{identifier:04x}{hashlib.new(name, public).hexdigest()}", key)


def _require_attributes(attributes: int) -> None:
    missing = [name for name, bit in _NEEDED.items() if not attributes >> bit & 1]
    if missing or attributes >> _DECRYPT & 1:
        what = f"is not {missing[0]}" if missing else "also decrypts"
        raise SignerUntrusted(f"the attestation key {what}: what it signs need not be a quote of this TPM")


def _skip_schemes(cursor: Cursor) -> None:
    if cursor.number(2) != NULL:  # a restricted signing key has no symmetric algorithm
        raise UnreadableArtifact("the attestation key has a symmetric algorithm")
    if cursor.number(2) != NULL:
        _hash(cursor)


def _rsa(cursor: Cursor) -> Key:
    bits, exponent, modulus = cursor.number(2), cursor.number(4) or 65537, cursor.block(2, limit=_FIELD)
    number = int.from_bytes(modulus, "big")
    if bits < 2048 or number.bit_length() != bits:
        raise SignerUntrusted(f"the attestation key is an RSA key of {bits} bits")
    return _made(rsa.RSAPublicNumbers(exponent, number))


def _ecc(cursor: Cursor) -> Key:
    curve = cursor.number(2)
    if curve not in _CURVES:
        raise UnreadableArtifact(f"the attestation key is on the unknown curve {curve:#06x}")
    if cursor.number(2) != NULL:
        raise UnreadableArtifact("the attestation key derives other keys")
    x, y = (int.from_bytes(cursor.block(2, limit=_FIELD), "big") for _ in range(2))
    return _made(ec.EllipticCurvePublicNumbers(x, y, _CURVES[curve]()))


def _made(numbers: rsa.RSAPublicNumbers | ec.EllipticCurvePublicNumbers) -> Key:
    try:
        return numbers.public_key()
    except ValueError as error:
        raise UnreadableArtifact(f"the attestation key is none: {error}") from error
