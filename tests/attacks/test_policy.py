"""Attacks on deployment policies: each must be refused, and the verdict must say why."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import (
    DigestMismatch,
    InvalidConfig,
    PolicyError,
    SignatureInvalid,
    SignerUntrusted,
    UnreadableArtifact,
)
from holdfast.evidence.record import Measurement, Record
from holdfast.evidence.statement import Statement, Subject
from holdfast.policy import State, check, read_policy, sign_summary, verify_summary
from holdfast.policy.naming import name_of, names_of
from holdfast.signing import KeyHolder, sign, sign_artifact, sign_statement, verify_bundle, write_passport
from holdfast.signing.envelope import read_envelope
from holdfast.signing.manifests import write_manifest
from holdfast.signing.oms import Serialization
from holdfast.signing.revocation import Revocation, RevocationList, sign_revocations
from holdfast.signing.rotation import parse_key_set, sign_key_set
from holdfast.signing.times import now
from tests.judged import BUILDER, DATA, DAY, POISON, Scene, scene

AUTHOR = '[[model]]\ntrust = ["author.pub"]\n'
ROLLBACK = AUTHOR + '[rollback]\nremember = "state/marks.json"\n'
REVOKED = '[revocation]\nlist = "revoked.bundle.json"\nsigner = "security.pub"\n'
BUILT = f'[provenance]\ntrust = ["ci.pub"]\nslsa_level = 2\nbuilders = {{"{BUILDER}" = 2}}\n'


@pytest.fixture
def at(tmp_path: Path) -> Scene:
    made = scene(tmp_path)
    for name in ("second", "security", "ci", "root", "stranger", "verifier"):
        made.key(name)
    return made


def refused(at: Scene, rules: str, demand: str) -> str:
    state, told = at.verdict(rules, demand)
    assert state is State.NOT_MET, told
    with pytest.raises(PolicyError):
        check(at.model, at.root / "deploy.toml", evidence=(at.evidence,))
    return told


def release(at: Scene, version: int, weights: bytes) -> None:
    """Sign the model anew, with a manifest of this version."""
    (at.model / "weights.safetensors").write_bytes(weights)
    write_manifest(at.model, at.key("author"), version=version, tensors=False)
    sign(at.model, key=at.key("author"))


def test_an_older_model_with_a_valid_signature_is_refused(at: Scene) -> None:
    release(at, 1, b"first")
    shutil.copytree(at.model, at.root / "old")
    assert not at.judge(ROLLBACK).failures
    release(at, 2, b"second")
    assert not at.judge(ROLLBACK).failures
    shutil.rmtree(at.model)
    shutil.copytree(at.root / "old", at.model)
    assert "has version 1; version 2 was already accepted here" in refused(at, ROLLBACK, "[rollback]")
    assert "asks for 2 or later" in refused(at, AUTHOR + "[rollback]\nminimum_version = 2\n", "[rollback]")


def test_an_old_manifest_does_not_fit_new_files_nor_a_new_one_old_files(at: Scene) -> None:
    release(at, 1, b"first")
    old = (at.model / "model.sig2").read_bytes()
    release(at, 2, b"second")
    (at.model / "model.sig2").write_bytes(old)
    refused(at, ROLLBACK, "[rollback]")
    (at.model / "model.sig2").unlink()
    assert "there is no model.sig2" in refused(at, ROLLBACK, "[rollback]")


def test_two_models_of_one_version_are_not_both_accepted(at: Scene) -> None:
    release(at, 1, b"first")
    assert not at.judge(ROLLBACK).failures
    release(at, 1, b"other")
    assert "accepted here with other contents" in refused(at, ROLLBACK, "[rollback]")


def test_a_refused_model_does_not_raise_the_mark(at: Scene) -> None:
    release(at, 1, b"first")
    assert not at.judge(ROLLBACK).failures
    release(at, 9, b"bad")
    refused(at, ROLLBACK + '[files]\nforbid = ["*.safetensors"]\n', "[files]")
    release(at, 2, b"good")
    assert not at.judge(ROLLBACK).failures


def test_a_damaged_memory_is_refused_and_a_deleted_one_forgets(at: Scene) -> None:
    release(at, 2, b"second")
    assert not at.judge(ROLLBACK).failures
    marks = at.root / "state" / "marks.json"
    kept = marks.read_bytes()
    marks.write_bytes(kept[:-1])
    refused(at, ROLLBACK, "[rollback]")
    marks.write_bytes(b"")
    refused(at, ROLLBACK, "[rollback]")
    marks.unlink()  # documented: whoever may delete the file makes the machine forget
    release(at, 1, b"first")
    assert not at.judge(ROLLBACK).failures


def test_an_older_an_expired_and_a_foreign_list_are_refused(at: Scene) -> None:
    author = Revocation("key", at.key("author").public.fingerprint, "compromise", now() - DAY)
    at.revoke(signer="stranger")
    assert "0 of 1 trusted" in refused(at, AUTHOR + REVOKED, "[revocation]")
    at.revoke(age=31 * DAY)
    assert "expired" in refused(at, AUTHOR + REVOKED, "[revocation]")
    at.revoke(age=8 * DAY)
    assert "older than allowed" in refused(at, AUTHOR + REVOKED + 'maximum_age = "7d"\n', "[revocation]")
    remembered = ROLLBACK + REVOKED
    at.revoke(author, version=2)
    at.judge(remembered)
    at.revoke(version=1)
    assert "version 2 was already accepted" in refused(at, remembered, "[revocation]")
    (at.root / "revoked.bundle.json").unlink()
    refused(at, AUTHOR + REVOKED, "[revocation]")


def put_another_list(at: Scene) -> None:
    """Put a current list of the same signer, for other things, in the place of the one that names the author."""
    other = RevocationList.first("laboratory", lifetime=30 * DAY)
    (at.root / "revoked.bundle.json").write_bytes(sign_revocations(other, at.key("security")))


def test_another_list_of_the_same_signer_is_refused_where_its_name_is_pinned_or_remembered(at: Scene) -> None:
    release(at, 1, b"first")
    at.revoke()
    assert not at.judge(ROLLBACK + REVOKED).failures
    at.revoke(Revocation("key", at.key("author").public.fingerprint, "compromise", now() - DAY), version=2)
    assert "is revoked (compromise)" in refused(at, AUTHOR + REVOKED, "[[model]] *")
    put_another_list(at)
    assert "and revocations:house was" in refused(at, ROLLBACK + REVOKED, "[revocation]")
    assert "and revocations:house was" in refused(at, ROLLBACK + REVOKED, "[[model]] *")
    named = AUTHOR + REVOKED + 'name = "house"\n'
    assert "not the one called 'house'" in refused(at, named, "[[model]] *")
    at.revoke(version=3)
    assert not at.judge(named).failures


def test_another_key_set_of_the_same_roots_is_refused_where_its_name_is_pinned(at: Scene) -> None:
    at.key_set("author")
    rules = '[keys]\nset = "keys.bundle.json"\nroot = ["root.pub"]\nname = '
    assert at.verdict(rules + '"house"\n', "[keys]")[0] is State.MET
    assert "not the one called 'prod'" in refused(at, rules + '"prod"\n', "[keys]")


def test_without_a_list_nothing_that_it_could_name_is_believed(at: Scene) -> None:
    """Whoever can hide the list must not gain by it: the model's signers are not accepted unchecked."""
    assert "revocation list" in refused(at, AUTHOR + REVOKED, "[[model]] *")


