"""Walking a signed history back to where it may start."""

from __future__ import annotations

from pathlib import Path

import pytest

import holdfast
from holdfast.errors import InvalidConfig, LineageBroken, RecordMissing, SignerUntrusted
from holdfast.evidence.provenance import Provenance
from holdfast.evidence.statement import Statement, Subject
from holdfast.models import manifest_of
from holdfast.signing import Threshold, write_passport
from holdfast.signing.envelope import read_envelope
from holdfast.signing.lineage import identify, survey, verify_lineage
from holdfast.signing.trusts import load_trust
from tests.unit.signing.lineage.story import OPTIMISER, PROVIDER, TRAINER, TRUST, Story, data, story


@pytest.fixture
def made(tmp_path: Path) -> Story:
    return story(tmp_path)


def test_the_whole_history_is_walked_to_data_and_fresh_weights(made: Story) -> None:
    proof = verify_lineage(made.tough, TRUST, statements=[made.origins])
    assert [made_by.provenance.kind for node in proof.nodes for made_by in node.made if made_by.provenance] == [
        "harden",
        "quantize",
        "train",
        "build",
    ]
    target, found = proof.node(proof.target), {node.kind: node for node in proof.nodes}
    assert target.digest["blake3"] == (manifest_of(holdfast.load(made.tough)).digest,)
    assert found["dataset"].digest["blake3"] == (data().digest,)
    assert proof.signers[proof.target] == (OPTIMISER.public.fingerprint,)
    assert proof.signers[found["dataset"].key] == (PROVIDER.public.fingerprint,)
    assert set(proof.leaves.values()) == {"signed"}
    assert len(proof.leaves) == 2
    told = {(edge.step, edge.role) for edge in proof.edges if edge.output == target.key}
    assert told == {("harden", "data"), ("harden", "model")}
    assert proof.gaps == ()


def test_the_model_in_memory_and_its_subject_have_the_same_history(made: Story) -> None:
    places = [made.tough, made.origins]
    on_disk = verify_lineage(made.tough, TRUST, statements=[made.origins])
    in_memory = verify_lineage(holdfast.load(made.tough), TRUST, statements=places)
    by_name = verify_lineage(Subject("it", {"blake3": identify(made.tough).digest["blake3"]}), TRUST, statements=places)
    assert on_disk.edges == in_memory.edges == by_name.edges
    assert on_disk.target == in_memory.target == by_name.target


def test_a_listed_digest_ends_the_walk(made: Story) -> None:
    proof = verify_lineage(made.small, TRUST, leaves=[data().digest])
    assert sorted(proof.leaves.values()) == ["listed", "signed"]
    base = identify(made.trained).digest["blake3"]
    assert list(verify_lineage(made.small, TRUST, leaves=[base]).leaves.values()) == ["listed"]


def test_without_the_data_there_is_a_gap(made: Story) -> None:
    with pytest.raises(LineageBroken, match="gap"):
        verify_lineage(made.tough, TRUST)
    (gap,) = survey(made.tough, TRUST).gaps
    assert (gap.role, gap.digest) == ("data", f"blake3:{data().digest}")


def test_who_may_vouch_for_data_can_be_others_than_who_may_sign_steps(made: Story) -> None:
    steps = [TRAINER.public, OPTIMISER.public]
    with pytest.raises(SignerUntrusted):
        verify_lineage(made.tough, steps, statements=[made.origins])
    proof = verify_lineage(made.tough, steps, statements=[made.origins], origins=PROVIDER.public)
    assert len(proof.nodes) == 5
    with pytest.raises(SignerUntrusted):
        verify_lineage(made.tough, PROVIDER.public, statements=[made.origins], origins=PROVIDER.public)


def test_a_threshold_holds_for_every_step(made: Story) -> None:
    both = Threshold((load_trust(TRAINER.public), load_trust(OPTIMISER.public)), 2)
    with pytest.raises(SignerUntrusted, match="1 of 2"):
        verify_lineage(made.small, both, leaves=[data().digest])


def test_nobody_to_trust_is_refused(made: Story) -> None:
    with pytest.raises(InvalidConfig):
        verify_lineage(made.tough, [])


def test_a_model_without_statements_has_no_lineage(made: Story, tmp_path: Path) -> None:
    holdfast.save(holdfast.load(made.tough), tmp_path / "bare")
    with pytest.raises(RecordMissing):
        verify_lineage(tmp_path / "bare", TRUST)


def test_an_assessment_is_the_last_step(made: Story, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "report.html").write_text("x")
    write_passport(tmp_path / "a", OPTIMISER, facts={"model": identify(made.tough).digest["blake3"]})
    proof = verify_lineage(tmp_path / "a", TRUST, statements=[made.tough, made.origins])
    assert proof.node(proof.target).kind == "assessment"
    assert proof.nodes[1].digest["blake3"] == (identify(made.tough).digest["blake3"],)
    assert len(proof.nodes) == 6


def test_a_statement_is_slsa_provenance_with_everything_in_its_place(made: Story) -> None:
    payload = read_envelope((made.tough / "lineage" / "0002-train.bundle.json").read_bytes()).payload
    statement = Statement.from_bytes(payload)
    predicate = statement.predicate
    assert statement.predicate_type == "https://slsa.dev/provenance/v1"
    definition, details = predicate["buildDefinition"], predicate["runDetails"]
    assert definition["buildType"] == "https://holdfast.dev/build/train/v1"
    assert definition["externalParameters"]["recipe"] == "standard"
    assert definition["externalParameters"]["seed"] == "0"
    named = {item["name"]: item for item in definition["resolvedDependencies"]}
    assert named[data().name]["digest"] == {"blake3": data().digest}
    assert named["model"]["annotations"]["role"] == "model"
    assert named["torch"]["uri"].startswith("pkg:pypi/torch@")
    assert details["builder"]["id"] == "https://holdfast.dev/builder/v1"
    assert details["metadata"]["startedOn"] == "2026-01-02T03:04:05Z"
    assert len(details["metadata"]["invocationId"]) == 64
    assert Provenance.from_statement(statement).to_predicate() == predicate


def test_earlier_statements_are_copied_and_not_signed_again(made: Story) -> None:
    for name in ("0001-build", "0002-train"):
        file = f"lineage/{name}.bundle.json"
        assert (made.tough / file).read_bytes() == (made.trained / file).read_bytes()
