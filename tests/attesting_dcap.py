"""An Intel platform of the tests' own: SGX and TDX quotes with collateral, under a root of our own."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from holdfast.shielding.attestation import Evidence, Policy

from .attesting import NONCE, NOW, raw_signature
from .authority import Holder, authority, issue, usage

SHA256 = hashes.SHA256()
FMSPC, PCE_ID, PPID = "00a067110000", bytes(2), b"\x44" * 16
_ARC = "1.2.840.113741.1.13.1"
QE_SIGNER, MRENCLAVE, MRSIGNER, MRTD = b"\x51" * 32, b"\x61" * 32, b"\x62" * 32, b"\x63" * 48


def _tlv(tag: int, body: bytes) -> bytes:
    size = bytes((len(body),)) if len(body) < 128 else b"\x82" + len(body).to_bytes(2, "big")
    return bytes((tag,)) + size + body


def _item(arc: str, value: bytes) -> bytes:
    name = x509.ObjectIdentifier(_ARC + arc)
    numbers = [int(part) for part in name.dotted_string.split(".")]
    body = bytes((40 * numbers[0] + numbers[1],))
    for number in numbers[2:]:
        parts = [number & 0x7F]
        while number := number >> 7:
            parts.append(0x80 | number & 0x7F)
        body += bytes(reversed(parts))
    return _tlv(0x30, _tlv(0x06, body) + value)


def _integer(value: int) -> bytes:
    return _tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def pck_extension(svn: int) -> tuple[x509.ExtensionType, bool]:
    levels = b"".join(_item(f".2.{index}", _integer(svn)) for index in range(1, 17))
    tcb = levels + _item(".2.17", _integer(11)) + _item(".2.18", _tlv(0x04, bytes((svn,)) * 16))
    fields = _item(".1", _tlv(0x04, PPID)) + _item(".2", _tlv(0x30, tcb)) + _item(".3", _tlv(0x04, PCE_ID))
    fields += _item(".4", _tlv(0x04, bytes.fromhex(FMSPC))) + _item(".5", _tlv(0x0A, b"\x00"))
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(_ARC), _tlv(0x30, fields)), False


@cache
def chain(svn: int = 5) -> tuple[Holder, Holder, Holder, Holder]:
    """Root, platform authority, the platform's own certificate, and who signs TCB information."""
    root = authority("Intel SGX Root CA")
    middle = authority("Intel SGX PCK Platform CA", root, length=0)
    leaf_rights = (x509.BasicConstraints(False, None), True), (usage("digital_signature", "content_commitment"), True)
    leaf = issue("Intel SGX PCK Certificate", middle, extensions=(*leaf_rights, pck_extension(svn)))
    return root, middle, leaf, issue("Intel SGX TCB Signing", root, extensions=leaf_rights)


def revocations(by: Holder, *serials: int, start: datetime = NOW, days: int = 30) -> bytes:
    builder = x509.CertificateRevocationListBuilder(by.certificate.subject, start, start + timedelta(days=days))
    key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(by.key.public_key())
    builder = builder.add_extension(x509.CRLNumber(1), False).add_extension(key_id, False)
    for serial in serials:
        builder = builder.add_revoked_certificate(x509.RevokedCertificateBuilder(serial, start).build())
    return builder.sign(by.key, SHA256).public_bytes(Encoding.DER)


