"""Attesting devices of the tests' own: real evidence of every kind, made in milliseconds under roots of our own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding

from holdfast.evidence import canonical
from holdfast.shielding.attestation import Evidence, Policy

from .authority import Holder, authority, issue

NOW = datetime(2026, 6, 1, tzinfo=UTC)
NONCE = bytes(range(32))
P384 = hashes.SHA384()


def raw_signature(key: ec.EllipticCurvePrivateKey, message: bytes, hash: Any = P384) -> bytes:
    """r and s, big-endian, each as long as the curve's field."""
    size = (key.curve.key_size + 7) // 8
    r, s = utils.decode_dss_signature(key.sign(message, ec.ECDSA(hash)))
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def p384() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


# ----- AMD SEV-SNP

_AMD = "1.3.6.1.4.1.3704.1"
SNP_TCB = {"bootloader": 3, "tee": 0, "snp": 8, "microcode": 115, "fmc": 1}
_PLACES = {
    "Milan": ("bootloader", "tee", None, None, None, None, "snp", "microcode"),
    "Turin": ("fmc", "bootloader", "tee", "snp", None, None, None, "microcode"),
}


def tcb_bytes(product: str, tcb: Mapping[str, int] = SNP_TCB) -> bytes:
    return bytes(tcb[name] if name else 0 for name in _PLACES["Turin" if product == "Turin" else "Milan"])


@cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _by_amd(certificate: Holder, by: Holder) -> Holder:
    """The same certificate, signed with RSA-PSS as AMD does."""
    old = certificate.certificate
    builder = x509.CertificateBuilder(
        old.issuer, old.subject, old.public_key(), old.serial_number, old.not_valid_before_utc, old.not_valid_after_utc,
        list(old.extensions),
    )  # fmt: skip
    scheme = padding.PSS(mgf=padding.MGF1(P384), salt_length=48)
    return Holder(builder.sign(by.key, P384, rsa_padding=scheme), certificate.key)


@cache
def amd_chain(product: str) -> tuple[Holder, Holder]:
    """Root and intermediate."""
    root = authority(f"ARK-{product}", key=rsa_key("root"))
    root = _by_amd(root, root)
    middle = authority(f"SEV-{product}", root, key=rsa_key("middle"))
    return root, _by_amd(middle, root)


def _private(arc: str, der: bytes) -> tuple[x509.ExtensionType, bool]:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(_AMD + arc), der), False


@dataclass(frozen=True)
class SnpMachine:
    """A processor with its key and that key's certificate."""

    product: str = "Milan"
    chip: bytes = bytes(range(64))
    tcb: Mapping[str, int] = None  # type: ignore[assignment]
    cloud: bool = False

    @property
    def levels(self) -> Mapping[str, int]:
        return self.tcb or SNP_TCB

    @property
    def key(self) -> ec.EllipticCurvePrivateKey:
        return _chip_key(self.product, self.chip)

    def certificate(self, *, serial_zero: bool = True) -> bytes:
        arcs = {"bootloader": ".3.1", "tee": ".3.2", "snp": ".3.3", "microcode": ".3.8", "fmc": ".3.9"}
        extensions = [_private(".2", b"\x16" + bytes((len(self.product) + 3,)) + f"{self.product}-B1".encode())]
        extensions += [_private(arcs[name], _der_integer(level)) for name, level in self.levels.items()]
        hardware = self.chip[:8] if self.product == "Turin" else self.chip
        extensions += [] if self.cloud else [_private(".4", hardware)]
        _, middle = amd_chain(self.product)
        made = _by_amd(issue("SEV-VCEK", middle, key=self.key, extensions=tuple(extensions), serial=127), middle)
        der = made.certificate.public_bytes(Encoding.DER)
        return _with_serial_zero(der, made.certificate, middle) if serial_zero else der

    def evidence(self, *, nonce: bytes = NONCE, debug: bool = False, **fields: Any) -> Evidence:
        root, middle = amd_chain(self.product)
        return Evidence(
            kind="sev-snp",
            body=self.report(nonce=nonce, debug=debug, **fields),
            collateral={"vcek": self.certificate(), "chain": middle.pem + root.pem},
        )

    def report(
        self, *, nonce: bytes, debug: bool = False, measurement: bytes = b"\x11" * 48, tcb: bytes | None = None,
        version: int = 3, chip: bytes | None = None,
    ) -> bytes:  # fmt: skip
        level = tcb or tcb_bytes(self.product, self.levels)
        report = bytearray(0x2A0)
        policy = 0x30000 | (0x80000 if debug else 0)
        shown = self.chip[:8].ljust(64, b"\0") if self.product == "Turin" else self.chip
        for place, value in {
            0x00: version.to_bytes(4, "little"), 0x04: (2).to_bytes(4, "little"), 0x08: policy.to_bytes(8, "little"),
            0x34: b"\1\0\0\0", 0x38: level, 0x48: bytes((4 if self.cloud else 0,)), 0x50: nonce.ljust(64, b"\0"),
            0x90: measurement, 0x180: level, 0x1A0: chip or shown, 0x1E0: level, 0x1F0: level,
        }.items():  # fmt: skip
            report[place : place + len(value)] = value
        signature = raw_signature(self.key, bytes(report))
        halves = b"".join(signature[at : at + 48][::-1] + bytes(24) for at in (0, 48))
        return bytes(report) + halves.ljust(0x200, b"\0")