def test_a_revoked_key_does_not_sign_on(at: Scene) -> None:
    retired = Revocation("key", at.key("author").public.fingerprint, "retired", now() - timedelta(hours=1))
    at.revoke(retired)
    sign(at.model, key=at.key("author"))
    assert "is revoked (retired)" in refused(at, AUTHOR + REVOKED, "[[model]] *")
    later = Revocation("key", at.key("author").public.fingerprint, "retired", now() + timedelta(hours=1))
    at.revoke(later)
    assert not at.judge(AUTHOR + REVOKED).failures


def test_a_key_outside_its_time_is_refused(at: Scene) -> None:
    rules = '[keys]\nset = "keys.bundle.json"\nroot = ["root.pub"]\n'
    at.key_set("author", start=-11 * DAY)
    assert "may sign from" in refused(at, rules, "[keys]")
    at.key_set("author", start=DAY)
    assert "may sign from" in refused(at, rules, "[keys]")


def test_a_revoked_root_of_a_later_edition_does_not_hand_on(at: Scene) -> None:
    rules = '[keys]\nset = "keys"\nroot = ["root.pub"]\n'
    at.key_set("author")
    places, thief = at.root / "keys", at.key("thief")
    places.mkdir()
    first = (at.root / "keys.bundle.json").read_bytes()
    (places / "1.bundle.json").write_bytes(first)
    before = parse_key_set(Statement.from_bytes(read_envelope(first).payload))
    for version, old, new in ((2, at.key("root"), at.key("second")), (3, at.key("second"), thief)):
        edition = dataclasses.replace(before.edition, version=version)
        before = dataclasses.replace(before, edition=edition, roots=(new.public,), previous=before.digest)
        (places / f"{version}.bundle.json").write_bytes(sign_key_set(before, old, new))
    assert at.verdict(rules, "[keys]")[0] is State.MET
    at.revoke(Revocation("key", at.key("second").public.fingerprint, "compromise", now() - DAY))
    assert "is revoked (compromise)" in refused(at, REVOKED + rules, "[keys]")


