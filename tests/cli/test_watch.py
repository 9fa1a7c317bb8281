"""``holdfast watch``: a drill finds every flip, incidents are signed, and a changed manifest or model is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from holdfast.cli import main
from holdfast.errors import DigestMismatch, RecordMissing
from holdfast.evidence.record import Record
from holdfast.models import build_architecture, save
from holdfast.quantization import quantize
from holdfast.signing import generate_key, sign_artifact, verify_bundle
from holdfast.signing import load as load_model
from holdfast.signing.manifests import write_manifest
from holdfast.signing.resident import watch

KEY = generate_key()


@pytest.fixture
def signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save(quantize(build_architecture("digits-cnn:channels=8"), "rquant8"), tmp_path / "m")
    write_manifest(tmp_path / "m", KEY)
    sign_artifact(tmp_path / "m", KEY)
    (tmp_path / "author.pub").write_bytes(KEY.public.pem)
    return tmp_path / "m"


def test_a_drill_is_timed_and_leaves_no_incident_unexplained(signed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["watch", "m", "--trust", "author.pub", "--budget", "5MB", "--drill", "3", "-o", "incidents", "--json"]
    assert main(call) == 0
    seen = capsys.readouterr()
    found = json.loads(seen.out)
    assert len(found["drill"]) == len(found["incidents"]) == 3
    assert found["surprises"] == 0
    assert "3 flips found and mended" in seen.err
    records = [Record.from_bytes(path.read_bytes()) for path in sorted(Path("incidents").iterdir())]
    assert [item.facts["tensor"] for item in records] == [item["tensor"] for item in found["incidents"]]


def test_a_flip_that_no_drill_made_is_found_mended_and_signed(signed: Path, tmp_path: Path) -> None:
    model = load_model(signed, trust=KEY.public)
    audit = watch(model, signed, trust=KEY.public, out=tmp_path / "incidents", signer=KEY)
    name, weight = next(model.named_parameters())
    with torch.no_grad():
        weight.view(-1)[0] += 1
    (incident,) = audit.sweep().incidents
    assert (incident.tensor, incident.repaired) == (name, True)
    (path,) = (tmp_path / "incidents").iterdir()
    proof = verify_bundle(path.read_bytes(), KEY.public)
    assert proof.statement.predicate["facts"]["tensor"] == name
    assert audit.sweep().incidents == ()


def test_files_that_changed_since_cannot_mend(signed: Path) -> None:
    model = load_model(signed, trust=KEY.public)
    audit = watch(model, signed, trust=KEY.public)
    root = audit.roots[0]
    data = bytearray((signed / "model.safetensors").read_bytes())
    (signed / "model.safetensors").write_bytes(bytes(byte ^ 1 for byte in data))
    root.tensor.view(-1)[0] ^= 1
    with pytest.raises(DigestMismatch, match="no longer holds"):
        audit.sweep()


def test_other_weights_than_the_signed_ones_are_mended_at_once(signed: Path) -> None:
    net = build_architecture("digits-cnn:channels=8")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(-2)
    other = quantize(net, "rquant8")
    audit = watch(other, signed, trust=KEY.public)
    assert audit.sweep().incidents
    good = load_model(signed, trust=KEY.public)
    image = torch.rand(2, 1, 8, 8)
    assert torch.equal(other.eval()(image), good(image))


def test_without_a_manifest_or_with_another_model_nothing_is_watched(
    signed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DigestMismatch, match="in memory"):
        watch(quantize(build_architecture("digits-cnn:channels=4"), "rquant8"), signed, trust=KEY.public)
    (signed / "model.sig2").unlink()
    with pytest.raises(RecordMissing):
        watch(load_model(signed, trust=KEY.public), signed, trust=KEY.public)
    assert main(["watch", "m", "--trust", "author.pub", "--budget", "fast"]) == 2
    assert "no number of bytes" in capsys.readouterr().err
