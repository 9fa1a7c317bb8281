"""Bills of materials are valid by the other tools' own rules, complete, and the same for the same proof."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.signing.lineage.story import PROVIDER, TRUST, Story, data, story

from holdfast.errors import InvalidConfig, LineageBroken
from holdfast.reporting.bom import FORMATS, exported
from holdfast.signing.lineage import VerifiedLineage, identify, stored_steps, survey, verify_lineage
from holdfast.signing.lineage.picture import picture_of, picture_of_steps, to_dot, tree

CREATED = "2026-02-03T04:05:06Z"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return story(tmp_path_factory.mktemp("bom"))


@pytest.fixture(scope="module")
def proof(made: Story) -> VerifiedLineage:
    return verify_lineage(made.tough, TRUST, statements=[made.origins])


def read(proof: VerifiedLineage, format: str) -> Any:
    return json.loads(exported(proof, format, created=CREATED))


def test_cyclonedx_is_valid_by_its_own_schema(proof: VerifiedLineage) -> None:
    pytest.importorskip("cyclonedx", reason="cyclonedx-python-lib is not installed")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    validator = JsonStrictValidator(SchemaVersion.V1_6)
    text = exported(proof, "cyclonedx", created=CREATED).decode()
    assert validator.validate_str(text) is None
    assert validator.validate_str(text.replace('"machine-learning-model"', '"model"')) is not None


def test_cyclonedx_tells_the_models_the_data_and_what_came_from_what(proof: VerifiedLineage) -> None:
    bom = read(proof, "cyclonedx")
    target, parts = bom["metadata"]["component"], {item["bom-ref"]: item for item in bom["components"]}
    assert target["type"] == "machine-learning-model"
    assert target["hashes"] == [{"alg": "BLAKE3", "content": proof.target.partition(":")[2]}]
    assert target["pedigree"]["notes"] == "harden"
    assert target["modelCard"]["modelParameters"]["datasets"] == [{"ref": f"blake3:{data().digest}"}]
    found = parts[f"blake3:{data().digest}"]
    assert (found["type"], found["licenses"]) == ("data", [{"expression": "CC-BY-4.0"}])
    assert found["externalReferences"][0]["url"] == "https://example.org/digits"
    assert {"name": "holdfast:signer", "value": PROVIDER.public.fingerprint} in found["properties"]
    assert {"name": "holdfast:fact:samples", "value": "64"} in found["properties"]
    refs = {proof.target, *parts}
    for item in bom["dependencies"]:
        assert {item["ref"], *item["dependsOn"]} <= refs
    assert {item["type"] for item in bom["components"]} == {"machine-learning-model", "data", "library"}
    assert any(ref.startswith("pkg:pypi/torch@") for ref in parts)


def test_spdx_is_read_by_the_reference_model(proof: VerifiedLineage) -> None:
    spdx = pytest.importorskip("spdx_python_model", reason="spdx-python-model is not installed").v3_0_1
    objects = spdx.SHACLObjectSet()
    spdx.JSONLDDeserializer().read(io.BytesIO(exported(proof, "spdx", created=CREATED)), objects)
    assert not objects.missing_ids
    models = list(objects.foreach_type(spdx.ai_AIPackage))
    (dataset,) = objects.foreach_type(spdx.dataset_DatasetPackage)
    assert len(models) == 4
    assert dataset.dataset_datasetSize == 64
    assert [item.hashValue for item in dataset.verifiedUsing] == [data().digest]
    relations = list(objects.foreach_type(spdx.Relationship))
    kinds = sorted(str(item.relationshipType).rpartition("/")[2] for item in relations)
    assert kinds == ["dependsOn", "descendantOf", "descendantOf", "descendantOf", "hasDeclaredLicense", "trainedOn"]
    trained = next(item for item in relations if str(item.relationshipType).endswith("trainedOn"))
    assert trained.to == [dataset]
    (document,) = objects.foreach_type(spdx.SpdxDocument)
    assert [item.verifiedUsing[0].hashValue for item in document.rootElement] == [proof.target.partition(":")[2]]
    assert {str(item.name) for item in dataset.originatedBy} == {PROVIDER.public.fingerprint}


def test_spdx_with_a_wrong_type_is_refused_by_the_reference_model(proof: VerifiedLineage) -> None:
    spdx = pytest.importorskip("spdx_python_model", reason="spdx-python-model is not installed").v3_0_1
    text = exported(proof, "spdx", created=CREATED).replace(b'"dataset_datasetSize": 64', b'"dataset_datasetSize": "x"')
    with pytest.raises((ValueError, TypeError)):
        spdx.JSONLDDeserializer().read(io.BytesIO(text), spdx.SHACLObjectSet())


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_proof_gives_the_same_bytes(made: Story, proof: VerifiedLineage, format: str, tmp_path: Path) -> None:
    again = verify_lineage(made.tough, TRUST[::-1], statements=[made.origins])
    assert exported(proof, format, created=CREATED) == exported(again, format, created=CREATED)


def test_what_has_gaps_is_not_exported(made: Story) -> None:
    for format in FORMATS:
        with pytest.raises(LineageBroken):
            exported(survey(made.tough, TRUST), format, created=CREATED)


def test_an_unknown_format_is_refused(proof: VerifiedLineage) -> None:
    with pytest.raises(InvalidConfig):
        exported(proof, "pdf", created=CREATED)


def test_what_lies_behind_a_listed_digest_is_not_exported(made: Story) -> None:
    base = identify(made.trained).digest["blake3"]
    found = verify_lineage(made.small, TRUST, leaves=[base])
    bom = read(found, "cyclonedx")
    models = [item for item in bom["components"] if item["type"] != "library"]
    assert [item["bom-ref"] for item in models] == [f"blake3:{base}"]
    assert {"name": "holdfast:accepted", "value": "listed"} in models[0]["properties"]
    assert data().digest not in json.dumps(bom)


def test_the_tree_names_every_step_once_and_its_signers(proof: VerifiedLineage) -> None:
    lines = tree(picture_of(proof))
    assert [line.split("← ")[-1].partition(":")[0] for line in lines] == [
        "harden",
        "dataset",
        "quantize",
        "train",
        "dataset",
        "build",
    ]
    assert "(above)" in lines[4]
    assert all("signed by" in line or "(above)" in line for line in lines)
    assert lines[1].startswith("├─ data ← ")


def test_the_tree_says_where_nothing_is_proved(made: Story) -> None:
    lines = tree(picture_of(survey(made.tough, TRUST)))
    assert sum("NOT PROVED" in line for line in lines) == 1
    told = tree(picture_of_steps(stored_steps(made.tough), identify(made.tough).digest["blake3"]))
    assert len(told) == len(lines)
    assert all("not verified" in line or "(above)" in line for line in told)


def test_dot_quotes_what_it_is_given(proof: VerifiedLineage) -> None:
    lines = to_dot(picture_of(proof)).splitlines()
    assert lines[0] == "digraph lineage {"
    assert sum("->" in line for line in lines) == len(proof.edges)
