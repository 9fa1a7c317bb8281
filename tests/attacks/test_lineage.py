"""Forged, incomplete and contradictory histories: none is ever a proof."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast.errors import (
    DigestMismatch,
    HoldfastError,
    InvalidConfig,
    LineageBroken,
    RecordMissing,
    SignatureInvalid,
    SignerUntrusted,
    UnreadableArtifact,
    VerificationError,
)
from holdfast.evidence import canonical
from holdfast.evidence.provenance import PROVENANCE_TYPE, Provenance, Resource, build_type
from holdfast.evidence.statement import Statement, Subject
from holdfast.signing import sign_statement, write_passport
from holdfast.signing.envelope import read_envelope
from holdfast.signing.keys import KeySigner
from holdfast.signing.lineage import VerifiedLineage, identify, origin, verify_lineage, write_step
from holdfast.signing.manifests import write_manifest
from tests.unit.signing.lineage.story import OPTIMISER, PROVIDER, STRANGER, TRAINER, TRUST, Story, data, story

A, B, C = ("aa" * 32, "bb" * 32, "cc" * 32)


@pytest.fixture
def made(tmp_path: Path) -> Story:
    return story(tmp_path)


def walk(made: Story, **more: Any) -> VerifiedLineage:
    return verify_lineage(made.tough, TRUST, **{"statements": [made.origins], **more})


def refused(made: Story, error: type[HoldfastError], text: str | None = None, **more: Any) -> None:
    with pytest.raises(error, match=text):
        walk(made, **more)


def statement_in(path: Path) -> Statement:
    return Statement.from_bytes(read_envelope(path.read_bytes()).payload)


def rewrite(path: Path, signer: KeySigner, *, inputs: Sequence[Resource] | None = None, **more: Any) -> None:
    """Sign the step at ``path`` again with other content."""
    before = statement_in(path)
    found = Provenance.from_statement(before)
    changed = replace(found, inputs=tuple(found.inputs if inputs is None else inputs), **more)
    path.write_bytes(sign_statement(changed.statement(*before.subjects), signer))


def claim(path: Path, subject: Subject, *inputs: Resource, signer: KeySigner = TRAINER, kind: str = "train") -> None:
    """Write a signed statement that ``subject`` was made of ``inputs``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Provenance(build_type=build_type(kind), inputs=inputs)
    path.write_bytes(sign_statement(made.statement(subject), signer))


TRAIN, QUANTIZE, HARDEN = (f"lineage/{name}.bundle.json" for name in ("0002-train", "0003-quantize", "0004-harden"))


def test_no_change_at_all_is_accepted(made: Story) -> None:
    assert len(walk(made).nodes) == 5


def test_a_step_by_a_stranger_does_not_count(made: Story) -> None:
    for name in (TRAIN, QUANTIZE, HARDEN):
        before = (made.tough / name).read_bytes()
        rewrite(made.tough / name, STRANGER)
        refused(made, SignerUntrusted, "does not count")
        (made.tough / name).write_bytes(before)


def test_a_step_edited_under_its_signature_is_refused(made: Story) -> None:
    bundle = json.loads((made.tough / TRAIN).read_bytes())
    other = json.loads((made.tough / QUANTIZE).read_bytes())
    bundle["dsseEnvelope"]["payload"] = other["dsseEnvelope"]["payload"]
    (made.tough / TRAIN).write_bytes(json.dumps(bundle).encode())
    refused(made, SignatureInvalid)


@pytest.mark.parametrize("name", [TRAIN, QUANTIZE, HARDEN, "lineage/0001-build.bundle.json"])
def test_a_removed_step_is_a_gap_even_though_its_unsigned_document_is_there(made: Story, name: str) -> None:
    (made.tough / name.replace(".bundle", "")).write_bytes(statement_in(made.tough / name).to_bytes())
    (made.tough / name).unlink()
    refused(made, VerificationError, "nobody signed it")


def test_an_unsigned_document_named_like_a_bundle_is_refused(made: Story) -> None:
    (made.tough / TRAIN).write_bytes(statement_in(made.tough / TRAIN).to_bytes())
    with pytest.raises(HoldfastError):
        walk(made)


