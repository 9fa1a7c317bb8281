"""Signatures made by past releases of model-signing, and the schemas and vectors of the OMS specification."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509

from holdfast.cli import main
from holdfast.errors import DigestMismatch, HoldfastError, SignatureInvalid, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence.statement import PAYLOAD_TYPE, Statement
from holdfast.signing import (
    Identity,
    PublicKey,
    Serialization,
    Threshold,
    add_signature,
    generate_key,
    require_threshold,
    sign_artifact,
    verify_artifact,
)
from holdfast.signing.envelope import CERTIFICATE, CHAIN, Envelope, from_base64, pae, read_envelope
from holdfast.signing.keys import load_public
from holdfast.signing.oms import read_statement
from holdfast.signing.oms.legacy import LegacyEnvelope

ROOTS = {
    "v1.0.0-certificate": "61d4849d9d90076d6215f4d525f13d6574af8e3f67aef3e6f36fc40a14fdd226",
    "v1.0.0-sigstore": "61d4849d9d90076d6215f4d525f13d6574af8e3f67aef3e6f36fc40a14fdd226",
    "v1.1.0-elliptic-key": "92745110b1ab4368471cbe31664e10174e954b113a3df333db860317b2c6dec4",
    "v0.3.1-elliptic-key": "afa48c8674afe334b8a7dea34f7b46ab256e9255edf8da2132792341b667a45b",
    "v1.0.0-elliptic-key": "afa48c8674afe334b8a7dea34f7b46ab256e9255edf8da2132792341b667a45b",
}
SINGLE = {"v0.3.1-elliptic-key", "v1.0.0-elliptic-key"}  # these sign the file, under the name "."
HINT = "e8450dec4eb99dae995da9af1bc2cc9f76ed669ee2e744f57abba763df3e3f8e"


@dataclass(frozen=True)
class LeafTrust:
    """Checks the envelope with the first certificate's own key, believing nothing about who holds it."""

    key: PublicKey | None = None

    def claims(self, envelope: Envelope, index: int) -> bool:
        return index == 0

    def accept(self, envelope: Envelope, index: int) -> Identity:
        value = envelope.material.value
        leaf = {CHAIN: lambda: value["certificates"][0], CERTIFICATE: lambda: value}[envelope.material.kind]()
        key = PublicKey(x509.load_der_x509_certificate(from_base64(leaf["rawBytes"], "certificate")).public_key())
        assert self.key is None or key == self.key
        envelope.check(index, key)
        return Identity("leaf", key.fingerprint, key.fingerprint)


@pytest.fixture(scope="module")
def vectors() -> Path:
    base = Path(os.environ.get("HOLDFAST_SHARED", Path(__file__).resolve().parents[4] / "shared")) / "vectors" / "oms"
    if not base.is_dir():
        pytest.skip(f"no vectors at {base}; point HOLDFAST_SHARED at the folder that holds vectors/")
    return base


def trust_for(vectors: Path, name: str) -> Threshold:
    key = load_public(vectors / "keys" / "signing-key-pub.pem")
    if name.endswith("sigstore"):
        return Threshold((LeafTrust(),))
    return Threshold((LeafTrust(key),)) if name.endswith("certificate") else require_threshold(key)


def subject(vectors: Path, name: str) -> Path:
    return vectors / name / "signme-1" if name in SINGLE else vectors / name


def verify(vectors: Path, name: str, **options):
    return verify_artifact(
        subject(vectors, name), trust_for(vectors, name), signature=vectors / name / "model.sig", **options
    )


@pytest.mark.parametrize("name", sorted(ROOTS))
def test_vectors_of_past_releases_verify_and_have_the_published_root(vectors: Path, name: str):
    proof = verify(vectors, name, legacy=True)
    assert proof.statement.subjects[0].digest["sha256"] == ROOTS[name]
    assert proof.listing.files == ({"."} if name in SINGLE else {"signme-1", "signme-2"})


def test_a_signature_of_version_0_2_verifies_with_its_own_encoding(vectors: Path):
    proof = verify(vectors, "v0.2.0-certificate", legacy=True)
    assert proof.listing.files == {"signme-1", "signme-2"}
    assert "0.2" in proof.notes[0]


def test_the_current_release_verifies_without_being_asked_and_names_what_it_left_out(vectors: Path):
    proof = verify(vectors, "v1.1.0-elliptic-key")
    assert proof.signer == HINT
    assert proof.unsigned == ("ignore-me",)


def test_the_vectors_of_keys_verify_on_the_command_line(vectors: Path):
    trust = ("--trust", str(vectors / "keys" / "signing-key-pub.pem"))
    assert main(["verify", str(vectors / "v1.1.0-elliptic-key"), *trust]) == 0
    for name in sorted(SINGLE):
        signature = ("--signature", str(vectors / name / "model.sig"))
        assert main(["verify", str(vectors / name / "signme-1"), *trust, *signature]) == 2
        assert main(["verify", str(vectors / name / "signme-1"), *trust, *signature, "--legacy"]) == 0


@pytest.mark.parametrize("name", ["v1.1.0-elliptic-key", "v1.0.0-certificate"])
def test_the_root_digest_of_the_command_line_is_the_published_one(vectors: Path, name: str, capsys):
    assert main(["digest", str(vectors / name), "--oms", "--ignore", "ignore-me"]) == 0
    assert capsys.readouterr().out == f"sha256:{ROOTS[name]}\n"


