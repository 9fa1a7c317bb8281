"""Signatures to and from ``model-signing``, the reference tool: ours are verified by it, and its own by ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.errors import DigestMismatch, HoldfastError, SignatureInvalid, SignerUntrusted
from holdfast.signing import Serialization, generate_key, load_signer, sign_artifact, verify_artifact
from holdfast.signing.keys import write_key

pytest.importorskip("OpenSSL", reason="model-signing needs pyopenssl, which it does not declare")
model_signing = pytest.importorskip("model_signing", reason="compared with the package model-signing")
hashing = pytest.importorskip("model_signing.hashing")
signing = pytest.importorskip("model_signing.signing")
verifying = pytest.importorskip("model_signing.verifying")

CURVES = ("p256", "p384", "p521")
THEIR_NAME = {"sha256": "sha256", "blake2b": "blake2", "blake3": "blake3"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for kind in CURVES:
        signer = generate_key(kind)
        write_key(signer, folder / f"{kind}.pem")
        (folder / f"{kind}.pub").write_bytes(signer.public.pem)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    files = {
        "weights.bin": bytes(range(256)) * 5,
        "a/b/config.json": b"{}",
        "a-b": b"order",
        "a.b": b"order too",
        "ä 文字.txt": "Grüße".encode(),
        ".git/config": b"left out",
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def their_hashing(method: str, kind: str, *, links: bool = False, ignore: tuple[str, ...] = ()) -> object:
    config = hashing.Config()
    if method == "files":
        config.use_file_serialization(hashing_algorithm=THEIR_NAME[kind], allow_symlinks=links)
    else:
        config.use_shard_serialization(hashing_algorithm=THEIR_NAME[kind], shard_size=100, allow_symlinks=links)
    config.set_allow_symlinks(links)
    return config.set_ignored_paths(paths=["model.sig", *ignore])


def their_verify(model: Path, signature: Path, key: Path, config: object = None) -> None:
    verifier = verifying.Config().use_elliptic_key_verifier(public_key=key)
    if config is not None:
        verifier.set_hashing_config(config)
    verifier.verify(model, signature)


def their_sign(model: Path, signature: Path, key: Path, config: object, password: bytes | None = None) -> None:
    signer = signing.Config().use_elliptic_key_signer(private_key=key, password=password)
    signer.set_hashing_config(config).sign(model, signature)


def our_sign(model: Path, keys: Path, curve: str, **options: object) -> Path:
    return sign_artifact(model, load_signer(f"file:{keys / curve}.pem"), how=Serialization(**options))


MATRIX = [
    (method, kind, curve)
    for method in ("files", "shards")
    for kind in ("sha256", "blake2b", "blake3")
    for curve in CURVES
    if (method, kind) != ("shards", "blake3")  # model-signing has no shards with BLAKE3
]


@pytest.mark.parametrize(("method", "kind", "curve"), MATRIX)
def test_model_signing_verifies_ours_and_notices_a_change(keys: Path, model: Path, method: str, kind: str, curve: str):
    dialect = {} if method == "files" else {"shard_size": 100, "dialect": "model-signing"}
    path = our_sign(model, keys, curve, method=method, hash=kind, **dialect)
    assert verify_artifact(model, keys / f"{curve}.pub").listing.how.hash == kind
    their_verify(model, path, keys / f"{curve}.pub", their_hashing(method, kind))
    (model / "a-b").write_bytes(b"other")
    with pytest.raises(ValueError, match="mismatch"):
        their_verify(model, path, keys / f"{curve}.pub", their_hashing(method, kind))


@pytest.mark.parametrize(("method", "kind", "curve"), MATRIX)
def test_we_verify_model_signings_and_notice_a_change(keys: Path, model: Path, method: str, kind: str, curve: str):
    their_sign(model, model / "model.sig", keys / f"{curve}.pem", their_hashing(method, kind))
    proof = verify_artifact(model, keys / f"{curve}.pub")
    assert proof.listing.files == {"weights.bin", "a/b/config.json", "a-b", "a.b", "ä 文字.txt"}
    assert (proof.listing.how.method, proof.listing.how.hash) == (method, kind)
    (model / "a-b").write_bytes(b"other")
    with pytest.raises(DigestMismatch, match="a-b"):
        verify_artifact(model, keys / f"{curve}.pub")


def test_model_signing_guesses_how_to_verify_ours(keys: Path, model: Path):
    for kind in ("sha256", "blake3"):
        their_verify(model, our_sign(model, keys, "p256", hash=kind), keys / "p256.pub")


@pytest.mark.parametrize(("method", "kind"), [(method, kind) for method, kind, curve in MATRIX if curve == "p256"])
def test_in_its_own_dialect_our_list_and_root_digest_are_the_ones_of_model_signing(
    keys: Path, model: Path, method: str, kind: str
):
    their_sign(model, model / "model.sig", keys / "p256.pem", their_hashing(method, kind))
    theirs = verify_artifact(model, keys / "p256.pub").statement
    size = 100 if method == "shards" else None
    our_sign(model, keys, "p256", method=method, hash=kind, shard_size=size, dialect="model-signing")
    ours = verify_artifact(model, keys / "p256.pub").statement
    assert ours.subjects == theirs.subjects
    assert ours.predicate["resources"] == theirs.predicate["resources"]


def test_encrypted_keys_serve_both(keys: Path, model: Path, tmp_path: Path):
    signer = generate_key("p384")
    write_key(signer, tmp_path / "k.pem", password=b"secret")
    (tmp_path / "k.pub").write_bytes(signer.public.pem)
    their_sign(model, model / "model.sig", tmp_path / "k.pem", their_hashing("files", "sha256"), b"secret")
    verify_artifact(model, tmp_path / "k.pub")
    sign_artifact(model, load_signer(f"file:{tmp_path / 'k.pem'}", password=b"secret"))
    their_verify(model, model / "model.sig", tmp_path / "k.pub", their_hashing("files", "sha256"))


@pytest.mark.parametrize("method", ["files", "shards"])
def test_links_to_files_are_the_same_to_both(keys: Path, model: Path, method: str):
    (model / "link").symlink_to("weights.bin")
    their_sign(model, model / "model.sig", keys / "p256.pem", their_hashing(method, "sha256", links=True))
    assert "link" in verify_artifact(model, keys / "p256.pub").listing.files
    with pytest.raises(HoldfastError, match="link is a link"):
        verify_artifact(model, keys / "p256.pub", allow_symlinks=False)
    size = 100 if method == "shards" else None
    options = {"method": method, "shard_size": size, "allow_symlinks": True, "dialect": "model-signing"}
    path = our_sign(model, keys, "p256", **options)
    their_verify(model, path, keys / "p256.pub", their_hashing(method, "sha256", links=True))


def test_ignored_paths_are_honoured_both_ways(keys: Path, model: Path):
    (model / "notes").mkdir()
    (model / "notes" / "README.md").write_text("words")
    config = their_hashing("files", "sha256", ignore=("notes",))
    their_sign(model, model / "model.sig", keys / "p256.pem", config)
    assert verify_artifact(model, keys / "p256.pub").unsigned == ("notes/README.md",)
    (model / "notes" / "run.py").write_text("evil()")
    with pytest.raises(SignatureInvalid, match=r"notes/run\.py"):
        verify_artifact(model, keys / "p256.pub")
    assert verify_artifact(model, keys / "p256.pub", ignore=["notes"]).unsigned == ()
    path = our_sign(model, keys, "p256", ignore=frozenset({"notes"}))
    their_verify(model, path, keys / "p256.pub")


def test_a_single_file_of_model_signing_is_verified_under_any_name(keys: Path, model: Path):
    for method in ("files", "shards"):
        path = model.parent / f"{method}.sig"
        their_sign(model / "weights.bin", path, keys / "p256.pem", their_hashing(method, "sha256"))
        assert verify_artifact(model / "weights.bin", keys / "p256.pub", signature=path).listing.files == {"."}
        with pytest.raises(DigestMismatch):
            verify_artifact(model / "a-b", keys / "p256.pub", signature=path)


@pytest.mark.parametrize("size", [None, 100])
def test_a_single_file_of_ours_is_named_as_the_specification_says_or_as_model_signing_does(
    keys: Path, model: Path, size: int | None
):
    method = "files" if size is None else "shards"
    for dialect, understood in (("model-signing", True), ("specification", False)):
        path = our_sign(model / "weights.bin", keys, "p256", method=method, shard_size=size, dialect=dialect)
        verify_artifact(model / "weights.bin", keys / "p256.pub")
        arguments = model / "weights.bin", path, keys / "p256.pub", their_hashing(method, "sha256")
        if understood:
            their_verify(*arguments)
            continue
        with pytest.raises(ValueError, match="Missing files in model"):
            their_verify(*arguments)


def test_an_empty_file_is_refused_in_model_signings_shards_and_signed_in_ours(keys: Path, model: Path):
    their_sign(model, model / "model.sig", keys / "p256.pem", their_hashing("shards", "sha256"))
    (model / "empty").touch()
    their_verify(model, model / "model.sig", keys / "p256.pub", their_hashing("shards", "sha256"))
    with pytest.raises(DigestMismatch, match="empty was not signed"):
        verify_artifact(model, keys / "p256.pub")
    path = our_sign(model, keys, "p256", method="shards", shard_size=100, dialect="model-signing")
    their_verify(model, path, keys / "p256.pub", their_hashing("shards", "sha256"))
    assert "empty" in verify_artifact(model, keys / "p256.pub").listing.files


def test_several_signers_do_not_disturb_model_signing(keys: Path, model: Path):
    first, second = (load_signer(f"file:{keys / kind}.pem") for kind in ("p256", "p384"))
    path = sign_artifact(model, first, second)
    their_verify(model, path, keys / "p256.pub")
    with pytest.raises(SignerUntrusted):
        verify_artifact(model, keys / "p521.pub")


def test_our_evidence_beside_a_model_does_not_disturb_model_signing(keys: Path, model: Path):
    path = our_sign(model, keys, "p256")
    for name in ("model.sig2", "model.outboard/weights.bin.obao", "lineage/train.bundle.json"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text("{}")
    their_verify(model, path, keys / "p256.pub")


def test_unsigned_steps_beside_signed_ones_are_signed_for_model_signing_too(keys: Path, model: Path):
    (model / "lineage").mkdir()
    for name in ("0001-train.json", "0002-quantize.bundle.json"):
        (model / "lineage" / name).write_text("{}")
    path = our_sign(model, keys, "p256")
    their_verify(model, path, keys / "p256.pub")
    (model / "lineage" / "0001-train.json").write_text("[]")
    with pytest.raises(Exception, match="0001-train"):
        their_verify(model, path, keys / "p256.pub")


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    tool = [sys.executable, "-m", "model_signing", *map(str, arguments)]
    return subprocess.run(tool, capture_output=True, text=True, check=False)


def test_the_command_lines_understand_each_other(keys: Path, model: Path, capsys: pytest.CaptureFixture[str]):
    from holdfast.cli import main

    signature = model / "model.sig"
    assert main(["sign", str(model), "--key", f"file:{keys / 'p256'}.pem"]) == 0
    theirs = command("verify", "key", model, "--signature", signature, "--public_key", keys / "p256.pub")
    assert theirs.returncode == 0, theirs.stderr
    signed = command("sign", "key", model, "--signature", signature, "--private_key", keys / "p256.pem")
    assert signed.returncode == 0, signed.stderr
    capsys.readouterr()
    assert main(["verify", str(model), "--trust", str(keys / "p256.pub"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == 5
