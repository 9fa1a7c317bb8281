"""Everything that a released version signed is read and verified for ever, to the same identities."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from holdfast.errors import DigestMismatch, HoldfastError, PolicyError, SignatureInvalid
from holdfast.evidence.record import Record
from holdfast.policy import judge, verify_summary
from holdfast.signing import load_trust, require_threshold, verify_artifact, verify_bundle, verify_passport
from holdfast.signing.datasets import open_commitment
from holdfast.signing.lineage import verify_lineage
from holdfast.signing.manifests import read_manifest, verify_files
from holdfast.signing.opened import open_verified
from holdfast.signing.outboards import damaged_ranges, verify_range
from holdfast.signing.passport import passport_records
from holdfast.signing.revocation import verify_revocations
from holdfast.signing.trusts.keyset import read_key_set_trust
from tests.vectors.freeze import DAY, HERE, KINDS, NOON, SUMS, sums

# SHA-256 of each version's list of digests: frozen files are never changed, only new versions are added
FROZEN = {"0.1.0": "92aced0b710f857165e956a9119d5178e731793fd27946d121a87154c93996c6"}
pytestmark = pytest.mark.parametrize("version", sorted(FROZEN))


@pytest.fixture
def frozen(version: str, tmp_path: Path) -> Path:
    """A copy, which a test may damage."""
    return Path(shutil.copytree(HERE / version, tmp_path / version))


def expected(frozen: Path) -> dict[str, dict[str, str]]:
    return json.loads((frozen / "expected.json").read_text())


def key(frozen: Path, name: str) -> Path:
    return frozen / "keys" / f"{name}.pub"


def test_nothing_frozen_was_changed_and_no_private_key_is_there(version: str) -> None:
    folder = HERE / version
    assert hashlib.sha256((folder / SUMS).read_bytes()).hexdigest() == FROZEN[version]
    assert sums(folder) == (folder / SUMS).read_text()
    files = [item for item in folder.rglob("*") if item.is_file()]
    assert sum(item.stat().st_size for item in files) < 200_000
    assert not any(b"PRIVATE KEY" in item.read_bytes() for item in files)
    assert {item.stem for item in (folder / "keys").iterdir()} == set(KINDS)


@pytest.mark.parametrize(
    ("signature", "signers", "method", "algorithm"),
    [
        ("model/model.sig", ["author"], "files", "sha256"),
        ("shards.sig", ["second", "author"], "shards", "sha256"),
        ("blake3.sig", ["second"], "files", "blake3"),
    ],
)
def test_openssf_signatures(frozen: Path, signature: str, signers: list[str], method: str, algorithm: str) -> None:
    trust = require_threshold([key(frozen, name) for name in signers])
    proof = verify_artifact(frozen / "model", trust, signature=frozen / signature)
    assert (proof.listing.how.method, proof.listing.how.hash, len(proof.signers)) == (method, algorithm, len(signers))
    (frozen / "model" / "config.json").write_text('{"model_type": "owl"}\n')
    with pytest.raises(DigestMismatch, match=r"config\.json(:0:22)? changed"):
        verify_artifact(frozen / "model", trust, signature=frozen / signature)


def test_the_manifest_and_the_tensors_it_names(frozen: Path) -> None:
    model, trust = frozen / "model", key(frozen, "author")
    manifest, _ = read_manifest(model, trust)
    verify_files(model, manifest)
    wanted = expected(frozen)["model"]
    assert (manifest.model_id, manifest.content_id, manifest.version) == (wanted["model_id"], wanted["content_id"], 3)
    assert {item.name: item.outboard for item in manifest.files}["model.safetensors"] == wanted["outboard"]
    with open_verified(model, trust) as opened:
        assert opened.keys() == ["b", "empty", "w"]
        assert opened.get_tensor("w").flatten().tolist() == list(range(1200))
        assert opened.get_slice("w")[29:, :2].tolist() == [[1160.0, 1161.0]]
        assert opened.get_array("b").tolist() == list(range(6))


def test_the_outboard(frozen: Path) -> None:
    model, trust = frozen / "model", key(frozen, "author")
    found = verify_range(model, "model.safetensors:2000:2100", trust)
    assert found.data == (model / "model.safetensors").read_bytes()[2000:2100]
    assert damaged_ranges(model, "model.safetensors", trust) == ()
    data = bytearray((model / "model.safetensors").read_bytes())
    data[2050] ^= 1
    (model / "model.safetensors").write_bytes(data)
    assert damaged_ranges(model, "model.safetensors", trust) == ((2048, 3072),)
    with pytest.raises(DigestMismatch, match="2048:3072"):
        verify_range(model, "model.safetensors:2000:2100", trust)


def test_the_dataset_commitment_and_its_leaf_table(frozen: Path) -> None:
    found = open_commitment(frozen / "dataset", trust=key(frozen, "second"))
    wanted = expected(frozen)["dataset"]
    assert (found.commitment.digest, found.commitment.root, found.commitment.name) == (*wanted.values(), "toy")
    assert found.commitment.multiset.count == 7
    table = bytearray((frozen / "dataset" / "leaves.bin").read_bytes())
    table[-1] ^= 1
    (frozen / "dataset" / "leaves.bin").write_bytes(table)
    with pytest.raises(DigestMismatch, match="not the leaf table"):
        open_commitment(frozen / "dataset", trust=key(frozen, "second"))


def test_the_lineage(frozen: Path) -> None:
    found = verify_lineage(frozen / "model", key(frozen, "author"))
    assert not found.gaps
    digests = {value for node in found.nodes for value in node.identities}
    assert {expected(frozen)["dataset"]["digest"], expected(frozen)["model"]["model_id"]} <= digests


def test_the_revocation_list(frozen: Path) -> None:
    data = (frozen / "revoked.bundle.json").read_bytes()
    found, _ = verify_revocations(data, key(frozen, "root"), at=NOON + DAY)
    assert [(item.kind, item.reason) for item in found.entries] == [("dataset", "poisoned"), ("key", "compromise")]
    with pytest.raises(PolicyError, match="expired"):
        verify_revocations(data, key(frozen, "root"), at=NOON + 31 * DAY)


def test_the_key_set(frozen: Path) -> None:
    roots = require_threshold(key(frozen, "root"))
    trust = read_key_set_trust(frozen / "keyset", roots, at=NOON + DAY)
    assert (trust.keys.name, trust.keys.edition.version) == ("house", 2)
    assert verify_artifact(frozen / "model", trust).signer == load_trust(key(frozen, "author")).key.fingerprint
    with pytest.raises(HoldfastError, match="may sign from"):
        verify_artifact(frozen / "model", read_key_set_trust(frozen / "keyset", roots, at=NOON + 40 * DAY))


def test_the_verification_summary(frozen: Path) -> None:
    data, rules = (frozen / "summary.bundle.json").read_bytes(), frozen / "deploy.toml"
    trust = key(frozen, "verifier")
    found = verify_summary(frozen / "model", data, trust, rules, maximum_age=2 * DAY, at=NOON + DAY)
    assert (found.verified, found.levels) == (NOON, ("SLSA_BUILD_LEVEL_UNEVALUATED",))
    assert not judge(frozen / "model", rules).failures
    with pytest.raises(PolicyError, match="older than allowed"):
        verify_summary(frozen / "model", data, trust, rules, maximum_age=2 * DAY, at=NOON + 3 * DAY)


def test_the_passport_and_the_incident(frozen: Path) -> None:
    proof = verify_passport(frozen / "passport", key(frozen, "author"))
    inside = passport_records(frozen / "passport", proof)["records/incident.json"]
    statement = verify_bundle((frozen / "incident.bundle.json").read_bytes(), key(frozen, "author")).statement
    assert statement.predicate_type == "https://holdfast.dev/record/v1/integrity-incident"
    assert Record.from_json(statement.predicate) == inside
    assert (inside.facts["tensor"], inside.facts["repaired"]) == ("w", True)
    assert inside.measured["detection-latency"].high == 0.25


def test_none_of_them_is_accepted_with_another_payload(frozen: Path, version: str) -> None:
    """Every bundle, with one letter of what it says changed, is refused by the key that signed it."""
    import base64

    bundles = [item for item in frozen.rglob("*") if item.is_file() and b"dsseEnvelope" in item.read_bytes()]
    assert len(bundles) == 13 or version != "0.1.0"
    for path in bundles:
        value = json.loads(path.read_bytes())
        payload = bytearray(base64.b64decode(value["dsseEnvelope"]["payload"]))
        payload[payload.index(b"subject")] ^= 1
        value["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
        refusals = 0
        for name in KINDS:
            trust = require_threshold(key(frozen, name))
            verify = lambda data, trust=trust: verify_bundle(data, trust)
            try:
                verify(path.read_bytes())
            except HoldfastError:
                continue  # another key's
            with pytest.raises(SignatureInvalid):
                verify(json.dumps(value).encode())
            refusals += 1
        assert refusals, path
