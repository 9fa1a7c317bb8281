"""The demands of a policy, the file they stand in, the file evidence stands in, and what a nonce is bound to."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import (
    HoldfastError,
    InvalidConfig,
    PolicyError,
    UnknownName,
    UnreadableArtifact,
    UnsupportedVersion,
)
from holdfast.shielding.attestation import Claims, Evidence, Policy, bound, read_evidence, read_policy, verify
from tests.attesting import NONCE, NOW, SnpMachine, nitro_evidence, snp_policy

CLAIMS = Claims(
    kind="sgx", root="00", identity="chip", measurements={"mrenclave": "ab"}, versions={"isv_svn": 3},
    report_data=NONCE.ljust(64, b"\0"), filled=True, debug=False,
    tcb="OutOfDate", advisories=("INTEL-SA-1",), issued=NOW,
)  # fmt: skip
STRICT = Policy(kind="sgx", measurements={"mrenclave": ("ab", "cd")}, tcb=("UpToDate", "OutOfDate"))


def test_claims_that_meet_every_demand_pass():
    STRICT.judge(CLAIMS, nonce=NONCE, at=NOW)
    replace(STRICT, minimum={"isv_svn": 3}).judge(CLAIMS, nonce=NONCE, at=NOW)


@pytest.mark.parametrize(
    ("demand", "words"),
    [
        ({"tcb": ("UpToDate",)}, "patch level is OutOfDate"),
        ({"refuse_advisories": ("INTEL-SA-1",)}, "INTEL-SA-1 applies"),
        ({"minimum": {"isv_svn": 4}}, "isv_svn is 3"),
        ({"minimum": {"other": 0}}, "no version 'other'"),
        ({"measurements": {"mrenclave": ("cd",)}}, "mrenclave is ab"),
        ({"measurements": {"mrsigner": ("ab",)}}, "no measurement 'mrsigner'"),
        ({"kind": "tdx"}, "demands 'tdx'"),
    ],
)
def test_a_demand_that_is_not_met_is_named(demand: dict[str, Any], words: str):
    with pytest.raises(PolicyError, match=words):
        replace(STRICT, **demand).judge(CLAIMS, nonce=NONCE, at=NOW)


@pytest.mark.parametrize(
    "wrong",
    [
        {}, {"measurements": {"mrenclave": ()}}, {"measurements": {"mrenclave": ("AB",)}},
        {"measurements": {"mrenclave": ("",)}}, {"any_code": True, "max_age": 0.0}, {"kind": "", "any_code": True},
        {"any_code": True, "max_age": float("nan")}, {"any_code": True, "max_age": float("inf")},
    ],
)  # fmt: skip
def test_a_policy_that_cannot_be_meant_is_refused(wrong: dict[str, Any]):
    with pytest.raises(InvalidConfig):
        Policy(**({"kind": "sgx"} | wrong))


def test_a_short_nonce_is_refused():
    with pytest.raises(InvalidConfig, match="fewer than 16"):
        STRICT.judge(CLAIMS, nonce=NONCE[:15], at=NOW)


def test_the_time_must_be_stated_with_its_zone():
    with pytest.raises(InvalidConfig, match="time zone"):
        verify(SnpMachine().evidence(), snp_policy(), nonce=NONCE, at=datetime(2026, 6, 1))
    with pytest.raises(TypeError):
        verify(SnpMachine().evidence(), snp_policy(), nonce=NONCE)  # type: ignore[call-arg]


def test_evidence_of_another_kind_is_refused_before_it_is_read():
    with pytest.raises(PolicyError, match="kind 'nitro', the policy demands 'sev-snp'"):
        verify(nitro_evidence(), snp_policy(), nonce=NONCE, at=NOW)
    renamed = Evidence(kind="sev-snp", body=nitro_evidence().body)
    with pytest.raises(UnreadableArtifact):
        verify(renamed, snp_policy(), nonce=NONCE, at=NOW)
    with pytest.raises(UnknownName, match="unknown attestation verifier 'sew'"):
        verify(Evidence(kind="sew", body=b""), Policy(kind="sew", any_code=True), nonce=NONCE, at=NOW)


def test_a_policy_is_read_from_toml(tmp_path: Path):
    (tmp_path / "root.pem").write_bytes(snp_policy().roots[0])
    (tmp_path / "policy.toml").write_text(
        'kind = "sev-snp"\nroots = ["root.pem"]\nmax_age = 60\n'
        f'[measurements]\nmeasurement = "{"11" * 48}"\npcr.12 = ["ab", "cd"]\n[minimum]\ntcb.snp = 8\n'
    )
    policy = read_policy(tmp_path / "policy.toml")
    assert policy.measurements == {"measurement": ("11" * 48,), "pcr.12": ("ab", "cd")}
    assert policy.minimum == {"tcb.snp": 8}
    assert policy.max_age == 60.0
    assert policy.roots == snp_policy().roots
    assert not policy.debug


@pytest.mark.parametrize(
    "text",
    [
        'kind = "sgx"\ndebgu = true\nany_code = true', "kind = 7\nany_code = true", 'kind = "sgx"\nany_code = "yes"',
        'kind = "sgx"\n[minimum]\nisv_svn = true', 'kind = "sgx"\n[measurements]\nmrenclave = 5',
        'kind = "sgx"\nany_code = true\nmax_age = "long"', 'kind = "sgx"\nany_code = true\nroots = ["absent.pem"]',
        "not toml", 'kind = "sgx"\nmeasurements = 7',
    ],
)  # fmt: skip
def test_a_policy_file_with_a_mistake_is_refused(tmp_path: Path, text: str):
    (tmp_path / "policy.toml").write_text(text)
    with pytest.raises((InvalidConfig, UnreadableArtifact)):
        read_policy(tmp_path / "policy.toml")


def test_evidence_survives_its_file(tmp_path: Path):
    evidence = SnpMachine().evidence()
    evidence.save(tmp_path / "e.json")
    assert read_evidence(tmp_path / "e.json") == evidence
    assert read_evidence(tmp_path / "e.json", kind="sev-snp") == evidence
    with pytest.raises(InvalidConfig, match="not 'sgx'"):
        read_evidence(tmp_path / "e.json", kind="sgx")


def test_raw_evidence_needs_its_kind(tmp_path: Path):
    evidence = SnpMachine().evidence()
    (tmp_path / "report.bin").write_bytes(evidence.body)
    for name, part in evidence.collateral.items():
        (tmp_path / name).write_bytes(part)
    files = {name: tmp_path / name for name in evidence.collateral}
    assert read_evidence(tmp_path / "report.bin", kind="sev-snp", collateral=files) == evidence
    with pytest.raises(InvalidConfig, match="of what kind"):
        read_evidence(tmp_path / "report.bin")


def test_a_later_version_of_the_file_is_refused_by_name():
    text = SnpMachine().evidence().to_bytes().replace(b"evidence/v1", b"evidence/v2")
    with pytest.raises(UnsupportedVersion, match="v2"):
        Evidence.from_bytes(text)


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: ('{"type":"' + text).encode()))
def test_what_is_no_evidence_file_raises_nothing_but_our_errors(raw: bytes):
    with pytest.raises(HoldfastError):
        Evidence.from_bytes(raw)


def test_the_bound_value_depends_on_nonce_and_session_and_on_which_is_which():
    values = {
        bound(NONCE), bound(NONCE, b"a"), bound(NONCE, b"b"), bound(bytes(32), b"a"), bound(NONCE + b"a"),
        bound(NONCE[:31], NONCE[31:] + b"a"),
    }  # fmt: skip
    assert len(values) == 6
    assert all(len(value) == 32 for value in values)
    with pytest.raises(InvalidConfig):
        bound(b"short")
