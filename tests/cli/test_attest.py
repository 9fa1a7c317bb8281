"""``holdfast attest verify``: prints the claims, and exits 1 with the demand that is not met."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast.cli import main
from tests.attesting import NONCE, SnpMachine, snp_policy

AT = "2026-06-01T00:00:00Z"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    SnpMachine().evidence().save("evidence.json")
    Path("root.pem").write_bytes(snp_policy().roots[0])
    Path("policy.toml").write_text(
        f'kind = "sev-snp"\nroots = ["root.pem"]\n[measurements]\nmeasurement = "{"11" * 48}"\n[minimum]\ntcb.snp = 8\n'
    )
    return tmp_path


def call(*arguments: str) -> int:
    given = ["attest", "verify", "evidence.json", "--policy", "policy.toml", "--at", AT, "--nonce", NONCE.hex()]
    return main([*given, *arguments])


def test_claims_are_printed(place: Path, capsys: pytest.CaptureFixture[str]):
    assert call() == 0
    out, err = capsys.readouterr()
    assert "verified: evidence.json, sev-snp" in err
    assert "tcb.snp" in out
    assert "11" * 48 in out


def test_claims_are_one_json_object(place: Path, capsys: pytest.CaptureFixture[str]):
    assert call("--json") == 0
    claims = json.loads(capsys.readouterr().out)
    assert claims["measurements"]["measurement"] == "11" * 48
    assert claims["at"] == "2026-06-01T00:00:00+00:00"
    assert claims["debug"] is False


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--nonce", "00" * 32], 1, "answers another nonce"),
        (["--at", "2027-06-01T00:00:00Z"], 1, "is valid from"),
        (["--kind", "sgx"], 2, "holds evidence of kind 'sev-snp'"),
        (["--nonce", "zz"], 2, "not hexadecimal"),
        (["--nonce", "00"], 2, "fewer than 16"),
        (["--at", "2026-06-01T00:00:00"], 2, "no time zone"),
        (["--at", "yesterday"], 2, "is no time"),
        (["--collateral", "vcek"], 2, "cannot read --collateral"),
        (["--collateral", "vcek=absent"], 2, "cannot read vcek absent"),
        (["--binding", "00"], 1, "answers another nonce"),
    ],
)
def test_a_refusal_has_a_reason_and_a_code(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
):
    assert call(*arguments) == code
    assert words in capsys.readouterr().err


def test_a_missing_nonce_is_a_mistake_of_the_caller(place: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["attest", "verify", "evidence.json", "--policy", "policy.toml", "--at", AT]) == 2
    assert "may be a replay" in capsys.readouterr().err


def test_raw_evidence_comes_with_its_parts(place: Path, capsys: pytest.CaptureFixture[str]):
    evidence = SnpMachine().evidence()
    Path("report.bin").write_bytes(evidence.body)
    parts = []
    for name, data in evidence.collateral.items():
        Path(name).write_bytes(data)
        parts += ["--collateral", f"{name}={name}"]
    given = ["attest", "verify", "report.bin", "--policy", "policy.toml", "--at", AT, "--nonce", NONCE.hex()]
    assert main([*given, "--kind", "sev-snp", *parts]) == 0
    assert main([*given, *parts]) == 2
    assert "--kind sev-snp" in capsys.readouterr().err


def test_lint_names_the_holes_of_a_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    manifest = tmp_path / "bad.manifest"
    manifest.write_text("loader.insecure__use_cmdline_argv = true\nsgx.debug = true\n")
    assert main(["attest", "lint", str(manifest)]) == 1
    out, err = capsys.readouterr()
    assert "host-arguments: loader.insecure__use_cmdline_argv" in out
    assert "debug: sgx.debug" in out
    assert "findings" in err
    assert main(["attest", "lint", str(manifest), "--json"]) == 1
    rules = {item["rule"] for item in json.loads(capsys.readouterr().out)["findings"]}
    assert {"host-arguments", "debug", "no-attestation"} <= rules
    manifest.write_text("[")
    assert main(["attest", "lint", str(manifest)]) == 2


@pytest.mark.parametrize("text", ["2026-06-01", "20260601", "2026-06-01 00:00"])
def test_the_hint_for_a_time_without_its_zone_can_be_taken(text: str, place: Path, capsys: pytest.CaptureFixture[str]):
    assert call("--at", text) == 2
    hint = capsys.readouterr().err.partition("hint: ")[2].split()[0]
    assert call("--at", hint) == 0