def test_a_pickle_renamed_is_refused_signed_or_not(at: Scene) -> None:
    (at.model / "weights.bin").write_bytes(pickle.dumps([1, 2]))
    sign(at.model, key=at.key("author"))
    told = refused(at, AUTHOR + '[files]\nforbid = ["pickle"]\n', "[files]")
    assert told == "pickle: weights.bin begins with a pickle header"


def test_a_model_under_another_name_is_judged_by_its_signed_one(at: Scene) -> None:
    rules = '[[model]]\nmatch = "llama-*"\ntrust = ["second.pub"]\n[[model]]\nmatch = "toy-*"\ntrust = ["author.pub"]\n'
    at.model.rename(at.root / "toy-1")
    with pytest.raises(PolicyError, match=r"\[\[model\]\] llama-\*: 0 of 1 trusted"):
        check(at.root / "toy-1", at.policy(rules))


@pytest.mark.parametrize(
    ("text", "near"),
    [
        (AUTHOR + "minimum_versoin = 3\n", None),
        (AUTHOR + "[rollback]\nminimum_versoin = 3\n", "minimum_version"),
        (AUTHOR + "[rollbak]\nminimum_version = 3\n", "rollback"),
        (AUTHOR + "[rollback]\nminimum_version = '3'\n", None),
        ("[[passport]]\nsigner = 'a.pub'\n", None),
        ('require = "shield"\n', None),
        (AUTHOR + '[lineage]\ntrust = ["ci.pub"]\ncomplete = 1\n', None),
    ],
)
def test_a_typo_never_weakens_a_policy(at: Scene, text: str, near: str | None) -> None:
    with pytest.raises(InvalidConfig) as caught:
        check(at.model, at.policy(text))
    assert near is None or caught.value.hint == f"did you mean {near}?"


def record(kind: str, value: float, subject: Subject) -> Record:
    measured = {"detected": Measurement(value, value, value, 100)}
    return Record(kind=kind, subject=subject, procedure={"type": "x", "version": 1}, measured=measured)


def passport(at: Scene, *values: float, signer: str = "author") -> Path:
    folder = at.root / "passport"
    (folder / "records").mkdir(parents=True)
    for place, value in enumerate(values):
        made = record("shield", value, Subject("model", {"blake3": "0" * 64}))
        (folder / "records" / f"{place}.json").write_bytes(made.to_bytes())
    write_passport(folder, at.key(signer))
    return folder