def test_a_bundle_without_its_signature_is_refused(made: Story) -> None:
    bundle = json.loads((made.tough / TRAIN).read_bytes())
    bundle["dsseEnvelope"]["signatures"] = []
    (made.tough / TRAIN).write_bytes(json.dumps(bundle).encode())
    refused(made, SignatureInvalid)


def test_another_dataset_under_the_same_name_is_a_gap(made: Story) -> None:
    other = Subject(data().name, {"blake3": A})
    (made.origins / "digits.bundle.json").write_bytes(sign_statement(origin(other, kind="dataset"), PROVIDER))
    refused(made, LineageBroken, "gap")


def test_data_vouched_for_by_a_stranger_is_refused(made: Story) -> None:
    statement = origin(data(), kind="dataset")
    (made.origins / "digits.bundle.json").write_bytes(sign_statement(statement, STRANGER))
    refused(made, SignerUntrusted)


def test_whoever_signs_steps_cannot_vouch_for_data_when_that_is_for_others(made: Story) -> None:
    statement = origin(data(), kind="dataset")
    (made.origins / "digits.bundle.json").write_bytes(sign_statement(statement, TRAINER))
    refused(made, SignerUntrusted, origins=PROVIDER.public)


@pytest.mark.parametrize("kind", ["build", "train", "import"])
def test_data_made_of_nothing_is_no_place_to_start(made: Story, kind: str) -> None:
    """A signer of steps says that the data had no inputs, to end the walk there."""
    (made.origins / "digits.bundle.json").unlink()
    claim(made.origins / "made.bundle.json", Subject("digits", {"blake3": data().digest}), kind=kind)
    refused(made, LineageBroken, "says nothing of what went in", origins=PROVIDER.public)


def test_a_training_that_names_no_inputs_contradicts_the_model(made: Story) -> None:
    rewrite(made.tough / TRAIN, TRAINER, inputs=())
    refused(made, LineageBroken, "does not name the data")


def test_a_training_on_other_data_than_the_model_tells_is_refused(made: Story) -> None:
    before = Provenance.from_statement(statement_in(made.tough / TRAIN))
    other = [replace(item, digest={"blake3": A}) if item.role == "data" else item for item in before.inputs]
    rewrite(made.tough / TRAIN, TRAINER, inputs=other)
    refused(made, LineageBroken, "does not name the data", leaves=[A])


def test_other_parameters_than_the_model_tells_are_refused(made: Story) -> None:
    rewrite(made.tough / TRAIN, TRAINER, parameters={"recipe": "random-bit-error"})
    refused(made, LineageBroken, "different parameters")


def test_an_input_named_without_a_digest_is_a_gap(made: Story) -> None:
    before = Provenance.from_statement(statement_in(made.tough / TRAIN)).inputs
    rewrite(made.tough / TRAIN, TRAINER, inputs=[*before, Resource("more data", role="data")])
    refused(made, LineageBroken, "without a digest")


@pytest.mark.parametrize("digest", [{}, {"crc32": "deadbeef"}, {"md5": "ab" * 16}])
def test_an_input_that_does_not_say_what_it_is_is_a_gap_without_a_strong_digest(
    made: Story, digest: dict[str, str]
) -> None:
    path = made.tough / TRAIN
    inputs = Provenance.from_statement(statement_in(path)).inputs
    rewrite(path, TRAINER, inputs=(*inputs, Resource("mirror", digest, uri="https://mirror.example/part")))
    refused(made, LineageBroken, "mirror")


def test_a_cycle_is_refused(tmp_path: Path) -> None:
    claim(tmp_path / "one.bundle.json", Subject("a", {"blake3": A}), Resource("b", {"blake3": B}, "model"))
    claim(tmp_path / "two.bundle.json", Subject("b", {"blake3": B}), Resource("c", {"blake3": C}, "model"))
    claim(tmp_path / "three.bundle.json", Subject("c", {"blake3": C}), Resource("a", {"blake3": A}, "model"))
    with pytest.raises(LineageBroken, match="cycle"):
        verify_lineage(Subject("a", {"blake3": A}), TRUST, statements=[tmp_path], leaves=[B, C])


def test_a_model_made_of_itself_is_refused(tmp_path: Path) -> None:
    claim(tmp_path / "one.bundle.json", Subject("a", {"blake3": A}), Resource("a", {"blake3": A}, "model"))
    with pytest.raises(LineageBroken, match="cycle"):
        verify_lineage(Subject("a", {"blake3": A}), TRUST, statements=[tmp_path])


