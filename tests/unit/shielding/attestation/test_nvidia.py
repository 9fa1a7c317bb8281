"""GPU attestation: of a GPU of our own, and of five real H100s."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import (
    ArtifactError,
    HoldfastError,
    PolicyError,
    SignatureInvalid,
    SignerUntrusted,
    VerificationError,
)
from holdfast.shielding.attestation import Evidence, Policy, verify
from holdfast.shielding.attestation.nvidia import read_measurements
from tests.attesting import FIRMWARE, NONCE, NOW, flipped, gpu_chain, gpu_evidence, gpu_policy, with_body, with_part

REFUSED = (VerificationError, ArtifactError)


def test_the_measurements_of_a_gpu_are_accepted():
    claims = verify(gpu_evidence(), gpu_policy(), nonce=NONCE, at=NOW)
    assert claims.measurements["block.4"] == "04" * 48
    assert claims.measurements["firmware"] == FIRMWARE.hex()
    assert claims.details == {"driver": "590.12", "vbios": "96.00.9F.00.01", "chip": "882"}


def test_another_nonce_measurement_root_or_firmware_is_refused():
    with pytest.raises(PolicyError, match="another nonce"):
        verify(gpu_evidence(), gpu_policy(), nonce=bytes(32), at=NOW)
    with pytest.raises(PolicyError, match=r"block\.1 is 0101"):
        verify(gpu_evidence(), gpu_policy(measurements={"block.1": ("02" * 48,)}), nonce=NONCE, at=NOW)
    with pytest.raises(SignerUntrusted, match="no trusted root"):
        verify(gpu_evidence(), gpu_policy(roots=()), nonce=NONCE, at=NOW)
    with pytest.raises(SignerUntrusted, match="other firmware"):
        verify(gpu_evidence(firmware=b"\x72" * 48), gpu_policy(), nonce=NONCE, at=NOW)


def test_a_chain_with_certificates_exchanged_is_refused():
    root, boot, leaf = gpu_chain()
    for chain in (boot.pem + leaf.pem + root.pem, leaf.pem + root.pem, boot.pem + root.pem):
        with pytest.raises(REFUSED):
            verify(with_part(gpu_evidence(), "chain", chain), gpu_policy(), nonce=NONCE, at=NOW)


def test_flipped_bits_truncations_and_additions_are_refused():
    evidence = gpu_evidence()
    damaged = [flipped(evidence.body, bit) for bit in range(0, 8 * len(evidence.body), 29)]
    damaged += [evidence.body[:size] for size in range(0, len(evidence.body), 37)] + [evidence.body + b"\0"]
    for bad in damaged:
        with pytest.raises(REFUSED):
            verify(with_body(evidence, bad), gpu_policy(), nonce=NONCE, at=NOW)


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_the_reader_raises_nothing_but_our_errors(data: bytes):
    for raw in (data, b"\x11\xe0\x01\xff" + bytes(33) + b"\x11\x60\0\0" + data):
        with pytest.raises(HoldfastError):
            read_measurements(raw)


# ----- the real things


def _real(vectors: Path) -> list[tuple[Evidence, bytes]]:
    folder = vectors / "nvidia"
    report = bytes.fromhex((folder / "hopperAttestationReport.txt").read_text().strip())
    found = [(report, (folder / "hopperCertChain.txt").read_bytes())]
    for item in json.loads((folder / "gpu_evidence_0-3.json").read_text()):
        found.append((base64.b64decode(item["evidence"]), base64.b64decode(item["certificate"])))
    evidence = [Evidence(kind="nvidia-gpu", body=body, collateral={"chain": chain}) for body, chain in found]
    return [(item, item.body[4:36]) for item in evidence]


LENIENT = Policy(kind="nvidia-gpu", any_code=True)
TIME = datetime(2026, 1, 1, tzinfo=UTC)


def test_five_real_gpus_verify_up_to_nvidia_s_root(vectors: Path):
    for evidence, nonce in _real(vectors):
        claims = verify(evidence, LENIENT, nonce=nonce, at=TIME)
        assert len(claims.measurements) == 65
        assert claims.details["vbios"].startswith("96.00.")
        with pytest.raises(PolicyError, match="another nonce"):
            verify(evidence, LENIENT, nonce=NONCE, at=TIME)


def test_the_chain_of_another_real_gpu_does_not_vouch(vectors: Path):
    (_, _), (one, nonce), (other, _), *_ = _real(vectors)
    with pytest.raises(SignatureInvalid, match="GPU's measurements"):
        verify(with_part(one, "chain", other.part("chain")), LENIENT, nonce=nonce, at=TIME)


def test_flipped_bits_of_a_real_gpu_s_evidence_are_refused(vectors: Path):
    evidence, _ = _real(vectors)[0]
    policy = Policy(kind="nvidia-gpu", any_code=True, unfresh=True)
    for bit in range(0, 8 * len(evidence.body), 211):
        with pytest.raises(REFUSED):
            verify(with_body(evidence, flipped(evidence.body, bit)), policy, nonce=None, at=TIME)