def test_a_good_record_does_not_hide_a_bad_one(at: Scene) -> None:
    folder = passport(at, 0.999, 0.5)
    policy = at.policy(
        '[passport]\nsigner = "author.pub"\n[[require]]\nkind = "shield"\nmeasure = "detected"\nvalue_above = 0.9\n'
    )
    with pytest.raises(PolicyError, match=r"records/1\.json fails shield value_above"):
        check(folder, policy)


@pytest.mark.parametrize(
    ("pin", "told"),
    [
        (f'data = ["{DATA}"]', None),
        ("parameters = {rate = 0.01, exact = true}", None),
        (f'data = ["{POISON}"]', "was not measured on eeee"),
        (f'data = ["{DATA}", "{POISON}"]', "was not measured on eeee"),
        ("parameters = {rate = 0.001}", "measured with rate = 0.01, not 0.001"),
        ("parameters = {exact = 1}", "measured with exact = True, not 1"),
        ("parameters = {law = 'uniform'}", "does not say its law"),
    ],
)
def test_a_measurement_on_other_data_or_with_other_parameters_does_not_count(
    at: Scene, pin: str, told: str | None
) -> None:
    folder, easy = at.root / "passport", Subject("model", {"blake3": "0" * 64})
    made = dataclasses.replace(
        record("shield", 0.999, easy),
        inputs={"evaluation": DATA},
        procedure={"type": "x", "version": 1, "rate": 0.01, "exact": True},
    )
    (folder / "records").mkdir(parents=True)
    (folder / "records" / "0.json").write_bytes(made.to_bytes())
    write_passport(folder, at.key("author"))
    rules = f'[passport]\nsigner = "author.pub"\n[[require]]\nkind = "shield"\n{pin}\n'
    if told is None:
        assert check(folder, at.policy(rules))
        return
    with pytest.raises(PolicyError, match=told):
        check(folder, at.policy(rules))


@pytest.mark.parametrize("pin", ['data = ["dd"]', "parameters = {}", "parameters = {rate = [1]}", "parameters = 1"])
def test_a_pin_that_makes_no_sense_is_refused(at: Scene, pin: str) -> None:
    with pytest.raises(InvalidConfig):
        read_policy(at.policy(f'[[require]]\nkind = "shield"\n{pin}\n'))


def test_a_requirement_on_a_measure_that_is_missing_is_not_met(at: Scene) -> None:
    policy = at.policy('[[require]]\nkind = "shield"\nmeasure = "detection"\nvalue_above = 0.0\n')
    with pytest.raises(PolicyError, match="did not measure the required detection"):
        check(passport(at, 0.999), policy)


def test_a_passport_by_strangers_or_about_another_model_proves_nothing(at: Scene) -> None:
    folder = passport(at, 0.999, signer="stranger")
    rules = '[passport]\nsigner = "author.pub"\n[[require]]\nkind = "shield"\n'
    with pytest.raises(PolicyError, match="0 of 1 trusted"):
        check(folder, at.policy(rules))
    with pytest.raises(PolicyError, match="no table says whose passport"):
        check(at.model, at.policy(AUTHOR + '[[require]]\nkind = "shield"\n'), evidence=(folder,))
    rules = AUTHOR + '[passport]\nsigner = "stranger.pub"\n[[require]]\nkind = "shield"\n'
    with pytest.raises(PolicyError, match="cannot"):  # the model does not load, so no record can be about it
        check(at.model, at.policy(rules), evidence=(folder,))


def test_provenance_of_another_model_or_by_strangers_proves_nothing(at: Scene) -> None:
    at.provenance("stranger")
    assert "no trusted provenance" in refused(at, AUTHOR + BUILT, "[provenance]")
    at.provenance("ci")
    (at.model / "config.json").write_text('{"a": 1}')
    sign(at.model, key=at.key("author"))
    assert "no trusted provenance" in refused(at, AUTHOR + BUILT, "[provenance]")


