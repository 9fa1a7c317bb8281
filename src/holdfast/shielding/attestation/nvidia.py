"""NVIDIA GPUs (Hopper): measurements signed by the GPU's own key, over SPDM 1.1 (DMTF DSP0274).

Body: the request GET_MEASUREMENTS and the answer MEASUREMENTS, one behind the other, as the driver hands them out.
Collateral: ``chain`` (PEM, from the GPU's certificate to NVIDIA's device identity root). Verified are the chain, the
signature, the nonce in the request, and that the firmware the GPU's certificate was issued for is the one measured.

Not verified: NVIDIA's reference integrity manifests, signed XML that lists expected measurements, and its online
revocation service. A policy names the measurements it expects itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from holdfast.errors import SignerUntrusted, UnreadableArtifact
from holdfast.shielding.attestation import chains
from holdfast.shielding.attestation.claims import Claims
from holdfast.shielding.attestation.cursor import Cursor
from holdfast.shielding.attestation.evidence import Evidence
from holdfast.shielding.attestation.policy import Policy
from holdfast.shielding.attestation.roots import NVIDIA_DEVICE
from holdfast.shielding.attestation.verify import verifiers

MAX_MESSAGE = 1 << 16
_VERSION, _GET, _ANSWER = 0x11, 0xE0, 0x60
_SIGNATURE = 96  # r and s on P-384
_DIGEST_BLOCK = 1  # DMTF measurement specification
_ALL = 0xFF  # of the request: every measurement
_TCB_INFO = "2.23.133.5.4.1"  # TCG DICE: for which firmware a certificate was issued
_DRIVER, _VBIOS, _CHIP, _FIRMWARE = 3, 6, 15, 20  # of the fields that NVIDIA puts behind the measurements


@verifiers.register("nvidia-gpu")
@dataclass(frozen=True, slots=True)
class NvidiaGpu:
    """Verifies the attestation of a GPU in confidential computing mode."""

    def authenticate(self, evidence: Evidence, policy: Policy, at: datetime) -> Claims:
        """Return what the GPU says, once its chain and signature are found authentic at ``at``."""
        nonce, blocks, fields = read_measurements(evidence.body)
        chain = chains.from_pem(evidence.part("chain"), "chain of the GPU")
        root = chains.require_chain(chain, chains.trusted(policy, (NVIDIA_DEVICE,)), at)
        signed, signature = evidence.body[:-_SIGNATURE], evidence.body[-_SIGNATURE:]
        chains.require_signed(chain[0].public_key(), signature, signed, "GPU's measurements")
        _require_firmware(chain[0], fields.get(_FIRMWARE))
        return _claims(nonce, blocks, fields, chain[0], root)


def read_measurements(data: bytes) -> tuple[bytes, Mapping[int, bytes], Mapping[int, bytes]]:
    """Return nonce, measurements by index and NVIDIA's fields by number, of a request and its answer.

    Raises:
        UnreadableArtifact: anything else.
    """
    if len(data) > MAX_MESSAGE:
        raise UnreadableArtifact(f"the GPU's measurements are longer than {MAX_MESSAGE} bytes")
    cursor = Cursor(data, "exchange with the GPU", "little")
    version, code, _, wanted = cursor.take(4)
    if (version, code, wanted) != (_VERSION, _GET, _ALL):
        raise UnreadableArtifact("this is no SPDM 1.1 request for all measurements")
    nonce, _ = cursor.take(32), cursor.take(1)
    version, code, _, _ = cursor.take(4)
    if (version, code) != (_VERSION, _ANSWER):
        raise UnreadableArtifact("the GPU did not answer with measurements")
    count = cursor.number(1)
    blocks = _blocks(Cursor(cursor.block(3), "measurement record of the GPU", "little"), count)
    cursor.take(32)  # the GPU's own nonce
    fields = _fields(Cursor(cursor.block(2), "fields of the GPU", "little"))
    cursor.take(_SIGNATURE)
    cursor.end()
    return nonce, blocks, fields


def _blocks(cursor: Cursor, count: int) -> dict[int, bytes]:
    blocks: dict[int, bytes] = {}
    for _ in range(count):
        index, kind = cursor.number(1), cursor.number(1)
        inner = Cursor(cursor.block(2), cursor.what, "little")
        inner.number(1)
        value = inner.block(2)
        inner.end()
        if kind != _DIGEST_BLOCK or index in blocks or not value:
            raise UnreadableArtifact(f"measurement {index} of the GPU is of an unknown kind, empty, or there twice")
        blocks[index] = value
    cursor.end()
    return blocks


def _fields(cursor: Cursor) -> dict[int, bytes]:
    fields: dict[int, bytes] = {}
    while cursor.left:
        number, value = cursor.number(2), cursor.block(2)
        if number in fields:
            raise UnreadableArtifact(f"field {number} of the GPU is there twice")
        fields[number] = value
    return fields


def _require_firmware(leaf: x509.Certificate, firmware: bytes | None) -> None:
    """The GPU's boot code certifies a key for the firmware it has measured; the answer names the same firmware."""
    stated = next((item.value for item in leaf.extensions if item.oid.dotted_string == _TCB_INFO), None)
    if not isinstance(stated, x509.UnrecognizedExtension) or not firmware:
        raise SignerUntrusted("the GPU or its certificate does not say what firmware it is for")
    if not stated.value.endswith(b"\x04" + bytes((len(firmware) & 0x7F,)) + firmware):
        raise SignerUntrusted("the GPU's certificate was issued for other firmware than the GPU runs")


def _claims(
    nonce: bytes, blocks: Mapping[int, bytes], fields: Mapping[int, bytes], leaf: x509.Certificate, root: str
) -> Claims:
    measurements = {f"block.{index}": value.hex() for index, value in sorted(blocks.items())}
    return Claims(
        kind="nvidia-gpu",
        root=root,
        identity=f"{leaf.serial_number:x}",
        measurements=measurements | {"firmware": fields[_FIRMWARE].hex()},
        versions={},
        report_data=nonce,
        debug=False,  # the exchange has no word for it; a policy names the measurements of the mode it accepts
        details={
            "driver": _text(fields.get(_DRIVER, b"")),
            "vbios": _vbios(fields.get(_VBIOS, b"")),
            "chip": _text(fields.get(_CHIP, b"")),
        },
    )


def _text(value: bytes) -> str:
    text = value.rstrip(b"\0").decode("ascii", "replace")
    return text if text.isprintable() else value.hex()


def _vbios(value: bytes) -> str:
    """Return ``96.00.9F.00.01``: four bytes backwards, then the fifth."""
    return ".".join(f"{byte:02X}" for byte in (*value[3::-1], *value[4:5]))