def test_a_very_long_history_is_walked_and_one_with_a_late_cycle_refused(tmp_path: Path) -> None:
    names = [f"{number:064x}" for number in range(1500)]
    steps = [
        Provenance(build_type=build_type("train"), inputs=(Resource("m", {"blake3": before}, "model"),)).statement(
            Subject("m", {"blake3": after})
        )
        for before, after in zip(names[1:], names[:-1], strict=True)
    ]
    for number, statement in enumerate(steps):
        (tmp_path / f"{number:04}.bundle.json").write_bytes(sign_statement(statement, TRAINER))
    subject = Subject("m", {"blake3": names[0]})
    assert len(verify_lineage(subject, TRUST, statements=[tmp_path], leaves=[names[-1]]).nodes) == 1500
    claim(tmp_path / "x.bundle.json", Subject("m", {"blake3": names[-1]}), Resource("m", {"blake3": A}, "model"))
    claim(tmp_path / "y.bundle.json", Subject("m", {"blake3": A}), Resource("m", {"blake3": names[700]}, "model"))
    with pytest.raises(LineageBroken, match="cycle"):
        verify_lineage(subject, TRUST, statements=[tmp_path])


@pytest.mark.parametrize("listed", [(), "leaf"])
def test_revoked_data_anywhere_in_the_history_is_refused(made: Story, listed: object) -> None:
    leaves = [data().digest] if listed else []
    refused(made, LineageBroken, "revoked", revoked={data().digest}, leaves=leaves)
    refused(made, LineageBroken, "revoked", revoked=lambda digest: digest == data().digest, leaves=leaves)


@pytest.mark.parametrize("signer", [PROVIDER, TRAINER, OPTIMISER])
def test_a_history_signed_by_a_revoked_key_is_refused(made: Story, signer: KeySigner) -> None:
    refused(made, LineageBroken, "signed by .* revoked", revoked={signer.public.fingerprint})


def test_a_history_with_a_revoked_statement_is_refused(made: Story) -> None:
    for path in (made.tough / TRAIN, made.origins / "digits.bundle.json"):
        refused(made, LineageBroken, f"{path.name} is revoked", revoked={sha256(path.read_bytes()).hexdigest()})


@pytest.mark.parametrize("kind", ["https://holdfast.dev/dataset-commitment/v1", "https://holdfast.dev/origin/v1"])
def test_who_vouches_for_data_does_not_vouch_for_a_model_that_way(made: Story, kind: str) -> None:
    claimed = Subject("dataset:lies", identify(made.tough).digest)
    shutil.rmtree(made.tough / "lineage")
    lie = made.origins / "lie.bundle.json"
    lie.write_bytes(sign_statement(Statement((claimed,), kind, {"kind": "dataset"}), PROVIDER))
    refused(made, RecordMissing, "as data", origins=PROVIDER.public)
    claimed = Subject("dataset:lies", identify(made.trained).digest)
    lie.write_bytes(sign_statement(Statement((claimed,), kind, {"kind": "dataset"}), PROVIDER))
    claim(made.tough / TRAIN, identify(made.tough), Resource("base", identify(made.trained).digest, "base"))
    refused(made, LineageBroken, "as data", origins=PROVIDER.public)


def test_revoked_data_above_a_listed_model_is_still_refused(made: Story) -> None:
    base = identify(made.trained).digest["blake3"]
    assert len(walk(made, leaves=[base, data().digest], statements=[]).leaves) == 2
    refused(made, LineageBroken, "revoked", leaves=[base], revoked={data().digest})


def test_data_revoked_under_its_other_digest_is_refused(made: Story) -> None:
    statement = origin(data(), kind="dataset", digest={"holdfastDatasetCommitment": A})
    (made.origins / "digits.bundle.json").write_bytes(sign_statement(statement, PROVIDER))
    assert walk(made).leaves
    refused(made, LineageBroken, "revoked", revoked={A})


def test_an_edited_weight_loses_the_history(made: Story) -> None:
    path = made.tough / "model.safetensors"
    octets = bytearray(path.read_bytes())
    octets[-1] ^= 1
    path.write_bytes(octets)
    refused(made, RecordMissing)