def test_a_damaged_signature_in_a_trusted_name_is_refused(at: Scene) -> None:
    path = at.provenance("ci")
    value = json.loads(path.read_bytes())
    good = value["dsseEnvelope"]["signatures"][0]["sig"]
    value["dsseEnvelope"]["signatures"][0]["sig"] = good[:8] + ("A" if good[8] != "A" else "B") + good[9:]
    path.write_text(json.dumps(value))
    assert "does not verify" in refused(at, AUTHOR + BUILT, "[provenance]")


def test_a_revoked_statement_and_revoked_data_do_not_count(at: Scene) -> None:
    path = at.provenance("ci", {"name": "corpus", "digest": {"blake3": DATA}})
    rules = AUTHOR + BUILT + REVOKED + "[datasets]\n"
    at.revoke(Revocation("bundle", hashlib.sha256(path.read_bytes()).hexdigest(), "withdrawn", now() - DAY))
    assert "is revoked (withdrawn)" in refused(at, rules, "[provenance]")
    at.revoke(Revocation("dataset", DATA, "poisoned", now() - DAY))
    assert "is revoked (poisoned)" in refused(at, rules, "[datasets]")


def test_a_revoked_bundle_does_not_come_back_spelled_otherwise(at: Scene) -> None:
    path = at.provenance("ci")
    at.revoke(Revocation("bundle", name_of("bundle", str(path)), "withdrawn", now() - DAY))
    for spelled in (path.read_bytes(), json.dumps(json.loads(path.read_bytes()), indent=1).encode()):
        path.write_bytes(spelled)
        assert "is revoked (withdrawn)" in refused(at, AUTHOR + BUILT + REVOKED, "[provenance]")


def summary(at: Scene, signer: str = "verifier", policy: str = AUTHOR) -> bytes:
    return sign_summary(at.judge(policy), at.key(signer))


def accept(place: Scene, data: bytes, **options: Any) -> None:
    options = {"maximum_age": DAY, "policy": place.root / "deploy.toml"} | options
    policy = options.pop("policy")
    verify_summary(place.model, data, place.key("verifier").public, policy, **options)


def test_a_revoked_statement_stays_so_in_a_bundle_written_otherwise(at: Scene) -> None:
    rules = AUTHOR + BUILT + REVOKED
    path = at.provenance("ci", {"name": "data", "digest": {"sha256": DATA}})
    at.revoke(Revocation("bundle", name_of("bundle", str(path)), "withdrawn", now() - DAY))
    path.write_bytes(path.read_bytes() + b"\n")
    assert "is revoked (withdrawn)" in refused(at, rules, "[provenance]")
    (at.evidence / "build.bundle.json").unlink()
    at.provenance("ci", {"name": "data", "digest": {"sha256": DATA}}, name="other")
    at.revoke(Revocation("bundle", name_of("bundle", str(at.model / "model.sig")), "withdrawn", now() - DAY))
    signature = at.model / "model.sig"
    signature.write_bytes(signature.read_bytes() + b"\n")
    assert "is revoked (withdrawn)" in refused(at, rules, "[revocation]")


def test_a_revoked_model_does_not_come_back_by_a_change_in_a_file_that_its_signature_leaves_out(at: Scene) -> None:
    (at.model / "notes.txt").write_text("left out")
    sign_artifact(at.model, at.key("author"), how=Serialization(ignore=frozenset({"notes.txt"})))
    assert at.verdict(AUTHOR, "[[model]] *")[0] is State.MET
    at.revoke(*(Revocation("model", name, "unsafe", now() - DAY) for name in names_of("model", str(at.model))))
    assert "is revoked (unsafe)" in refused(at, AUTHOR + REVOKED, "[revocation]")
    (at.model / "notes.txt").write_text("changed")
    assert "is revoked (unsafe)" in refused(at, AUTHOR + REVOKED, "[revocation]")
    (at.model / "notes.txt").unlink()
    assert "is revoked (unsafe)" in refused(at, AUTHOR + REVOKED, "[revocation]")


