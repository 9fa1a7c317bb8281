"""AWS Nitro enclaves: an attestation document in CBOR, signed as COSE_Sign1 (RFC 9052) with ES384.

The document brings its own chain. AWS's certificates live for hours, so it is verified for the time it was made at
or a little later, and its own time stamp must be close (:attr:`Policy.max_age`). An enclave in debug mode has zeros
in PCR 0.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from holdfast._extras import extra
from holdfast.errors import UnreadableArtifact
from holdfast.shielding.attestation import chains
from holdfast.shielding.attestation.claims import Claims
from holdfast.shielding.attestation.evidence import Evidence
from holdfast.shielding.attestation.policy import Policy
from holdfast.shielding.attestation.roots import AWS_NITRO
from holdfast.shielding.attestation.verify import verifiers

MAX_DOCUMENT = 1 << 15  # bytes; AWS keeps them below 16 thousand
_ES384 = {1: -35}  # the protected header: algorithm ES384
_TAG = b"\xd2"  # COSE_Sign1, which AWS leaves out
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SIZES = {"public_key": 1024, "user_data": 512, "nonce": 512}


@verifiers.register("nitro")
@dataclass(frozen=True, slots=True)
class Nitro:
    """Verifies Nitro attestation documents."""

    def authenticate(self, evidence: Evidence, policy: Policy, at: datetime) -> Claims:
        """Return what the document says, once it and its chain are found authentic at ``at``."""
        protected, payload, signature = _envelope(evidence.body)
        document = _document(payload)
        chain = [chains.from_der(_some(document, "certificate"), "certificate of the Nitro document")]
        chain += [chains.from_der(item, "chain of the Nitro document") for item in reversed(_bundle(document))]
        root = chains.require_chain(chain, chains.trusted(policy, (AWS_NITRO,)), at)
        signed = _encode(["Signature1", protected, b"", payload])
        chains.require_signed(chain[0].public_key(), signature, signed, "Nitro document")
        return _claims(document, root)


def _envelope(data: bytes) -> tuple[bytes, bytes, bytes]:
    parts = decode(data.removeprefix(_TAG), "Nitro document")
    if not isinstance(parts, list) or len(parts) != 4 or parts[1] != {}:
        raise UnreadableArtifact("the Nitro document is no COSE_Sign1 message")
    protected, _, payload, signature = parts
    if not all(isinstance(part, bytes) for part in (protected, payload, signature)) or len(signature) != 96:
        raise UnreadableArtifact("the Nitro document is no COSE_Sign1 message with ES384")
    if decode(protected, "header of the Nitro document") != _ES384:
        raise UnreadableArtifact("the Nitro document is signed with an algorithm other than ES384")
    return protected, payload, signature


def decode(data: bytes, what: str) -> Any:
    """Return the value of ``data`` if it is exactly one, of JSON's and byte types, in its one preferred encoding.

    Two readers cannot then understand a document differently: no second key of the same name, no tag, no
    indefinite length, nothing behind.

    Raises:
        UnreadableArtifact: anything else.
        MissingExtra: ``cbor2`` is not installed.
    """
    if len(data) > MAX_DOCUMENT:
        raise UnreadableArtifact(f"the {what} is longer than {MAX_DOCUMENT} bytes")
    cbor2 = _library()
    try:
        value = cbor2.load(io.BytesIO(data))
        plain = _plain(value) and cbor2.dumps(value) == data
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UnreadableArtifact(f"the {what} is no CBOR: {error}") from error
    if not plain:
        raise UnreadableArtifact(f"the {what} is not in the preferred encoding of CBOR")
    return value


def _encode(value: object) -> bytes:
    data: bytes = _library().dumps(value)
    return data


def _library() -> Any:
    return extra("cbor2", name="tee", needs="Nitro documents need cbor2")


def _plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str | int) and _plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_plain, value))
    return value is None or isinstance(value, str | int | bytes)


def _document(payload: bytes) -> dict[str, Any]:
    document = decode(payload, "payload of the Nitro document")
    if not isinstance(document, dict) or document.get("digest") != "SHA384":
        raise UnreadableArtifact("the Nitro document is no attestation over SHA-384")
    module, time, pcrs = document.get("module_id"), document.get("timestamp"), document.get("pcrs")
    if not isinstance(module, str) or not module or not isinstance(time, int) or not 0 < time < 2**50:
        raise UnreadableArtifact("the Nitro document names no module or no time")
    if not isinstance(pcrs, dict) or not 1 <= len(pcrs) <= 32 or 0 not in pcrs:
        raise UnreadableArtifact("the Nitro document has no registers")
    for index, value in pcrs.items():
        if not isinstance(index, int) or not 0 <= index < 32 or not isinstance(value, bytes) or len(value) != 48:
            raise UnreadableArtifact("the Nitro document has a register that is none")
    for name, limit in _SIZES.items():
        value = document.get(name)
        if value is not None and (not isinstance(value, bytes) or len(value) > limit):
            raise UnreadableArtifact(f"the Nitro document has a {name} that is none")
    return document


def _some(document: Mapping[str, Any], name: str) -> bytes:
    value = document.get(name)
    if not isinstance(value, bytes) or not value:
        raise UnreadableArtifact(f"the Nitro document has no {name}")
    return value


def _bundle(document: Mapping[str, Any]) -> list[bytes]:
    value = document.get("cabundle")
    if not isinstance(value, list) or not 1 <= len(value) < chains.MAX_CHAIN:
        raise UnreadableArtifact("the Nitro document brings no chain, or too long a one")
    if not all(isinstance(item, bytes) and item for item in value):
        raise UnreadableArtifact("the chain of the Nitro document holds something that is no certificate")
    return value


def _claims(document: Mapping[str, Any], root: str) -> Claims:
    pcrs: Mapping[int, bytes] = document["pcrs"]
    details = {name: document[name].hex() for name in ("user_data", "public_key") if document.get(name)}
    return Claims(
        kind="nitro",
        root=root,
        identity=document["module_id"],
        measurements={f"pcr.{index}": pcrs[index].hex() for index in sorted(pcrs)},
        versions={},
        report_data=document.get("nonce") or b"",
        debug=not any(pcrs[0]),
        issued=_EPOCH + timedelta(milliseconds=document["timestamp"]),
        details=details,
    )