def lineage_of(folder: Path) -> list[dict[str, Any]]:
    return list(json.loads((folder / "model.json").read_bytes())["lineage"])


def tell(folder: Path, lineage: list[dict[str, Any]]) -> None:
    value = json.loads((folder / "model.json").read_bytes())
    (folder / "model.json").write_bytes(canonical.dumps({**value, "lineage": lineage}))


def test_a_step_removed_from_the_model_loses_the_history(made: Story) -> None:
    for number in range(4):
        steps = lineage_of(made.tough)
        tell(made.tough, steps[:number] + steps[number + 1 :])
        refused(made, RecordMissing)
        tell(made.tough, steps)
    assert walk(made)


def test_a_step_edited_in_the_model_loses_the_history(made: Story) -> None:
    steps = lineage_of(made.tough)
    steps[1]["inputs"]["data"] = A
    tell(made.tough, steps)
    refused(made, LineageBroken, "does not name the data", leaves=[A])


def test_a_step_edited_in_the_model_and_signed_again_still_contradicts_the_earlier_signature(made: Story) -> None:
    """The last signer may say what he likes of his own step, not of the training before it."""
    steps = lineage_of(made.tough)
    steps[1]["parameters"]["recipe"] = "random-bit-error"
    tell(made.tough, steps)
    before = Provenance.from_statement(statement_in(made.tough / HARDEN))
    subject = identify(made.tough)
    (made.tough / HARDEN).write_bytes(sign_statement(before.statement(subject), OPTIMISER))
    refused(made, LineageBroken, "different parameters of train")


def test_the_history_of_another_model_is_not_this_ones(made: Story) -> None:
    holdfast.save(holdfast.quantize(holdfast.load(made.trained), "int4"), made.small)
    with pytest.raises(RecordMissing):
        verify_lineage(made.small, TRUST, statements=[made.origins])


def test_two_signed_statements_that_disagree_are_refused(made: Story) -> None:
    target = identify(made.tough)
    claim(made.tough / "lineage" / "9999-x.bundle.json", target, Resource("m", {"blake3": A}, "model"), kind="harden")
    refused(made, LineageBroken, "disagree|does not name", leaves=[A])


def test_two_signatures_over_the_same_history_agree(made: Story) -> None:
    again = sign_statement(statement_in(made.tough / HARDEN), TRAINER)
    (made.tough / "lineage" / "again.bundle.json").write_bytes(again)
    proof = walk(made)
    assert proof.signers[proof.target] == tuple(sorted([TRAINER.public.fingerprint, OPTIMISER.public.fingerprint]))


def test_one_name_for_two_things_is_refused(made: Story) -> None:
    """A statement that gives a revoked or unknown thing the digest of a good one as well."""
    both = Subject("digits", {"sha256": A, "blake3": data().digest})
    other = Subject("digits", {"sha256": A, "blake3": B})
    for number, subject in enumerate((both, other)):
        path = made.origins / f"{number}.bundle.json"
        path.write_bytes(sign_statement(origin(subject, kind="dataset"), PROVIDER))
    refused(made, DigestMismatch, "two blake3 digests")


@pytest.mark.parametrize("algorithm", ["gitCommit", "holdfastContentId", "omsRoot", "sha1"])
def test_a_digest_that_different_things_share_joins_nothing(made: Story, algorithm: str) -> None:
    before = Provenance.from_statement(statement_in(made.tough / TRAIN)).inputs
    rewrite(made.tough / TRAIN, TRAINER, inputs=[*before, Resource("m", {algorithm: A}, "model")])
    vouched = Subject("m", {algorithm: A, "blake3": B})
    (made.origins / "m.bundle.json").write_bytes(sign_statement(origin(vouched, kind="model"), PROVIDER))
    refused(made, LineageBroken, "without a digest")


