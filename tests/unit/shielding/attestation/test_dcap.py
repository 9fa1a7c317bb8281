"""SGX and TDX quotes: of a platform of our own and of two real ones, with collateral at its time of issue."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import (
    ArtifactError,
    HoldfastError,
    PolicyError,
    SignatureInvalid,
    SignerUntrusted,
    UnreadableArtifact,
    VerificationError,
)
from holdfast.shielding.attestation import Evidence, Policy, verify
from holdfast.shielding.attestation.dcap_quote import read_quote
from tests.attesting import NONCE, NOW, flipped, with_body, with_part
from tests.attesting_dcap import MRENCLAVE, MRTD, chain, collateral, dcap_evidence, dcap_policy, quote
from tests.authority import authority, issue

REFUSED = (VerificationError, ArtifactError)
LATER = NOW + timedelta(hours=1)
BOTH = pytest.mark.parametrize("tee", ["sgx", "tdx"])


@BOTH
def test_a_quote_with_current_collateral_is_accepted(tee: str):
    claims = verify(dcap_evidence(tee), dcap_policy(tee), nonce=NONCE, at=LATER)
    measured = {"sgx": ("mrenclave", MRENCLAVE.hex()), "tdx": ("mrtd", MRTD.hex())}[tee]
    assert claims.measurements[measured[0]] == measured[1]
    assert claims.tcb == "UpToDate"
    assert claims.advisories == ("INTEL-SA-00001",)
    assert claims.identity == "44" * 16
    assert claims.versions["tcb_evaluation"] == 17
    assert claims.report_data == NONCE.ljust(64, b"\0")


def test_what_runs_in_the_enclave_is_stated_with_its_versions():
    policy = dcap_policy("sgx", minimum={"isv_svn": 9})
    assert verify(dcap_evidence("sgx"), policy, nonce=NONCE, at=LATER).measurements["isv_prod_id"] == "0700"
    with pytest.raises(PolicyError, match="isv_svn is 9"):
        verify(dcap_evidence("sgx"), dcap_policy("sgx", minimum={"isv_svn": 10}), nonce=NONCE, at=LATER)
    assert verify(dcap_evidence("tdx"), dcap_policy("tdx"), nonce=NONCE, at=LATER).measurements["rtmr3"] == "04" * 48


@BOTH
def test_another_nonce_measurement_or_advisory_is_refused(tee: str):
    with pytest.raises(PolicyError, match="another nonce"):
        verify(dcap_evidence(tee), dcap_policy(tee), nonce=bytes(32), at=LATER)
    wrong = {"mrenclave" if tee == "sgx" else "mrtd": ("00" * 32,)}
    with pytest.raises(PolicyError, match="which the policy does not allow"):
        verify(dcap_evidence(tee), dcap_policy(tee, measurements=wrong), nonce=NONCE, at=LATER)
    policy = dcap_policy(tee, refuse_advisories=("INTEL-SA-00001",))
    with pytest.raises(PolicyError, match="INTEL-SA-00001 applies"):
        verify(dcap_evidence(tee), policy, nonce=NONCE, at=LATER)


@BOTH
def test_a_world_that_can_be_debugged_is_always_refused(tee: str):
    for debug in (False, True):
        with pytest.raises(PolicyError, match="debugged"):
            verify(dcap_evidence(tee, debug=True), dcap_policy(tee, debug=debug), nonce=NONCE, at=LATER)


@BOTH
def test_a_platform_that_is_out_of_date_needs_the_policy_s_consent(tee: str):
    evidence = dcap_evidence(tee, status="OutOfDate")
    with pytest.raises(PolicyError, match=r"patch level is OutOfDate \(INTEL-SA-00001\)"):
        verify(evidence, dcap_policy(tee), nonce=NONCE, at=LATER)
    accepted = dcap_policy(tee, tcb=("UpToDate", "OutOfDate"))
    assert verify(evidence, accepted, nonce=NONCE, at=LATER).tcb == "OutOfDate"


@BOTH
def test_a_revoked_platform_is_refused_whatever_the_policy_says(tee: str):
    with pytest.raises(REFUSED):
        verify(dcap_evidence(tee, status="Revoked"), dcap_policy(tee, tcb=("Revoked",)), nonce=NONCE, at=LATER)


@BOTH
def test_a_platform_below_every_known_level_is_refused(tee: str):
    with pytest.raises(SignatureInvalid):
        verify(dcap_evidence(tee, needs=6), dcap_policy(tee), nonce=NONCE, at=LATER)


@BOTH
@pytest.mark.parametrize("days", [-1, 31])
def test_collateral_that_is_stale_or_of_the_future_is_refused(tee: str, days: int):
    with pytest.raises(SignatureInvalid, match="does not verify"):
        verify(dcap_evidence(tee), dcap_policy(tee), nonce=NONCE, at=NOW + timedelta(days=days))


@BOTH
def test_a_platform_on_the_revocation_list_is_refused(tee: str):
    serial = chain()[2].certificate.serial_number
    with pytest.raises(SignatureInvalid, match="evoked"):
        verify(dcap_evidence(tee, revoked=(serial,)), dcap_policy(tee), nonce=NONCE, at=LATER)


@BOTH
def test_another_root_and_a_certificate_by_somebody_else_are_refused(tee: str):
    with pytest.raises(SignerUntrusted, match="no trusted root"):
        verify(dcap_evidence(tee), dcap_policy(tee, roots=()), nonce=NONCE, at=LATER)
    with pytest.raises(SignerUntrusted, match="no trusted root"):
        verify(dcap_evidence(tee), dcap_policy(tee, roots=(authority("Intel SGX Root CA").pem,)), nonce=NONCE, at=LATER)


@pytest.mark.parametrize("name", ["tcb_info_issuer_chain", "pck_crl_issuer_chain", "qe_identity_issuer_chain"])
def test_collateral_vouched_for_by_somebody_else_is_refused(name: str):
    stranger = authority("Intel SGX Root CA")
    parts = json.loads(collateral("sgx"))
    parts[name] = (issue("Intel SGX TCB Signing", stranger).pem + stranger.pem).decode()
    evidence = with_part(dcap_evidence("sgx"), "collateral", json.dumps(parts).encode())
    with pytest.raises(SignerUntrusted, match="no trusted root"):
        verify(evidence, dcap_policy("sgx"), nonce=NONCE, at=LATER)


def test_quotes_of_the_other_kind_and_the_other_s_collateral_are_refused():
    swapped = Evidence(kind="tdx", body=quote("sgx"), collateral={"collateral": collateral("tdx")})
    with pytest.raises(UnreadableArtifact, match="a quote of sgx"):
        verify(swapped, dcap_policy("tdx"), nonce=NONCE, at=LATER)
    evidence = with_part(dcap_evidence("sgx"), "collateral", collateral("tdx"))
    with pytest.raises(SignatureInvalid):
        verify(evidence, dcap_policy("sgx"), nonce=NONCE, at=LATER)


def _bits(body: bytes) -> range:
    """All bits but those of what a real device puts behind its quote."""
    return range(8 * len(body.rstrip(b"\0")))


@BOTH
def test_flipped_bits_truncations_and_additions_are_refused(tee: str):
    evidence = dcap_evidence(tee)
    damaged = [flipped(evidence.body, bit) for bit in _bits(evidence.body)[::83]]
    damaged += [evidence.body[:size] for size in range(0, len(evidence.body), 67)] + [evidence.body + b"x"]
    for bad in damaged:
        with pytest.raises(REFUSED):
            verify(with_body(evidence, bad), dcap_policy(tee), nonce=NONCE, at=LATER)


@pytest.mark.slow
@BOTH
def test_many_single_flipped_bits_are_refused(tee: str):
    evidence = dcap_evidence(tee)
    for bit in _bits(evidence.body)[::7]:  # every byte, and each place in a byte
        with pytest.raises(REFUSED):
            verify(with_body(evidence, flipped(evidence.body, bit)), dcap_policy(tee), nonce=NONCE, at=LATER)


@BOTH
def test_changed_collateral_is_refused(tee: str):
    evidence = dcap_evidence(tee)
    parts = json.loads(evidence.part("collateral"))
    for name in ("root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature"):
        raw = bytes.fromhex(parts[name])
        signed = range(8 * 4, 8 * len(raw) - 8, 97 if "crl" in name else 41)
        for bit in signed:
            _require_refused(evidence, parts | {name: flipped(raw, bit).hex()}, tee)
    for name in ("tcb_info", "qe_identity"):
        for place in range(0, len(parts[name]), 71):
            text = parts[name]
            _require_refused(
                evidence, parts | {name: text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]}, tee
            )
    for name in parts:
        _require_refused(evidence, {key: value for key, value in parts.items() if key != name}, tee)


def _require_refused(evidence: Evidence, parts: dict[str, Any], tee: str) -> None:
    changed = with_part(evidence, "collateral", json.dumps(parts).encode())
    with pytest.raises(REFUSED):
        verify(changed, dcap_policy(tee), nonce=NONCE, at=LATER)


@settings(deadline=None)
@given(st.binary(max_size=1500))
def test_the_reader_raises_nothing_but_our_errors(data: bytes):
    with pytest.raises(HoldfastError):
        read_quote(data)


@settings(deadline=None)
@given(st.data())
def test_damaged_quotes_raise_nothing_but_our_errors(data: st.DataObject):
    tee = data.draw(st.sampled_from(["sgx", "tdx"]))
    evidence = _made(tee)
    damaged = bytearray(evidence.body)
    for place in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=6)):
        damaged[place] = data.draw(st.integers(0, 255))
    try:
        verify(with_body(evidence, bytes(damaged)), dcap_policy(tee), nonce=NONCE, at=LATER)
    except HoldfastError:
        return


_MADE: dict[str, Evidence] = {}


def _made(tee: str) -> Evidence:
    return _MADE.setdefault(tee, dcap_evidence(tee))


# ----- the real things

ISSUED = {"sgx": datetime(2025, 6, 19, 12, tzinfo=UTC), "tdx": datetime(2025, 6, 19, 12, tzinfo=UTC)}
SGX_STATUS = "ConfigurationAndSWHardeningNeeded"


def _real(vectors: Path, tee: str) -> Evidence:
    folder = vectors / "sgx-tdx-dcap"
    parts = {"collateral": (folder / f"{tee}_quote_collateral.json").read_bytes()}
    return Evidence(kind=tee, body=(folder / f"{tee}_quote").read_bytes(), collateral=parts)


def _lenient(tee: str) -> Policy:
    return Policy(kind=tee, any_code=True, tcb=("UpToDate", SGX_STATUS))


def test_a_real_sgx_quote_verifies_at_the_time_of_its_collateral(vectors: Path):
    nonce = b"Hello, world!".ljust(64, b"\0")
    claims = verify(_real(vectors, "sgx"), _lenient("sgx"), nonce=nonce, at=ISSUED["sgx"])
    assert claims.tcb == SGX_STATUS
    assert claims.measurements["mrenclave"].startswith("33d8736db756ed49")
    assert "INTEL-SA-00289" in claims.advisories
    with pytest.raises(PolicyError, match=f"patch level is {SGX_STATUS}"):
        verify(_real(vectors, "sgx"), Policy(kind="sgx", any_code=True), nonce=nonce, at=ISSUED["sgx"])


def test_a_real_tdx_quote_verifies_at_the_time_of_its_collateral(vectors: Path):
    nonce = bytes.fromhex("9a9d48e7f6799642d3d1b34e1e5e1742d4bb02dd6ddd551862c1211d35c304f9")
    whole = nonce + bytes.fromhex("eca3efdbb481601c163cf52493d6e44aed55d51ec39b7e518fadb92c2b523f20")
    policy = Policy(kind="tdx", any_code=True)
    assert verify(_real(vectors, "tdx"), policy, nonce=whole, at=ISSUED["tdx"]).tcb == "UpToDate"
    with pytest.raises(PolicyError, match="another nonce"):
        verify(_real(vectors, "tdx"), policy, nonce=nonce, at=ISSUED["tdx"])


@BOTH
def test_real_collateral_has_expired_today(vectors: Path, tee: str):
    with pytest.raises(SignatureInvalid, match="xpired"):
        verify(_real(vectors, tee), _lenient(tee), nonce=NONCE, at=datetime(2026, 11, 21, tzinfo=UTC))


@BOTH
def test_flipped_bits_of_a_real_quote_are_refused(vectors: Path, tee: str):
    evidence = _real(vectors, tee)
    policy = Policy(kind=tee, any_code=True, unfresh=True, tcb=("UpToDate", SGX_STATUS))
    verify(evidence, policy, nonce=None, at=ISSUED[tee])
    for bit in _bits(evidence.body)[::113]:
        with pytest.raises(REFUSED):
            verify(with_body(evidence, flipped(evidence.body, bit)), policy, nonce=None, at=ISSUED[tee])


def test_the_collateral_of_one_real_platform_does_not_serve_the_other(vectors: Path):
    evidence = with_part(_real(vectors, "sgx"), "collateral", _real(vectors, "tdx").part("collateral"))
    with pytest.raises(REFUSED):
        verify(evidence, _lenient("sgx"), nonce=NONCE, at=ISSUED["sgx"])


def test_the_pinned_root_is_the_one_intel_publishes(vectors: Path):
    from holdfast.shielding.attestation.chains import from_pem
    from holdfast.shielding.attestation.roots import INTEL_SGX, key_digest

    (root,) = from_pem((vectors / "tdx-google" / "trusted_root.pem").read_bytes(), "root")
    assert key_digest(root) == INTEL_SGX
    pem = (vectors / "tdx-google" / "trusted_root.pem").read_bytes()
    policy = Policy(kind="tdx", any_code=True, unfresh=True, roots=(pem,))
    assert verify(_real(vectors, "tdx"), policy, nonce=None, at=ISSUED["tdx"]).root == INTEL_SGX