def _time(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def tcb_info(tee: str, *, status: str = "UpToDate", start: datetime = NOW, needs: int = 5) -> str:
    level: dict[str, Any] = {"sgxtcbcomponents": [{"svn": needs}] * 16, "pcesvn": 11}
    info: dict[str, Any] = {
        "id": tee.upper(), "version": 3, "issueDate": _time(start), "nextUpdate": _time(start + timedelta(days=30)),
        "fmspc": FMSPC.upper(), "pceId": "0000", "tcbType": 0, "tcbEvaluationDataNumber": 17,
    }  # fmt: skip
    if tee == "tdx":
        level["tdxtcbcomponents"] = [{"svn": 3}, {"svn": 0}, *([{"svn": 3}] * 14)]
        module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
        info["tdxModule"] = module
    date = _time(NOW - timedelta(days=300))
    info["tcbLevels"] = [{"tcb": level, "tcbDate": date, "tcbStatus": status, "advisoryIDs": ["INTEL-SA-00001"]}]
    return json.dumps(info)


def qe_identity(tee: str, *, start: datetime = NOW, signer: bytes = QE_SIGNER) -> str:
    level = {"tcb": {"isvsvn": 4}, "tcbDate": _time(NOW - timedelta(days=300)), "tcbStatus": "UpToDate"}
    return json.dumps({
        "id": "TD_QE" if tee == "tdx" else "QE", "version": 2, "issueDate": _time(start),
        "nextUpdate": _time(start + timedelta(days=30)), "tcbEvaluationDataNumber": 17, "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF", "attributes": "11" + "00" * 15, "attributesMask": "FB" + "FF" * 7 + "00" * 8,
        "mrsigner": signer.hex().upper(), "isvprodid": 1, "tcbLevels": [level],
    })  # fmt: skip


def collateral(tee: str, *, info: str | None = None, revoked: tuple[int, ...] = (), **options: Any) -> bytes:
    root, middle, _, signer = chain()
    info, identity = info or tcb_info(tee, **options), qe_identity(tee)
    tcb_chain = (signer.pem + root.pem).decode()
    return json.dumps({
        "pck_crl_issuer_chain": (middle.pem + root.pem).decode(),
        "root_ca_crl": revocations(root).hex(),
        "pck_crl": revocations(middle, *revoked).hex(),
        "tcb_info_issuer_chain": tcb_chain,
        "tcb_info": info,
        "tcb_info_signature": raw_signature(signer.key, info.encode(), SHA256).hex(),
        "qe_identity_issuer_chain": tcb_chain,
        "qe_identity": identity,
        "qe_identity_signature": raw_signature(signer.key, identity.encode(), SHA256).hex(),
    }).encode()  # fmt: skip


def _enclave(signer: bytes, product: int, svn: int, data: bytes, *, measured: bytes, attributes: int) -> bytes:
    flags = attributes.to_bytes(8, "little") + (0xE7).to_bytes(8, "little")
    head = b"\5" * 16 + bytes(4) + bytes(28) + flags + measured + bytes(32) + signer + bytes(96)
    return head + product.to_bytes(2, "little") + svn.to_bytes(2, "little") + bytes(60) + data.ljust(64, b"\0")


def _domain(nonce: bytes, *, debug: bool) -> bytes:
    head = (
        b"\3\0"
        + b"\3" * 14
        + bytes(48 + 48 + 8)
        + bytes((debug, 0, 0, 0x10, 0, 0, 0, 0))
        + (0x0602E7).to_bytes(8, "little")
    )
    return (
        head + MRTD + bytes(48 * 3) + b"".join(bytes((index,)) * 48 for index in (1, 2, 3, 4)) + nonce.ljust(64, b"\0")
    )


@cache
def quote_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def quote(tee: str, *, nonce: bytes = NONCE, debug: bool = False) -> bytes:
    root, middle, leaf, _ = chain()
    version, number = (3, 0) if tee == "sgx" else (4, 0x81)
    vendor = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
    header = version.to_bytes(2, "little") + b"\2\0" + number.to_bytes(4, "little") + bytes(4) + vendor + bytes(20)
    attributes = 0x07 if debug else 0x05
    enclave = _enclave(MRSIGNER, 7, 9, nonce, measured=MRENCLAVE, attributes=attributes)
    body = enclave if tee == "sgx" else _domain(nonce, debug=debug)
    point = quote_key().public_key().public_numbers()
    key = point.x.to_bytes(32, "big") + point.y.to_bytes(32, "big")
    extra = bytes(range(32))
    report = _enclave(QE_SIGNER, 1, 8, hashlib.sha256(key + extra).digest(), measured=b"\x52" * 32, attributes=0x11)
    pem = leaf.pem + middle.pem + root.pem
    certified = report + raw_signature(leaf.key, report, SHA256) + b"\x20\0" + extra
    certified += b"\5\0" + len(pem).to_bytes(4, "little") + pem
    if version == 4:
        certified = b"\6\0" + len(certified).to_bytes(4, "little") + certified
    signed = raw_signature(quote_key(), header + body, SHA256) + key + certified
    return header + body + len(signed).to_bytes(4, "little") + signed


def dcap_evidence(tee: str, *, nonce: bytes = NONCE, debug: bool = False, **options: Any) -> Evidence:
    parts = {"collateral": collateral(tee, **options)}
    return Evidence(kind=tee, body=quote(tee, nonce=nonce, debug=debug), collateral=parts)


def dcap_policy(tee: str, **changes: Any) -> Policy:
    measured = {"mrenclave": (MRENCLAVE.hex(),)} if tee == "sgx" else {"mrtd": (MRTD.hex(),)}
    return Policy(kind=tee, **({"measurements": measured, "roots": (chain()[0].pem,)} | changes))