def test_a_signature_over_next_to_nothing_does_not_narrow_what_is_revoked(at: Scene) -> None:
    whole = names_of("model", str(at.model))
    sign_artifact(at.model, at.key("stranger"), how=Serialization(ignore=frozenset({"weights.safetensors"})))
    assert set(whole) < set(names_of("model", str(at.model)))


def test_a_summary_does_not_outlive_what_was_revoked_since(at: Scene) -> None:
    rules = AUTHOR + REVOKED
    at.revoke()
    data = summary(at, policy=rules)
    accept(at, data)
    model, signature, author = at.model, str(at.model / "model.sig"), at.key("verifier").public.fingerprint
    for entry in (
        Revocation("model", names_of("model", str(model))[0], "unsafe", now() - DAY),
        Revocation("bundle", name_of("bundle", signature), "withdrawn", now() - DAY),
        Revocation("key", author, "compromise", now() - DAY),
    ):
        at.revoke(entry)
        with pytest.raises(SignerUntrusted, match="revoked"):
            accept(at, data)
    (at.root / "revoked.bundle.json").unlink()
    with pytest.raises(UnreadableArtifact):
        accept(at, data)


def test_denied_data_under_another_spelling_or_none_is_refused(at: Scene) -> None:
    rules = AUTHOR + BUILT + f'[datasets]\ndeny = ["{POISON}"]\n'
    for digest, words in (({"sha256": POISON.upper()}, "lower-case hex"), ({}, "without a digest")):
        at.provenance("ci", {"name": "data", "digest": digest, "annotations": {"role": "data"}})
        assert words in refused(at, rules, "[datasets]")
    at.provenance("ci", {"name": "torch", "uri": "pkg:pypi/torch@2"}, {"name": "data", "digest": {"sha256": DATA}})
    assert at.verdict(f'{rules}allow = ["{DATA}"]\n', "[datasets]")[0] is State.MET


def test_a_summary_of_another_model_verifier_policy_or_time_is_refused(at: Scene) -> None:
    data = summary(at)
    accept(at, data)
    with pytest.raises(SignerUntrusted):
        accept(at, summary(at, signer="stranger"))
    with pytest.raises(PolicyError, match="of the verifier"):
        accept(at, data, verifier="https://other.example")
    with pytest.raises(PolicyError, match="older than allowed"):
        accept(at, data, at=now() + 2 * DAY)
    with pytest.raises(PolicyError, match="of the future"):
        accept(at, data, at=now() - DAY)
    (at.root / "lax.toml").write_text('[files]\nforbid = ["code"]\n')
    with pytest.raises(DigestMismatch, match="another policy"):
        accept(at, data, policy=at.root / "lax.toml")
    (at.root / "same.toml").write_text(AUTHOR + "# a comment\n")
    with pytest.raises(DigestMismatch, match="another policy"):
        accept(at, data, policy=read_policy(at.root / "same.toml"))
    (at.model / "weights.safetensors").write_bytes(b"swapped")
    with pytest.raises(DigestMismatch, match="another model"):
        accept(at, data)


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "result FAILED": lambda p: p.update(verificationResult="FAILED"),
    "no result": lambda p: p.pop("verificationResult"),
    "result true": lambda p: p.update(verificationResult=True),
    "no time": lambda p: p.pop("timeVerified"),
    "no policy digest": lambda p: p["policy"].pop("digest"),
    "empty policy digest": lambda p: p["policy"].update(digest={}),
    "another resource": lambda p: p.update(resourceUri="urn:holdfast:model:other"),
    "levels no list": lambda p: p.update(verifiedLevels="SLSA_BUILD_LEVEL_3"),
}