@pytest.mark.parametrize("name", ["v0.2.0-certificate", *sorted(SINGLE)])
def test_legacy_formats_are_refused_unless_asked_for(vectors: Path, name: str):
    with pytest.raises(UnsupportedVersion, match=r"before 1\.1"):
        verify(vectors, name)


@pytest.mark.parametrize("name", ["v0.2.0-certificate", *sorted(ROOTS)])
def test_no_vector_verifies_over_other_files(vectors: Path, name: str, tmp_path: Path):
    for file in ("signme-1", "signme-2"):
        (tmp_path / file).write_bytes(b"other")
    model = tmp_path / "signme-1" if name in SINGLE else tmp_path
    with pytest.raises(DigestMismatch, match="changed"):
        verify_artifact(model, trust_for(vectors, name), signature=vectors / name / "model.sig", legacy=True)


@pytest.mark.parametrize("name", ["v0.2.0-certificate", *sorted(ROOTS)])
def test_no_vector_verifies_with_one_bit_of_its_payload_changed(vectors: Path, name: str, tmp_path: Path):
    bundle = json.loads((vectors / name / "model.sig").read_bytes())
    payload = bytearray(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    payload[payload.index(b"signme-1") + 7] ^= 4
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    (tmp_path / "model.sig").write_text(json.dumps(bundle))
    with pytest.raises(SignatureInvalid):
        verify_artifact(subject(vectors, name), trust_for(vectors, name), signature=tmp_path / "model.sig", legacy=True)


def test_the_old_encoding_never_passes_for_the_new_one(vectors: Path, tmp_path: Path):
    """A statement of today under the encoding of 0.2, and one of 0.2 under today's: both are signed, neither counts."""
    key = generate_key("p384")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "f").write_bytes(b"x")
    path = sign_artifact(tmp_path / "m", key)
    new = read_envelope(path.read_bytes())
    old_payload = read_envelope((vectors / "v0.2.0-certificate" / "model.sig").read_bytes()).payload
    old = LegacyEnvelope(new.payload, new.payload_type, new.signatures, new.material)
    for payload, message in ((new.payload, old.signed), (old_payload, pae(PAYLOAD_TYPE, old_payload))):
        bundle = json.loads(path.read_bytes())
        bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
        bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(key.sign(message)).decode()
        (tmp_path / "forged.sig").write_text(json.dumps(bundle))
        with pytest.raises(SignatureInvalid):
            verify_artifact(tmp_path / "m", key.public, signature=tmp_path / "forged.sig", legacy=True)


@pytest.mark.parametrize("name", ["key", "certificate", "sigstore"])
def test_the_specifications_valid_bundles_are_read(vectors: Path, name: str):
    data = (vectors / "spec" / "test-vectors" / "v1.0" / "valid" / f"{name}.bundle.json").read_bytes()
    envelope = read_envelope(data)
    assert read_statement(Statement.from_bytes(envelope.payload)).files == {"signme-1", "signme-2"}


@pytest.mark.parametrize("name", ["empty", "missing-envelope", "missing-tlog-entries", "missing-verification-material"])
def test_the_specifications_invalid_bundles_are_refused(vectors: Path, name: str, tmp_path: Path):
    path = vectors / "spec" / "test-vectors" / "v1.0" / "invalid" / f"{name}.bundle.json"
    with pytest.raises(HoldfastError) as caught:
        verify_artifact(vectors / "v1.0.0-sigstore", generate_key().public, signature=path)
    assert caught.value.exit_code in (1, 2)


def test_the_specifications_wrong_predicate_is_refused(vectors: Path):
    path = vectors / "spec" / "test-vectors" / "v1.0" / "invalid-payload" / "wrong-predicate.bundle.json"
    payload = read_envelope(path.read_bytes()).payload
    with pytest.raises((UnsupportedVersion, UnreadableArtifact)):
        read_statement(Statement.from_bytes(payload))


@pytest.fixture(scope="module")
def validators(vectors: Path):
    jsonschema = pytest.importorskip("jsonschema", reason="conformance is checked with the package jsonschema")
    referencing = pytest.importorskip("referencing", reason="conformance is checked with the package jsonschema")
    schemas = [json.loads(path.read_text()) for path in (vectors / "spec" / "schemas" / "v1.0").iterdir()]
    resources = [(item["$id"], referencing.Resource.from_contents(item)) for item in schemas]
    registry = referencing.Registry().with_resources(resources)
    return {item["title"]: jsonschema.Draft202012Validator(item, registry=registry) for item in schemas}


@pytest.mark.parametrize("kind", ["sha256", "blake2b", "blake3"])
@pytest.mark.parametrize("method", ["files", "shards"])
def test_what_we_write_conforms_to_the_schemas(validators, tmp_path: Path, method: str, kind: str):
    model = tmp_path / "model"
    (model / "sub").mkdir(parents=True)
    (model / "sub" / "weights.bin").write_bytes(bytes(100))
    (model / "empty").touch()
    how = Serialization(method=method, hash=kind, shard_size=7 if method == "shards" else None)
    path = sign_artifact(model, generate_key(), generate_key("ed25519"), how=how)
    bundle = json.loads(add_signature(path.read_bytes(), generate_key("p521")))
    validators["OMS Bundle"].validate(bundle)
    validators["OMS in-toto Statement"].validate(json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"])))
