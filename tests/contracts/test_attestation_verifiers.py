"""Every registered attestation verifier keeps the laws of one, and a broken one is caught."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from tests.attesting import (
    NONCE,
    NOW,
    SnpMachine,
    gpu_evidence,
    gpu_policy,
    nitro_evidence,
    nitro_policy,
    snp_policy,
    tpm_evidence,
    tpm_policy,
)
from tests.attesting_dcap import dcap_evidence, dcap_policy

from holdfast.errors import PolicyError, SignerUntrusted
from holdfast.shielding.attestation import Claims, Evidence, Policy, verifiers, verify
from holdfast.testing import ContractBroken, check_verifier

LATER = NOW + timedelta(minutes=1)


def cases() -> dict[str, tuple[Evidence, Policy]]:
    return {
        "nitro": (nitro_evidence(), nitro_policy()),
        "nvidia-gpu": (gpu_evidence(), gpu_policy()),
        "sev-snp": (SnpMachine().evidence(), snp_policy()),
        "sgx": (dcap_evidence("sgx"), dcap_policy("sgx")),
        "tdx": (dcap_evidence("tdx"), dcap_policy("tdx")),
        "tpm2": (tpm_evidence(), tpm_policy()),
    }


@pytest.mark.parametrize("kind", verifiers.names())
def test_a_registered_verifier_keeps_the_laws(kind: str):
    evidence, policy = cases()[kind]
    check_verifier(evidence, policy, nonce=NONCE, at=LATER)


@pytest.mark.parametrize("kind", verifiers.names())
def test_a_demand_for_a_revocation_list_is_met_or_refused_and_never_passed_over(kind: str):
    """Nitro, TPM and GPU evidence brings no list, whatever the policy's roots; SEV-SNP's is left out here."""
    evidence, policy = cases()[kind]
    demanding = replace(policy, revocation=True)
    if kind in ("sgx", "tdx"):
        assert verify(evidence, demanding, nonce=NONCE, at=LATER).unrevoked
        return
    assert not verify(evidence, policy, nonce=NONCE, at=LATER).unrevoked
    with pytest.raises((PolicyError, SignerUntrusted), match="demands a revocation list"):
        verify(evidence, demanding, nonce=NONCE, at=LATER)


def test_every_registered_verifier_is_checked():
    assert set(verifiers.names()) == set(cases())


class Believing:
    """Reads a report and checks nothing."""

    def authenticate(self, evidence: Evidence, policy: Policy, at: datetime) -> Claims:
        return Claims(
            kind="believing",
            root="00",
            identity="",
            measurements={"code": "11"},
            versions={},
            report_data=NONCE,
            debug=False,
        )


def test_one_that_believes_everything_is_caught(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(verifiers._known, "believing", Believing)
    policy = Policy(kind="believing", measurements={"code": ("11",)})
    with pytest.raises(ContractBroken, match="refuses evidence that is empty"):
        check_verifier(Evidence(kind="believing", body=b"report"), policy, nonce=NONCE, at=LATER)


def test_one_that_refuses_the_good_evidence_is_caught():
    evidence, policy = cases()["tpm2"]
    with pytest.raises(ContractBroken, match="accepts the good evidence"):
        check_verifier(replace(evidence, body=b""), policy, nonce=NONCE, at=LATER)
