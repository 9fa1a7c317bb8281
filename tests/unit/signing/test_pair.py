"""Both signatures of a model: from one pass, checked as one, and never of two minds."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from holdfast.errors import DigestMismatch, HoldfastError, InvalidConfig, SignatureInvalid, SignerUntrusted
from holdfast.evidence import digest
from holdfast.signing import (
    Serialization,
    Threshold,
    VerifiedModel,
    cosign_model,
    generate_key,
    load_trust,
    sign,
    sign_artifact,
    sign_model,
    verify,
    verify_artifact,
    verify_model,
)
from holdfast.signing.digest_cache import DigestCache
from holdfast.signing.manifests import read_manifest
from holdfast.signing.resign import resign

KEY = generate_key("ed25519")
HOWS = [
    Serialization(),
    Serialization(hash="blake2b"),
    Serialization(hash="blake3"),
    Serialization(method="shards", shard_size=100),
    Serialization(method="shards", hash="blake3", shard_size=64),
    Serialization(method="shards", hash="blake2b"),
    Serialization(method="shards", shard_size=100, dialect="model-signing"),
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    save_file({"w": torch.arange(60.0)}, folder / "model.safetensors")
    (folder / "sub" / "config.json").write_text("{}")
    (folder / "empty").write_text("")
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("x")
    return folder


@pytest.mark.parametrize("how", HOWS, ids=lambda how: f"{how.method}-{how.hash}-{how.dialect}")
@pytest.mark.parametrize("threads", [1, 2])
def test_one_pass_gives_what_two_would(how: Serialization, threads: int, model: Path, tmp_path: Path):
    signature, manifest, notes = sign_model(model, KEY, how=how, threads=threads)
    assert notes == ()
    assert (signature.name, manifest.name) == ("model.sig", "model.sig2")
    both = signature.read_bytes()
    verify_artifact(model, KEY.public)
    proof = verify_model(model, KEY.public)
    assert {item.name for item in proof.manifest.files} == {"model.safetensors", "sub/config.json", "empty"}
    assert [item.name for item in proof.manifest.tensors] == ["w"]
    sign_artifact(model, KEY, how=how)
    assert signature.read_bytes() == both


def test_every_byte_is_read_once(model: Path, monkeypatch: pytest.MonkeyPatch):
    passes: list[str] = []
    real = digest.read_pass
    monkeypatch.setattr(digest, "read_pass", lambda *a, **k: (passes.append(k["name"]), real(*a, **k))[1])
    sign_model(model, KEY)
    assert sorted(passes) == ["empty", "model.safetensors", "sub/config.json"]


def test_verification_computes_blake3_alone(model: Path, monkeypatch: pytest.MonkeyPatch):
    sign_model(model, KEY)
    monkeypatch.setattr(digest, "read_pass", _only_blake3(digest.read_pass))
    assert isinstance(verify(model, trust=KEY.public), VerifiedModel)


def _only_blake3(real):
    def read_pass(descriptor, sinks, **options):
        assert [sink.algorithm for sink in sinks] == ["blake3"]
        return real(descriptor, sinks, **options)

    return read_pass


def test_a_single_file_has_both_beside_it(model: Path):
    path = model / "model.safetensors"
    for dialect in ("specification", "model-signing"):
        assert [p.name for p in sign_model(path, KEY, how=Serialization(dialect=dialect))[:2] if p] == [
            "model.safetensors.sig",
            "model.safetensors.sig2",
        ]
        verify(path, trust=KEY.public)
        verify_artifact(path, KEY.public)


def test_what_differs_is_named_and_extra_files_can_be_let_through(model: Path):
    sign(model, key=KEY)
    (model / "new.txt").write_text("n")
    with pytest.raises(DigestMismatch, match=r"new\.txt was not signed"):
        verify(model, trust=KEY.public)
    assert verify_model(model, KEY.public, extra="allow").unsigned == ("new.txt",)
    verify(model, trust=KEY.public, ignore=["new.txt"])
    (model / "sub" / "config.json").write_text("[]")
    with pytest.raises(DigestMismatch, match=r"sub/config\.json changed"):
        verify_model(model, KEY.public, extra="allow")


def test_a_signers_wish_is_honoured_only_for_what_nothing_loads(model: Path):
    (model / "notes.txt").write_text("n")
    sign_model(model, KEY, how=Serialization(ignore=frozenset({"notes.txt", "code.py"})))
    assert verify_model(model, KEY.public).unsigned == ("notes.txt",)
    (model / "code.py").write_text("evil()")
    with pytest.raises(SignatureInvalid, match=r"leaves code\.py unsigned"):
        verify_model(model, KEY.public)


def test_two_signatures_of_two_minds_are_refused(model: Path):
    """An older signature put back beside a newer one is seen, whichever of the two it is."""
    old = [path.read_bytes() for path in sign_model(model, KEY)[:2] if path]
    (model / "sub" / "config.json").write_text('{"a": 1}')
    paths = sign_model(model, KEY)[:2]
    new = [path.read_bytes() for path in paths]
    for state in ((old[0], new[1]), (new[0], old[1])):
        for path, data in zip(paths, state, strict=True):
            path.write_bytes(data)
        with pytest.raises(DigestMismatch, match="between the two signatures"):
            verify_model(model, KEY.public)
    (model / "more").write_text("")
    sign_artifact(model, KEY)
    with pytest.raises(SignatureInvalid, match="different files"):
        verify_model(model, KEY.public)


def test_both_must_be_the_trusted_ones(model: Path):
    sign_model(model, KEY)
    sign_artifact(model, generate_key())
    with pytest.raises(SignerUntrusted):
        verify(model, trust=KEY.public)
    sign_model(model, generate_key())
    with pytest.raises(SignerUntrusted):
        verify(model, trust=KEY.public)


def test_several_sign_both(model: Path):
    other = generate_key("p256")
    sign_model(model, KEY)
    cosign_model(model, other)
    both = Threshold((load_trust(KEY.public), load_trust(other.public)), 2)
    assert len(verify_model(model, both).signers) == 2
    verify_artifact(model, both)
    (model / "sub" / "config.json").write_text("[]")
    with pytest.raises(DigestMismatch):
        cosign_model(model, generate_key())


def test_versions_count_up_only_when_the_model_changes(model: Path):
    def version() -> int:
        return read_manifest(model, KEY.public)[0].version

    sign_model(model, KEY)
    first = (model / "model.sig2").read_bytes()
    sign_model(model, KEY)
    assert (model / "model.sig2").read_bytes() == first
    (model / "sub" / "config.json").write_text("[]")
    sign_model(model, KEY)
    assert version() == 1
    sign_model(model, KEY, version=9)
    assert version() == 9
    with pytest.raises(InvalidConfig):
        sign_model(model, KEY, version=-1)


def test_signing_again_renews_both_without_reading(model: Path, tmp_path: Path):
    sign_model(model, KEY)
    cache = DigestCache(tmp_path / "cache", settle=0)
    resign(model, KEY, KEY.public, cache=cache)
    (model / "sub" / "config.json").write_text("[]")
    assert resign(model, KEY, KEY.public, cache=cache).hashed == ("sub/config.json",)
    verify_model(model, KEY.public)
    listing = verify_artifact(model, KEY.public).listing
    assert listing.digests["sub/config.json"] == hashlib.sha256(b"[]").hexdigest()


def test_an_adapter_names_its_base_through_the_command_line(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from holdfast.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(["keygen", "author"]) == 0
    assert main(["sign", "model", "--key", "file:author.pem", "--hash", "blake3"]) == 0
    (tmp_path / "adapter").mkdir()
    save_file({"lora_A": torch.zeros(2)}, tmp_path / "adapter" / "a.safetensors")
    call = ["sign", "adapter", "--key", "file:author.pem", "--base-model", "model"]
    assert main(call) == 2
    assert main([*call, "--base-trust", "author.pub"]) == 0
    assert main(["verify", "adapter", "--trust", "author.pub"]) == 0
    base, adapter = (read_manifest(tmp_path / name, tmp_path / "author.pub")[0] for name in ("model", "adapter"))
    assert adapter.base == base.model_id
    assert {item.sha256 for item in base.files} == {""}


def test_a_manifest_that_is_damaged_is_not_passed_over_for_the_other_signature(model: Path):
    sign_model(model, KEY)
    (model / "model.sig2").write_bytes(b"{}")
    with pytest.raises(HoldfastError):
        verify(model, trust=KEY.public)


def test_a_malformed_container_is_signed_as_a_file_and_said_to_be(model: Path):
    (model / "pointer.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    signed = sign_model(model, KEY)
    assert len(signed.notes) == 1
    assert "pointer.safetensors: no tensors listed: the header claims" in signed.notes[0]
    proof = verify_model(model, KEY.public)
    assert {item.file for item in proof.manifest.tensors} == {"model.safetensors"}
    (model / "pointer.safetensors").write_text("version https://git-lfs.github.com/spec/v2")
    with pytest.raises(DigestMismatch, match=r"pointer\.safetensors changed"):
        verify_model(model, KEY.public)
