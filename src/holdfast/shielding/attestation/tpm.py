"""TPM 2.0: a quote of registers, signed by a key that cannot leave the TPM.

Body: the TPMS_ATTEST. Collateral: ``signature`` (TPMT_SIGNATURE), ``ak`` (TPM2B_PUBLIC), ``pcrs`` (JSON, the values
by bank and register), and where the registers are to be explained ``log`` (JSON, a list of what was extended),
``firmware`` (the event log of a boot) and ``ima`` (the kernel's log of files). A TPM has no one vendor whose root could
be built in, so a policy names the key (:attr:`Policy.keys`, its TPM name after enrolment) or the root of the key's
certificates (``chain``, PEM, with :attr:`Policy.roots`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from holdfast.errors import InvalidConfig, SignatureInvalid, SignerUntrusted, UnreadableArtifact
from holdfast.evidence import canonical
from holdfast.shielding.attestation import boot_log, chains, ima_log
from holdfast.shielding.attestation.claims import Claims
from holdfast.shielding.attestation.evidence import Evidence
from holdfast.shielding.attestation.policy import Policy
from holdfast.shielding.attestation.tpm_structures import (
    ECDSA,
    RSAPSS,
    Attestation,
    AttestationKey,
    Key,
    Signature,
    hash_of,
    read_attestation,
    read_key,
    read_signature,
)
from holdfast.shielding.attestation.verify import verifiers

BANK = "sha256"  # of event logs, and of registers named without a bank
EVENTS = 12  # the register of worlds' own list; what another one holds anybody may have extended afterwards
MAX_EVENTS = 4096
_ATTESTATION_KEY = x509.ObjectIdentifier("2.23.133.8.3")  # TCG, tcg-kp-AIKCertificate
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@verifiers.register("tpm2")
@dataclass(frozen=True, slots=True)
class Tpm2:
    """Verifies quotes of TPM 2.0, in hardware or software: a software TPM attests the design, not silicon."""

    def authenticate(self, evidence: Evidence, policy: Policy, at: datetime) -> Claims:
        """Return what the quote says, once its key is one to trust at ``at`` and has signed it."""
        key = read_key(evidence.part("ak"))
        root = _require_trusted(key, evidence, policy, at)
        signature = read_signature(evidence.part("signature"))
        _require_signed(key.key, signature, evidence.body)
        quote = read_attestation(evidence.body)
        registers = _registers(evidence.part("pcrs"), quote, signature.hash)
        events = _replayed(evidence.collateral.get("log"), registers)
        booted = _booted(evidence, registers)
        return _claims(quote, key, root, registers | booted | events)


def _require_trusted(key: AttestationKey, evidence: Evidence, policy: Policy, at: datetime) -> str:
    """Return whom the trust in ``key`` rests on: its own pinned name, or the digest of a root."""
    if key.name in policy.keys:
        return key.name
    if not policy.roots:
        if not policy.keys:
            hint = "keys = [NAME of the attestation key], or roots = [FILE]"
            raise InvalidConfig("a policy for TPM quotes names the keys or the roots to trust", hint=hint)
        raise SignerUntrusted(f"the attestation key is {key.name}, which the policy does not name")
    chain = chains.from_pem(evidence.part("chain"), "chain of the attestation key")
    root = chains.require_chain(chain, chains.trusted(policy, ()), at)
    if _encoded(chain[0].public_key()) != _encoded(key.key):
        raise SignerUntrusted("the certificate that comes along is for another attestation key")
    _require_purpose(chain[0])
    return root


def _require_purpose(leaf: x509.Certificate) -> None:
    """Refuse a certificate that says it is for something else: what else a key is for, such as TLS, is in no TPM.

    Who holds a key of his own could call it what he likes: a certificate does not cover what a TPM says of a key.
    """
    usages = next((item.value for item in leaf.extensions if isinstance(item.value, x509.ExtendedKeyUsage)), None)
    if usages is not None and _ATTESTATION_KEY not in usages:
        raise SignerUntrusted("the certificate that comes along is not for an attestation key (extendedKeyUsage)")


def _encoded(key: Any) -> bytes:
    data: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return data


def _require_signed(key: Key, signature: Signature, message: bytes) -> None:
    hash, values = hash_of(signature.hash), signature.values
    try:
        if isinstance(key, ec.EllipticCurvePublicKey) and signature.scheme == ECDSA:
            r, s = (int.from_bytes(value, "big") for value in values)
            key.verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(hash))
        elif isinstance(key, rsa.RSAPublicKey) and signature.scheme != ECDSA:
            scheme = padding.PSS(padding.MGF1(hash), padding.PSS.AUTO) if signature.scheme == RSAPSS else None
            key.verify(values[0], message, scheme or padding.PKCS1v15(), hash)
        else:
            raise SignatureInvalid("the TPM quote is signed in another scheme than its key's")
    except InvalidSignature as error:
        raise SignatureInvalid("the signature of the TPM quote does not verify") from error


def _registers(data: bytes, quote: Attestation, hash: str) -> dict[str, str]:
    """Return the values of the quoted registers by name, once their digest is the signed one."""
    values = canonical.loads(data, what="the list of registers", max_bytes=1 << 16)
    found: dict[str, str] = {}
    whole = hashlib.new(hash)
    for bank, indices in quote.selected:
        for index in indices:
            value = _value(values, bank, index)
            whole.update(value)
            found[register_name(bank, index)] = value.hex()
    if whole.digest() != quote.digest:
        raise SignatureInvalid("the values of the registers are not those that the TPM signed")
    return found


def register_name(bank: str, index: int) -> str:
    """Return how policies call a register: ``pcr.12``, or ``sha384.pcr.12`` outside the bank of SHA-256."""
    return f"pcr.{index}" if bank == BANK else f"{bank}.pcr.{index}"


def _value(values: Any, bank: str, index: int) -> bytes:
    inner = values.get(bank) if isinstance(values, dict) else None
    text = inner.get(str(index)) if isinstance(inner, dict) else None
    return digest_bytes(text, hashlib.new(bank).digest_size, f"register {index} of {bank}")


def digest_bytes(text: Any, size: int, what: str) -> bytes:
    """Return the bytes of a digest of ``size`` bytes in lower-case hex, or raise :class:`UnreadableArtifact`."""
    if not isinstance(text, str) or not re.fullmatch(rf"[0-9a-f]{{{2 * size}}}", text):
        raise UnreadableArtifact(f"the evidence has no digest for {what}")
    return bytes.fromhex(text)


def _replayed(data: bytes | None, registers: Mapping[str, str]) -> dict[str, str]:
    """Return what was extended, by name, once replaying the log gives exactly the quoted registers."""
    if data is None:
        return {}
    events = canonical.loads(data, what="the event log", max_bytes=1 << 20)
    if not isinstance(events, list) or len(events) > MAX_EVENTS:
        raise UnreadableArtifact("the event log is no list, or too long a one")
    values: dict[str, bytes] = {}
    named: dict[str, str] = {}
    for event in events:
        register, name, digest = _event(event)
        if f"event.{name}" in named:
            raise UnreadableArtifact(f"the event log has two events called {name!r}")
        named[f"event.{name}"] = digest.hex()
        values[register] = hashlib.sha256(values.get(register, bytes(32)) + event_value(name, digest)).digest()
    for register, value in values.items():
        if registers.get(register) != value.hex():
            raise SignatureInvalid(
                f"the event log does not explain {register}: something else was extended, or nothing"
            )
    return named


def _booted(evidence: Evidence, registers: Mapping[str, str]) -> dict[str, str]:
    """Return what the logs of firmware and kernel name, once replaying them gives the quoted registers."""
    names = {register_name(BANK, index): index for index in range(24)}
    values = {names[name]: bytes.fromhex(value) for name, value in registers.items() if name in names}
    found: dict[str, str] = {}
    if (data := evidence.collateral.get("firmware")) is not None:
        events = boot_log.read_boot_log(data)
        boot_log.require_boot(events, values)
        found |= boot_log.boot_names(events)
    if (data := evidence.collateral.get("ima")) is not None:
        entries = ima_log.read_ima_log(data)
        ima_log.require_ima(entries, values)
        found |= ima_log.ima_names(entries)
    return found


def event_value(name: str, digest: bytes) -> bytes:
    """Return what a register is extended with for an event.

    The name is part of it: otherwise whoever carries the log could give the digest of one thing the name of another.
    """
    return hashlib.sha256(b"holdfast event v1\0" + len(name).to_bytes(1, "big") + name.encode() + digest).digest()


def _event(event: Any) -> tuple[str, str, bytes]:
    if not isinstance(event, dict) or set(event) != {"digest", "name", "pcr"}:
        raise UnreadableArtifact("an event of the log is not made of pcr, name and digest")
    index, name = event["pcr"], event["name"]
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < 24:
        raise UnreadableArtifact("an event of the log is for no register")
    if index != EVENTS:
        raise UnreadableArtifact(f"an event of the log is for register {index}, which no world extends")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UnreadableArtifact("an event of the log has no usable name")
    return register_name(BANK, index), name, digest_bytes(event["digest"], 32, f"event {name!r}")


def _claims(quote: Attestation, key: AttestationKey, root: str, measurements: Mapping[str, str]) -> Claims:
    return Claims(
        kind="tpm2",
        root=root,
        identity=key.name,
        measurements=measurements,
        versions={"firmware": quote.firmware, "resets": quote.resets, "restarts": quote.restarts},
        report_data=quote.extra,
        debug=False,
        details={"clock": f"{quote.clock} ms", "clock_safe": str(quote.safe).lower()},
    )