BROKEN: dict[str, Any] = {
    "no definition": {"runDetails": {"builder": {"id": "x"}}},
    "no builder": {"buildDefinition": {"buildType": "x"}, "runDetails": {}},
    "type no text": {"buildDefinition": {"buildType": 1}, "runDetails": {"builder": {"id": "x"}}},
    "inputs no list": {
        "buildDefinition": {"buildType": "x", "resolvedDependencies": {}},
        "runDetails": {"builder": {"id": "x"}},
    },
    "digest upper case": {
        "buildDefinition": {"buildType": "x", "resolvedDependencies": [{"digest": {"blake3": "AB" * 32}}]},
        "runDetails": {"builder": {"id": "x"}},
    },
    "role no text": {
        "buildDefinition": {"buildType": "x", "resolvedDependencies": [{"annotations": {"role": 1}}]},
        "runDetails": {"builder": {"id": "x"}},
    },
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_malformed_provenance_is_refused_even_with_a_good_signature(made: Story, name: str) -> None:
    statement = Statement((identify(made.tough),), PROVENANCE_TYPE, BROKEN[name])
    (made.tough / "lineage" / "9999-x.bundle.json").write_bytes(sign_statement(statement, TRAINER))
    refused(made, UnreadableArtifact)


def strip(made: Story) -> None:
    """Take away all that is signed of the hardened model's history."""
    for path in (made.tough / "lineage").iterdir():
        path.unlink()


def test_a_signature_over_a_models_files_does_not_stand_for_its_history(made: Story) -> None:
    """The genuine manifest of the model, by a trusted key, is put where its history was."""
    strip(made)
    write_manifest(made.tough, OPTIMISER, out=made.tough / "lineage" / "0001-build.bundle.json")
    refused(made, RecordMissing, "says nothing of lineage")
    refused(made, RecordMissing, "says nothing of lineage", origins=[OPTIMISER.public, PROVIDER.public])


def test_a_signature_over_a_model_in_memory_does_not_stand_for_its_history_nor_for_its_data(made: Story) -> None:
    bundle = holdfast.sign(holdfast.load(made.tough), key=OPTIMISER, about=[data()])
    (made.origins / "digits.bundle.json").write_bytes(bundle)
    refused(made, LineageBroken, "says nothing of lineage")
    strip(made)
    refused(made, RecordMissing, "says nothing of lineage")


def test_a_signature_of_another_tool_over_the_files_does_not_stand_for_the_history(made: Story) -> None:
    strip(made)
    holdfast.sign(made.tough, key=OPTIMISER, out=made.tough / "lineage" / "0001-build.bundle.json")
    refused(made, RecordMissing)


def test_a_statement_of_an_unknown_type_proves_nothing(made: Story) -> None:
    before = statement_in(made.tough / HARDEN)
    other = Statement(before.subjects, "https://example.org/lineage/v1", before.predicate)
    (made.tough / HARDEN).write_bytes(sign_statement(other, OPTIMISER))
    refused(made, VerificationError, "says nothing of lineage")


@pytest.mark.parametrize("kind", ["../../evil", "a/b", "", "A", "x" * 80])
def test_a_kind_of_step_never_becomes_a_path(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InvalidConfig):
        write_step(tmp_path, Provenance(build_type=build_type(kind)), Subject("m", {"blake3": A}))
    assert list(tmp_path.iterdir()) == []


def test_an_assessment_that_changed_since_it_was_signed_has_no_history(made: Story, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "report.html").write_text("robust")
    write_passport(tmp_path / "a", OPTIMISER, facts={"model": identify(made.tough).digest["blake3"]})
    places = [made.tough, made.origins]
    assert verify_lineage(tmp_path / "a", TRUST, statements=places)
    (tmp_path / "a" / "report.html").write_text("very robust")
    with pytest.raises(DigestMismatch):
        verify_lineage(tmp_path / "a", TRUST, statements=places)


def test_an_assessment_by_a_stranger_is_refused(made: Story, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "report.html").write_text("robust")
    write_passport(tmp_path / "a", STRANGER, facts={"model": identify(made.tough).digest["blake3"]})
    with pytest.raises(SignerUntrusted):
        verify_lineage(tmp_path / "a", TRUST, statements=[made.tough, made.origins])


def test_a_damaged_statement_in_the_folder_is_refused_and_not_passed_over(made: Story) -> None:
    (made.tough / TRAIN).write_bytes((made.tough / TRAIN).read_bytes()[:-5])
    refused(made, UnreadableArtifact)


def test_a_missing_place_for_statements_is_refused(made: Story) -> None:
    refused(made, UnreadableArtifact, statements=[made.origins / "nowhere"])
