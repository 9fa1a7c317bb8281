"""Measured values of a signed model: in a passport beside it, or in records signed one by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.errors import PolicyError
from holdfast.evidence import canonical
from holdfast.evidence.record import Measurement, Record
from holdfast.evidence.statement import Statement, Subject
from holdfast.models import build_architecture, load, model_subject, save
from holdfast.policy import check
from holdfast.signing import generate_key, sign, sign_statement, write_passport

LAB, AUTHOR = generate_key("ed25519"), generate_key("ed25519")
RULES = '[[model]]\ntrust = ["author.pub"]\n[[require]]\nkind = "shield"\nmeasure = "detected"\nvalue_above = 0.9\n'


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save(build_architecture("digits-cnn"), tmp_path / "net")
    sign(tmp_path / "net", key=AUTHOR)
    (tmp_path / "author.pub").write_bytes(AUTHOR.public.pem)
    (tmp_path / "lab.pub").write_bytes(LAB.public.pem)
    (tmp_path / "evidence" / "records").mkdir(parents=True)
    return tmp_path / "net"


def record(model: Path | Subject, value: float = 0.99) -> Record:
    subject = model if isinstance(model, Subject) else model_subject(load(model))
    measured = {"detected": Measurement(value, value, value, 100)}
    return Record(kind="shield", subject=subject, procedure={"type": "x", "version": 1}, measured=measured)


def policy(model: Path, text: str) -> Path:
    path = model.parent / "deploy.toml"
    path.write_text(text)
    return path


def test_a_passport_about_the_loaded_model_counts(model: Path) -> None:
    evidence = model.parent / "evidence"
    (evidence / "records" / "shield.json").write_bytes(record(model).to_bytes())
    write_passport(evidence, LAB)
    rules = policy(model, RULES + '[passport]\nsigner = "lab.pub"\n')
    met = {item.demand: item.records for item in check(model, rules, evidence=(evidence,))}
    assert met["[[require]] shield detected"] == ("records/shield.json",)
    (evidence / "records" / "shield.json").write_bytes(record(Subject("model", {"blake3": "0" * 64})).to_bytes())
    write_passport(evidence, LAB)
    with pytest.raises(PolicyError, match="is about another model"):
        check(model, rules, evidence=(evidence,))


def test_records_signed_one_by_one_all_count(model: Path) -> None:
    evidence = model.parent / "evidence"
    rules = policy(model, RULES + 'signer = "lab.pub"\n')
    (evidence / "a.bundle.json").write_bytes(sign_statement(record(model).to_statement(), LAB))
    assert len(check(model, rules, evidence=(evidence,))) == 2
    (evidence / "b.bundle.json").write_bytes(sign_statement(record(model, 0.2).to_statement(), LAB))
    with pytest.raises(PolicyError, match=r"b\.bundle\.json fails shield value_above"):
        check(model, rules, evidence=(evidence,))
    with pytest.raises(PolicyError, match="no table says who may sign shield records"):
        check(model, policy(model, RULES), evidence=(evidence,))


def test_a_statement_about_this_model_around_a_record_of_another_is_refused(model: Path) -> None:
    other = record(Subject("model", {"blake3": "0" * 64}))
    statement = other.to_statement()
    swapped = Statement((model_subject(load(model)),), statement.predicate_type, statement.predicate)
    (model.parent / "evidence" / "a.bundle.json").write_bytes(sign_statement(swapped, LAB))
    rules = policy(model, RULES + 'signer = "lab.pub"\n')
    with pytest.raises(PolicyError, match="about another thing"):
        check(model, rules, evidence=(model.parent / "evidence",))


ODD = {"text": "100", "truth": True, "nothing": None, "negative": -1}


@pytest.mark.parametrize("what", list(ODD))
def test_a_measurement_of_other_than_numbers_is_not_met_and_crashes_nothing(model: Path, what: str) -> None:
    evidence, value = model.parent / "evidence", record(model).to_json()
    value["measured"]["detected"]["n"] = ODD[what]
    (evidence / "records" / "shield.json").write_bytes(canonical.dumps(value))
    write_passport(evidence, LAB)
    rules = policy(model, RULES + 'n_at_least = 1\n[passport]\nsigner = "lab.pub"\n')
    with pytest.raises(PolicyError, match="shield detected: the record is malformed: detected is measured by"):
        check(model, rules, evidence=(evidence,))