@cache
def _chip_key(product: str, chip: bytes) -> ec.EllipticCurvePrivateKey:
    return p384()


def _der_integer(value: int) -> bytes:
    body = value.to_bytes(value.bit_length() // 8 + 1, "big")
    return b"\x02" + bytes((len(body),)) + body


def _with_serial_zero(der: bytes, certificate: x509.Certificate, by: Holder) -> bytes:
    """Put serial number 0 in place of 127, as on AMD's chips, and sign again: no library writes such a certificate."""
    signed = certificate.tbs_certificate_bytes.replace(b"\x02\x01\x7f", b"\x02\x01\x00", 1)
    scheme = padding.PSS(mgf=padding.MGF1(P384), salt_length=48)
    signature = by.key.sign(signed, scheme, P384)
    return der.replace(certificate.tbs_certificate_bytes, signed).replace(certificate.signature, signature)


def snp_policy(product: str = "Milan", **changes: Any) -> Policy:
    root, _ = amd_chain(product)
    demands = {"measurements": {"measurement": ("11" * 48,)}, "minimum": {"tcb.snp": 8}, "roots": (root.pem,)}
    return Policy(kind="sev-snp", **(demands | changes))


# ----- AWS Nitro


@cache
def nitro_chain() -> tuple[Holder, Holder, Holder]:
    """Root, regional authority, and the enclave's own certificate, which lives for hours."""
    root = authority("aws.nitro-enclaves", key=p384(), hash=P384)
    middle = authority("us-east-2.aws.nitro-enclaves", root, key=p384(), hash=P384)
    hours = {"start": NOW - timedelta(minutes=5), "end": NOW + timedelta(hours=3)}
    return root, middle, issue("i-0-enc0.us-east-2.aws", middle, key=p384(), hash=P384, **hours)


def nitro_document(**changes: Any) -> dict[str, Any]:
    root, middle, leaf = nitro_chain()
    return {
        "module_id": "i-0-enc0",
        "digest": "SHA384",
        "timestamp": int(NOW.timestamp() * 1000),
        "pcrs": {index: bytes((index + 1,)) * 48 if index < 3 else bytes(48) for index in range(16)},
        "certificate": leaf.certificate.public_bytes(Encoding.DER),
        "cabundle": [item.certificate.public_bytes(Encoding.DER) for item in (root, middle)],
        "public_key": None,
        "user_data": None,
        "nonce": NONCE,
    } | changes


def nitro_message(payload: bytes, *, header: Any = None, key: Any = None) -> bytes:
    protected = cbor2.dumps({1: -35} if header is None else header)
    signed = cbor2.dumps(["Signature1", protected, b"", payload])
    return cbor2.dumps([protected, {}, payload, raw_signature(key or nitro_chain()[2].key, signed)])


def nitro_evidence(**changes: Any) -> Evidence:
    return Evidence(kind="nitro", body=nitro_message(cbor2.dumps(nitro_document(**changes))))


def nitro_policy(**changes: Any) -> Policy:
    demands = {"measurements": {"pcr.0": ("01" * 48,)}, "roots": (nitro_chain()[0].pem,)}
    return Policy(kind="nitro", **(demands | changes))


# ----- NVIDIA


FIRMWARE = b"\x71" * 48


@cache
def gpu_chain() -> tuple[Holder, Holder, Holder]:
    """Root, the boot code of the GPU, and the key it made for the firmware."""
    root = authority("NVIDIA Device Identity CA", key=p384(), hash=P384)
    boot = authority("GH100 GSP BROM", root, key=p384(), hash=P384)
    info = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.23.133.5.4.1"), b"\x30\x32\x04\x30" + FIRMWARE)
    return root, boot, issue("GH100 GSP FMC LF", boot, key=p384(), hash=P384, extensions=((info, False),))


def gpu_exchange(nonce: bytes = NONCE, *, firmware: bytes = FIRMWARE, blocks: int = 4) -> bytes:
    """Request and answer, signed by the GPU."""
    record = b"".join(bytes((index, 1, 51, 0, 1, 48, 0)) + bytes((index,)) * 48 for index in range(1, blocks + 1))
    fields = {3: b"590.12\0", 6: bytes.fromhex("009f009601000000"), 15: b"882\0", 20: firmware}
    opaque = b"".join(n.to_bytes(2, "little") + len(v).to_bytes(2, "little") + v for n, v in fields.items())
    request = b"\x11\xe0\x01\xff" + nonce + b"\0"
    answer = b"\x11\x60\0\0" + bytes((blocks,)) + len(record).to_bytes(3, "little") + record + bytes(32)
    message = request + answer + len(opaque).to_bytes(2, "little") + opaque
    return message + raw_signature(gpu_chain()[2].key, message)


def gpu_evidence(**options: Any) -> Evidence:
    root, boot, leaf = gpu_chain()
    return Evidence(
        kind="nvidia-gpu", body=gpu_exchange(**options), collateral={"chain": leaf.pem + boot.pem + root.pem}
    )


def gpu_policy(**changes: Any) -> Policy:
    demands = {"measurements": {"block.1": ("01" * 48,)}, "roots": (gpu_chain()[0].pem,)}
    return Policy(kind="nvidia-gpu", **(demands | changes))


# ----- damage


def with_body(evidence: Evidence, body: bytes) -> Evidence:
    return replace(evidence, body=body)


def with_part(evidence: Evidence, name: str, part: bytes) -> Evidence:
    return replace(evidence, collateral=dict(evidence.collateral) | {name: part})


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


# ----- TPM 2.0

_RESTRICTED = 0x00050072  # fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign


def block(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def tpm_key(key: Any, attributes: int = _RESTRICTED, name_hash: int = 0x000B) -> bytes:
    """TPM2B_PUBLIC of an attestation key on P-256, or of RSA."""
    numbers = key.public_key().public_numbers()
    head = name_hash.to_bytes(2, "big") + attributes.to_bytes(4, "big") + block(b"")
    if isinstance(key, rsa.RSAPrivateKey):
        scheme = b"\x00\x10\x00\x14\x00\x0b" + key.key_size.to_bytes(2, "big") + bytes(4)
        return block(b"\x00\x01" + head + scheme + block(numbers.n.to_bytes(key.key_size // 8, "big")))
    scheme = b"\x00\x10\x00\x18\x00\x0b\x00\x03\x00\x10"
    return block(
        b"\x00\x23" + head + scheme + block(numbers.x.to_bytes(32, "big")) + block(numbers.y.to_bytes(32, "big"))
    )


def tpm_name(public: bytes) -> str:
    return "000b" + hashlib.sha256(public[2:]).hexdigest()


def tpm_quote(registers: Mapping[int, bytes], nonce: bytes, *, magic: int = 0xFF544347, kind: int = 0x8018) -> bytes:
    """TPMS_ATTEST over registers of the bank of SHA-256."""
    mask = sum(1 << index for index in registers)
    digest = hashlib.sha256(b"".join(registers[index] for index in sorted(registers))).digest()
    clock = (123456).to_bytes(8, "big") + (7).to_bytes(4, "big") + (1).to_bytes(4, "big") + b"\1"
    head = magic.to_bytes(4, "big") + kind.to_bytes(2, "big") + block(b"\x00\x0b" + bytes(32)) + block(nonce)
    chosen = (1).to_bytes(4, "big") + b"\x00\x0b\x03" + mask.to_bytes(3, "little")
    return head + clock + (0x20240101).to_bytes(8, "big") + chosen + block(digest)


def tpm_signature(key: Any, quote: bytes) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return b"\x00\x14\x00\x0b" + block(key.sign(quote, padding.PKCS1v15(), hashes.SHA256()))
    signature = raw_signature(key, quote, hashes.SHA256())
    return b"\x00\x18\x00\x0b" + block(signature[:32]) + block(signature[32:])


TPM_EVENTS = [("code", b"\x21" * 32), ("model", b"\x22" * 32)]


def tpm_replay(events: Any = TPM_EVENTS) -> bytes:
    value = bytes(32)
    for name, digest in events:
        extended = hashlib.sha256(b"holdfast event v1\0" + bytes((len(name),)) + name.encode() + digest).digest()
        value = hashlib.sha256(value + extended).digest()
    return value


@cache
def tpm_attestation_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def tpm_evidence(*, nonce: bytes = NONCE, key: Any = None, registers: Any = None, events: Any = None) -> Evidence:
    key = key or tpm_attestation_key()
    registers = registers or {0: b"\x31" * 32, 12: tpm_replay()}
    quote = tpm_quote(registers, nonce)
    log = [{"digest": digest.hex(), "name": name, "pcr": 12} for name, digest in events or TPM_EVENTS]
    return Evidence(
        kind="tpm2",
        body=quote,
        collateral={
            "signature": tpm_signature(key, quote),
            "ak": tpm_key(key),
            "pcrs": canonical.dumps({"sha256": {str(index): value.hex() for index, value in registers.items()}}),
            "log": canonical.dumps(log),
        },
    )


def tpm_policy(**changes: Any) -> Policy:
    demands = {"measurements": {"event.code": ("21" * 32,)}, "keys": (tpm_name(tpm_key(tpm_attestation_key())),)}
    return Policy(kind="tpm2", **(demands | changes))
