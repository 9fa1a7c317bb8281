"""An assessment of a small real model: sealed, resumable, and refused after any change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from holdfast.assessment import Effort, assess
from holdfast.data import dataset
from holdfast.errors import DigestMismatch, HoldfastError, InvalidConfig, PolicyError, SignerUntrusted
from holdfast.evidence.record import Record
from holdfast.models import build_architecture
from holdfast.policy import check
from holdfast.signing import generate_key, verify
from holdfast.training import Standard, train
from holdfast.training.recipes import Schedule

EFFORT = Effort(rates=(1e-3, 1e-2), chips=2, images=50, trials=80, weight_trials=20, probes=8, shield_images=2, lies=10)
KINDS = {
    "artifact",
    "bit-errors",
    "fault-campaign",
    "fault-campaign-hardened",
    "fault-campaign-weights",
    "platform",
    "shield",
}


@pytest.fixture(scope="module")
def key():
    return generate_key()


@pytest.fixture(scope="module")
def model():
    recipe = Standard(schedule=Schedule(5, 0.1, 64))
    return train(build_architecture("digits-cnn", seed=0), dataset("digits", split="train"), recipe, seed=0)


@pytest.fixture(scope="module")
def finished(model, key, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("assessment") / "out"
    result = assess(model, dataset("digits"), out=out, effort=EFFORT, key=key, title="Digits")
    assert set(result.records) == KINDS
    assert not result.ephemeral
    return out


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def test_records_are_canonical_complete_and_about_one_subject(finished: Path) -> None:
    records = {path.stem: Record.from_bytes(path.read_bytes()) for path in (finished / "records").glob("*.json")}
    assert set(records) == KINDS
    assert len({record.subject.digest["blake3"] for record in records.values()}) == 1
    for name, record in records.items():
        assert record.to_bytes() == (finished / "records" / f"{name}.json").read_bytes()
        assert record.platform["torch"]
        assert record.tool["name"] == "holdfast"


def test_calibration_and_evaluation_are_disjoint(finished: Path) -> None:
    hardened = Record.from_bytes((finished / "records" / "fault-campaign-hardened.json").read_bytes())
    assert hardened.inputs["calibration"] != hardened.inputs["evaluation"]
    assert hardened.procedure["inputs"] == 400


def test_shield_is_bit_equal_and_catches_every_lie(finished: Path) -> None:
    record = Record.from_bytes((finished / "records" / "shield.json").read_bytes())
    assert record.facts["bit_equal"] is True
    assert record.measured["detected"].value == 1.0
    assert record.measured["detected"].n == 10


def test_hardening_does_not_cost_more_than_it_saves(finished: Path) -> None:
    plain, hard = (
        Record.from_bytes((finished / "records" / f"{name}.json").read_bytes()).measured["critical-or-due"].value
        for name in ("fault-campaign", "fault-campaign-hardened")
    )
    assert hard <= plain


def test_passport_verifies_under_its_key_only(finished: Path, key) -> None:
    assert verify(finished, trust=key.public).signer == key.public.fingerprint
    assert verify(finished).self_signed
    with pytest.raises(SignerUntrusted):
        verify(finished, trust=generate_key().public)


@pytest.mark.parametrize(
    "name",
    [
        "records/shield.json",
        "model/model.safetensors",
        "report.html",
        "campaign.sqlite",
        "passport.bundle.json",
        "passport.pub",
    ],
)
def test_any_changed_file_is_refused(copy: Path, key, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    for trust in (None, key.public):
        with pytest.raises(HoldfastError) as caught:
            verify(copy, trust=trust)
        assert caught.value.exit_code in (1, 2)


def test_missing_and_extra_files_are_named(copy: Path) -> None:
    (copy / "records" / "shield.json").unlink()
    (copy / "records" / "extra.json").write_text("{}")
    with pytest.raises(DigestMismatch, match=r"shield\.json is missing.*extra\.json was not signed"):
        verify(copy)


def test_policy_is_met_or_names_requirement_and_record(finished: Path, key, tmp_path: Path) -> None:
    (tmp_path / "lab.pub").write_bytes(key.public.pem)
    policy = tmp_path / "deploy.toml"
    rule = '[[require]]\nkind = "shield"\nmeasure = "detected"\nvalue_above = {}\nsigner = "lab.pub"\n'
    policy.write_text(rule.format(0.99))
    (met,) = check(finished, policy)
    assert met.records == ("records/shield.json",)
    policy.write_text(rule.format(1.5))
    with pytest.raises(PolicyError, match=r"records/shield\.json fails shield value_above"):
        check(finished, policy)
    policy.write_text('[[require]]\nkind = "sbom"\n')
    with pytest.raises(PolicyError, match="requires a sbom record"):
        check(finished, policy)


def test_a_second_call_reuses_records_and_another_seed_does_not(copy: Path, model, key) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in (copy / "records").glob("*.json")}
    assess(model, dataset("digits"), out=copy, effort=EFFORT, key=key, title="Digits")
    after = {path.name: path.stat().st_mtime_ns for path in (copy / "records").glob("*.json")}
    assert after == before
    assert verify(copy, trust=key.public).signer == key.public.fingerprint


def test_foreign_folder_and_probes_are_refused(tmp_path: Path, model) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InvalidConfig, match=r"thesis\.tex"):
        assess(model, dataset("digits"), out=tmp_path, effort=EFFORT)
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_report_shows_the_records_numbers(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    value = json.loads((finished / "records" / "artifact.json").read_bytes())["measured"]["clean-accuracy"]["value"]
    assert f"{value * 100:.2f}" in page


def test_the_report_says_what_the_bit_errors_guarantee(finished: Path) -> None:
    facts = Record.from_bytes((finished / "records" / "bit-errors.json").read_bytes()).facts
    assert [sentence.split(", ")[1].split(":")[0] for sentence in facts["guarantees"]] == [
        "published",
        "split",
        "adaptive",
    ]
    assert "vacuous" in facts["guarantees"][0]  # two chips and fifty images bound nothing
    assert facts["guarantees"][0] in (finished / "report.html").read_text()
    for curve in facts["curves"].values():
        assert all(point["mean"] <= point["cvar"] <= point["worst"] for point in curve)
        assert all(point["or_clean"] >= point["mean"] for point in curve)