def changed(at: Scene, change: Callable[[dict[str, Any]], object], signer: KeyHolder, **digest: str) -> bytes:
    statement = verify_bundle(summary(at), at.key("verifier").public).statement
    predicate = json.loads(json.dumps(dict(statement.predicate)))
    change(predicate)
    subject = Subject("llama-7b", digest or statement.subjects[0].digest)
    return sign_statement(Statement((subject,), statement.predicate_type, predicate), signer)


@pytest.mark.parametrize("name", list(CHANGES))
def test_a_summary_that_does_not_say_passed_is_refused(at: Scene, name: str) -> None:
    with pytest.raises((PolicyError, DigestMismatch, SignatureInvalid, UnreadableArtifact)):
        accept(at, changed(at, CHANGES[name], at.key("verifier")))


def test_a_summary_is_about_all_files_and_not_about_a_weaker_digest(at: Scene) -> None:
    root = changed(at, lambda p: None, at.key("verifier"), sha256="0" * 64)
    with pytest.raises(DigestMismatch):
        accept(at, root)
    (at.model / "extra.py").write_text("evil()")
    with pytest.raises(DigestMismatch):
        accept(at, summary_before_extra(at))


def summary_before_extra(at: Scene) -> bytes:
    (at.model / "extra.py").rename(at.root / "extra.py")
    data = summary(at)
    (at.root / "extra.py").rename(at.model / "extra.py")
    return data


def test_files_that_differ_from_the_signed_ones_are_refused(at: Scene) -> None:
    weights = at.model / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    assert "weights.safetensors changed" in refused(at, AUTHOR, "[[model]] *")
    weights.unlink()
    assert "weights.safetensors is missing" in refused(at, AUTHOR, "[[model]] *")
    weights.write_bytes(whole)
    (at.model / "more.json").write_text("{}")
    assert "more.json was not signed" in refused(at, AUTHOR, "[[model]] *")
    (at.model / "more.json").unlink()
    weights.rename(at.root / "weights")
    weights.symlink_to(at.root / "weights")
    assert "weights.safetensors" in refused(at, AUTHOR, "[[model]] *")


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors", "lineage"])
def test_a_signature_that_leaves_out_what_is_loaded_is_refused(at: Scene, name: str) -> None:
    path = at.model / "model.sig"
    statement = verify_bundle(path.read_bytes(), at.key("author").public).statement
    predicate = json.loads(json.dumps(dict(statement.predicate)))
    predicate["serialization"]["ignore_paths"].append(name)
    kept = [item for item in predicate["resources"] if item["name"] != name]
    predicate["resources"] = kept
    root = hashlib.sha256(b"".join(bytes.fromhex(item["digest"]) for item in kept)).hexdigest()
    if name == "lineage":  # may be left out, and shelters nothing
        (at.model / "lineage").mkdir()
        (at.model / "lineage" / "weights.bin").write_bytes(b"x")
    subject = Subject(statement.subjects[0].name, {"sha256": root})
    path.write_bytes(sign_statement(Statement((subject,), statement.predicate_type, predicate), at.key("author")))
    refused(at, AUTHOR, "[[model]] *")


def test_a_signature_that_shows_no_whole_files_is_refused(at: Scene) -> None:
    sign_artifact(at.model, at.key("author"), how=Serialization(method="shards"))
    assert "does not show which files" in refused(at, AUTHOR, "[[model]] *")
    sign_artifact(at.model, at.key("author"), how=Serialization(hash="blake3"))
    assert not at.judge(AUTHOR).failures


def test_git_files_count_when_the_signature_does_not_leave_them_out(at: Scene) -> None:
    sign_artifact(at.model, at.key("author"), git=False)
    assert not at.judge(AUTHOR).failures
    (at.model / ".gitattributes").write_text("* filter=evil")
    assert ".gitattributes" in refused(at, AUTHOR, "[[model]] *")


def test_nothing_hides_in_the_folders_of_evidence(at: Scene) -> None:
    for place in ("lineage/steps.py", "model.outboard/x.bin", "lineage/deeper/a.bundle.json"):
        path = at.model / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        refused(at, AUTHOR, "[[model]] *")
        path.unlink()
