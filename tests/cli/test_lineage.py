"""``holdfast lineage`` and the steps that transforming verbs write."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from holdfast.cli import main
from holdfast.data import dataset
from holdfast.evidence.chain import Chain
from holdfast.evidence.provenance import MODEL_ID, Provenance
from holdfast.evidence.statement import Statement
from holdfast.models import load, manifest_of
from holdfast.signing import load_signer
from holdfast.signing.editions import Edition
from holdfast.signing.envelope import read_envelope
from holdfast.signing.lineage import identify
from holdfast.signing.manifests import read_manifest, write_manifest
from holdfast.signing.revocation import Revocation, RevocationList, sign_revocations

TRUST = ["--trust", "trainer.pub", "--origins", "lab.pub", "--statements", "digits.bundle.json"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a trained, a quantised and a hardened model, each step signed."""
    root = tmp_path_factory.mktemp("lineage")
    key = ["--key", "file:trainer.pem"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name in ("trainer", "lab"):
            assert main(["keygen", name]) == 0
        assert main(["train", "digits-cnn:channels=4", "--data", "digits", "--epochs", "1", *key, "-o", "one"]) == 0
        assert main(["quantize", "one", *key, "-o", "small"]) == 0
        assert main(["harden", "small", "--calibrate", "digits", *key, "-o", "tough"]) == 0
        vouch = ["lineage", "vouch", "--data", "digits", "--key", "file:lab.pem", "--licence", "CC-BY-4.0"]
        assert main([*vouch, "-o", "digits.bundle.json"]) == 0
    return root


@pytest.fixture(autouse=True)
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def statement(path: Path) -> Statement:
    return Statement.from_bytes(read_envelope(path.read_bytes()).payload)


def test_every_verb_leaves_its_signed_step(folder: Path) -> None:
    names = sorted(path.name for path in (folder / "tough" / "lineage").iterdir())
    steps = ["0001-build", "0002-train", "0003-quantize", "0004-harden"]
    assert names == [f"{step}.bundle.json" for step in steps]


def test_training_names_its_checkpoints_and_its_accuracy(folder: Path) -> None:
    made = Provenance.from_statement(statement(folder / "one/lineage/0002-train.bundle.json"))
    products = {item.name: item for item in made.byproducts}
    chain = Chain.from_bytes((folder / "one.training" / "checkpoints.jsonl").read_bytes())
    assert products["checkpoint-chain"].digest == {"blake3": chain.head}
    assert 0 < products["metrics"].notes["values"]["test-accuracy"]["value"] <= 1
    named = {item.name: item for item in made.inputs}
    assert named["digits/train"].digest["blake3"] == dataset("digits", split="train").digest


def test_a_whole_history_verifies_and_is_told_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lineage", "verify", "tough", *TRUST, "--json"]) == 0
    seen = capsys.readouterr()
    value = json.loads(seen.out)
    assert value["model"] == f"blake3:{manifest_of(load('tough')).digest}"
    assert len(value["nodes"]) == 5
    assert {item["step"] for item in value["nodes"]} == {"build", "train", "quantize", "harden", ""}
    assert {item["state"] for item in value["nodes"]} == {"signed"}
    assert len(value["edges"]) == 5
    assert "signed history of 5 things" in seen.err


def test_a_gap_exits_with_one_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lineage", "verify", "tough", "--trust", "trainer.pub"]) == 1
    assert "digits/train" in capsys.readouterr().err
    assert main(["lineage", "verify", "tough", "--trust", "lab.pub"]) == 1
    assert "0004-harden.bundle.json does not count" in capsys.readouterr().err


def test_a_listed_digest_closes_the_gap_and_a_revoked_one_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    digest = dataset("digits", split="train").digest
    call = ["lineage", "verify", "tough", "--trust", "trainer.pub", "--leaf", f"blake3:{digest}"]
    assert main(call) == 0
    capsys.readouterr()
    assert main([*call, "--revoked", digest]) == 1
    assert "revoked" in capsys.readouterr().err
    assert main([*call[:-1], "nonsense"]) == 2


def test_the_tree_is_shown_with_signers_gaps_or_as_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lineage", "show", "tough", *TRUST]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("harden: tough")
    assert lines[-1].lstrip(" └─│├").startswith("model ← build: model")
    assert main(["lineage", "show", "tough", "--trust", "trainer.pub"]) == 0
    assert "NOT PROVED" in capsys.readouterr().out
    assert main(["lineage", "show", "tough", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert {item["state"] for item in value["nodes"]} == {"told"}


@pytest.mark.parametrize("format", ["cyclonedx", "spdx", "dot", "json"])
def test_exports_are_the_same_every_time(format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["lineage", "export", "tough", *TRUST, "--format", format, "--created", "2026-01-01T00:00:00Z", "--json"]
    for name in ("a", "b"):
        assert main([*call, "-o", str(tmp_path / name)]) == 0
        assert json.loads(capsys.readouterr().out)["nodes"] == 5
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_nothing_unverified_is_exported(tmp_path: Path) -> None:
    assert main(["lineage", "export", "tough", "--trust", "trainer.pub", "-o", str(tmp_path / "a")]) == 1
    assert not (tmp_path / "a").exists()


def test_a_broken_copy_says_what_broke_it(folder: Path, tmp_path: Path) -> None:
    call = ["inject", "tough", "--fault", "bit-errors:rate=0.001", "--seed", "7", "--key", "file:trainer.pem"]
    assert main([*call, "-o", str(tmp_path / "broken")]) == 0
    assert main(["lineage", "verify", str(tmp_path / "broken"), *TRUST]) == 0
    document = statement(tmp_path / "broken/lineage/0005-inject.bundle.json")
    made = Provenance.from_statement(document)
    assert made.parameters == {"fault": "bit-errors:rate=0.001", "at": "weights", "seed": "7"}
    assert made.inputs[0].digest["blake3"] == identify(folder / "tough").digest["blake3"]
    assert document.subjects[0].digest["blake3"] == manifest_of(load(tmp_path / "broken")).digest


def test_without_a_key_the_step_is_written_and_is_no_evidence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quantize", "one", "--format", "int4", "-o", str(tmp_path / "four")]) == 0
    assert "unsigned" in capsys.readouterr().err
    assert (tmp_path / "four/lineage/0003-quantize.json").is_file()
    assert not (tmp_path / "four/lineage/0003-quantize.bundle.json").exists()
    assert main(["lineage", "verify", str(tmp_path / "four"), *TRUST]) == 1
    assert "nobody signed it" in capsys.readouterr().err


def test_an_older_artifact_in_the_same_place_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    assert main(["harden", "small", "--calibrate", "digits", "-o", out]) == 0
    assert main(["quantize", "one", "--key", "file:trainer.pem", "-o", out]) == 0
    assert sorted(path.name for path in (tmp_path / "out/lineage").glob("*.bundle.json")) == [
        "0001-build.bundle.json",
        "0002-train.bundle.json",
        "0003-quantize.bundle.json",
    ]
    assert not (tmp_path / "out/lineage/0004-harden.json").exists()


def test_a_weights_file_starts_with_an_import(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(load(folder / "one").state_dict(), tmp_path / "w.safetensors")
    arch = ["--arch", "digits-cnn:channels=4"]
    out = str(tmp_path / "out")
    assert main(["quantize", str(tmp_path / "w.safetensors"), *arch, "--key", "file:trainer.pem", "-o", out]) == 0
    assert main(["lineage", "verify", out, "--trust", "trainer.pub"]) == 1
    vouch = ["lineage", "vouch", str(tmp_path / "w.safetensors"), "--key", "file:lab.pem"]
    assert main([*vouch, "-o", str(tmp_path / "w.bundle.json")]) == 0
    more = ["--origins", "lab.pub", "--statements", str(tmp_path / "w.bundle.json")]
    assert main(["lineage", "verify", out, "--trust", "trainer.pub", *more]) == 0


def test_verifying_loads_no_torch(folder: Path) -> None:
    code = (
        "import sys; from holdfast.cli import main; code = main(sys.argv[1:]); "
        "sys.exit(code or 10 * ('torch' in sys.modules))"
    )
    call = [sys.executable, "-c", code, "lineage", "export", "tough", *TRUST, "-o", str(folder / "bom.json")]
    assert subprocess.run(call, cwd=folder, check=False, capture_output=True).returncode == 0


def test_a_signed_revocation_list_refuses_what_it_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    began = datetime(2026, 1, 1, tzinfo=UTC)
    edition = Edition(1, datetime.now(UTC).replace(microsecond=0), datetime(2100, 1, 1, tzinfo=UTC))
    data = dataset("digits", split="train").digest
    entries = {"other": "00" * 32, "data": data}
    for name, digest in entries.items():
        entry = Revocation("dataset", digest, "poisoned", began)
        bundle = sign_revocations(RevocationList("ours", edition, (entry,)), load_signer("file:lab.pem"))
        (tmp_path / f"{name}.json").write_bytes(bundle)
    call = ["lineage", "verify", "tough", *TRUST, "--revocation-trust", "lab.pub", "--revocations"]
    assert main([*call, str(tmp_path / "other.json")]) == 0
    assert main([*call, str(tmp_path / "data.json")]) == 1
    assert "revoked" in capsys.readouterr().err
    stranger = ["lineage", "verify", "tough", *TRUST, "--revocation-trust", "trainer.pub", "--revocations"]
    assert main([*stranger, str(tmp_path / "other.json")]) == 1
    assert main(["lineage", "verify", "tough", *TRUST, "--revocations", str(tmp_path / "other.json")]) == 2


def test_the_signed_manifest_is_about_the_same_files_as_the_steps(folder: Path) -> None:
    write_manifest(folder / "tough", load_signer("file:trainer.pem"))
    manifest, _ = read_manifest(folder / "tough", folder / "trainer.pub")
    step = statement(folder / "tough/lineage/0004-harden.bundle.json")
    assert step.subjects[0].digest[MODEL_ID] == manifest.model_id == identify(folder / "tough").digest[MODEL_ID]
    assert main(["lineage", "verify", "tough", *TRUST, "--statements", "tough/model.sig2"]) == 0


def test_a_model_with_unsigned_steps_beside_signed_ones_is_signed_verified_and_traced(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "digits-cnn:channels=2", "--data", "digits", "--epochs", "1", "-o", "plain"]) == 0
    assert main(["quantize", "plain", "--key", "file:trainer.pem", "-o", "mixed"]) == 0
    names = sorted(path.name for path in (folder / "mixed" / "lineage").iterdir())
    assert names == ["0001-build.json", "0002-train.json", "0003-quantize.bundle.json"]
    for name in ("plain", "mixed"):
        assert main(["sign", name, "--key", "file:trainer.pem"]) == 0
        assert main(["verify", name, "--trust", "trainer.pub"]) == 0
    assert "lineage/0002-train.json" in {item.name for item in read_manifest("mixed", "trainer.pub")[0].files}
    capsys.readouterr()
    assert main(["lineage", "verify", "mixed", *TRUST]) == 1  # nobody vouches for the training
    assert "mixed" in capsys.readouterr().err
    leaf = identify(Path("plain")).digest["blake3"]
    assert main(["lineage", "verify", "mixed", "--trust", "trainer.pub", "--leaf", leaf]) == 0
    step = Path("mixed/lineage/0002-train.json")
    step.write_bytes(step.read_bytes().replace(b"digits", b"digitz", 1))
    assert main(["verify", "mixed", "--trust", "trainer.pub"]) == 1
