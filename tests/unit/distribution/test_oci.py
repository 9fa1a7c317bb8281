"""Push and pull against a real registry: what arrives is what was signed, or nothing arrives."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest

from holdfast.cli import main
from holdfast.distribution import pull, push
from holdfast.distribution.layout import (
    EMPTY,
    MODEL,
    TITLE,
    Descriptor,
    attachment_manifest,
    layer_type,
    model_manifest,
    read_layers,
)
from holdfast.distribution.registry import Repository, digest_of
from holdfast.errors import (
    DigestMismatch,
    InvalidConfig,
    RecordMissing,
    StorageError,
    Unavailable,
    UnreadableArtifact,
    VerificationError,
)
from holdfast.signing import Serialization, generate_key, sign_artifact, sign_model

from .conftest import LocalRegistry

AUTHOR, EVE = generate_key(), generate_key("ed25519")
POLICY = '[files]\nforbid = ["{}"]\n'
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 4096)
    (folder / "sub/tokens.json").write_text('{"a": 1}')
    (folder / "README.md").write_text("# weights")
    sign_artifact(folder, AUTHOR)
    return folder


def _pushed(registry: LocalRegistry, model: Path, name: str) -> str:
    reference = f"{registry.host}/team/{name}:v1"
    push(model, reference, plain_http=True)
    return reference


def test_what_is_pulled_is_what_was_pushed(registry: LocalRegistry, model: Path, tmp_path: Path) -> None:
    reference = _pushed(registry, model, "same")
    done = pull(reference, tmp_path / "out", trust=AUTHOR.public, plain_http=True)
    names = {path.relative_to(model) for path in model.rglob("*") if path.is_file()}
    assert {path.relative_to(done.path) for path in done.path.rglob("*") if path.is_file()} == names
    assert all((done.path / name).read_bytes() == (model / name).read_bytes() for name in names)
    assert done.proof.signer == AUTHOR.public.fingerprint


def test_the_digest_is_that_of_the_files_and_pins_a_pull(registry: LocalRegistry, model: Path, tmp_path: Path) -> None:
    reference = f"{registry.host}/team/pin:v1"
    first, again = (push(model, reference, plain_http=True).digest for _ in range(2))
    assert first == again
    (model / "README.md").write_text("# other")
    sign_artifact(model, AUTHOR)
    assert push(model, reference, plain_http=True).digest != first
    pinned = pull(f"{registry.host}/team/pin@{first}", tmp_path / "old", trust=AUTHOR.public, plain_http=True)
    assert (pinned.path / "README.md").read_text() == "# weights"


def test_a_single_file_comes_back_with_its_signature(registry: LocalRegistry, tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    file.write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    sign_artifact(file, AUTHOR)
    done = pull(_pushed(registry, file, "one"), tmp_path / "out", trust=AUTHOR.public, plain_http=True)
    assert (done.path / file.name).read_bytes() == file.read_bytes()
    assert done.attached == ("net.safetensors.sig",)


def test_files_are_modelpack_layers(registry: LocalRegistry, model: Path) -> None:
    repository = Repository(_pushed(registry, model, "pack"), plain_http=True)
    value = json.loads(repository.manifest("v1")[0])
    assert value["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert value["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    kinds = {item["annotations"]["org.cncf.model.filepath"]: item["mediaType"] for item in value["layers"]}
    assert kinds == {
        "README.md": "application/vnd.cncf.model.doc.v1.raw",
        "model.safetensors": "application/vnd.cncf.model.weight.v1.raw",
        "sub/tokens.json": "application/vnd.cncf.model.weight.config.v1.raw",
    }


def test_others_can_attach_a_signature_and_everybody_finds_his_own(
    registry: LocalRegistry, model: Path, tmp_path: Path
) -> None:
    reference = _pushed(registry, model, "both")
    (model / "model.sig").unlink()
    sign_artifact(model, EVE)
    push(model, reference, plain_http=True)
    for number, key in enumerate((AUTHOR, EVE)):
        out = tmp_path / f"out{number}"
        assert pull(reference, out, trust=key.public, plain_http=True).proof.signer == key.public.fingerprint


def test_everybody_finds_his_own_manifest_and_a_strangers_keeps_nobody_out(
    registry: LocalRegistry, model: Path, tmp_path: Path
) -> None:
    reference = f"{registry.host}/team/manifests:v1"
    for key in (EVE, AUTHOR):
        sign_model(model, key)
        push(model, reference, plain_http=True)
    for key in (AUTHOR, EVE):
        done = pull(reference, tmp_path / key.public.fingerprint, trust=key.public, plain_http=True)
        assert done.proof.signer == key.public.fingerprint
        assert (done.path / "model.sig2").is_file()


def test_a_model_that_breaks_the_policy_does_not_appear(
    registry: LocalRegistry, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "author.pub").write_bytes(AUTHOR.public.pem)
    reference = _pushed(registry, model, "policy")
    words = ["oci", "pull", reference, str(tmp_path / "out"), "--trust", str(tmp_path / "author.pub"), "--plain-http"]
    policy = tmp_path / "policy.toml"
    for forbidden, code in (("*.md", 1), ("*.pkl", 0)):
        policy.write_text(POLICY.format(forbidden))
        assert main([*words, "--policy", str(policy)]) == code
        assert (tmp_path / "out").exists() == (code == 0)
    assert "README.md" in capsys.readouterr().err


def test_a_model_signed_by_somebody_else_does_not_appear(registry: LocalRegistry, model: Path, tmp_path: Path) -> None:
    reference = _pushed(registry, model, "stranger")
    with pytest.raises(VerificationError):
        pull(reference, tmp_path / "out", trust=EVE.public, plain_http=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.parametrize("spoil", [lambda data: data[:-1] + b"!", lambda data: data[:-1], lambda data: data + b"!"])
def test_a_registry_that_changes_a_byte_is_caught(
    registry: LocalRegistry, model: Path, tmp_path: Path, spoil, request: pytest.FixtureRequest
) -> None:
    (model / "README.md").write_text(f"unique to {request.node.name}")
    (model / "model.sig").unlink()
    sign_artifact(model, AUTHOR)
    reference = _pushed(registry, model, "spoilt")
    blob = registry.blob(digest_of((model / "README.md").read_bytes()))
    blob.write_bytes(spoil(blob.read_bytes()))
    with pytest.raises((DigestMismatch, Unavailable)):
        pull(reference, tmp_path / "out", trust=AUTHOR.public, plain_http=True)
    assert not (tmp_path / "out").exists()


def _push_by_hand(registry: LocalRegistry, name: str, titles: list[str]) -> str:
    repository = Repository(f"{registry.host}/team/{name}:v1", plain_http=True)
    config = _blob(repository, b"{}", EMPTY)
    layers = [_blob(repository, title.encode(), layer_type(title), title) for title in titles]
    repository.put_manifest(model_manifest(config, layers), "v1")
    return f"{registry.host}/team/{name}:v1"


def _blob(repository: Repository, data: bytes, kind: str, title: str = "") -> Descriptor:
    repository.put_blob(data, digest_of(data), len(data))
    return Descriptor(kind, digest_of(data), len(data), {TITLE: title} if title else {})


@pytest.mark.parametrize(
    "titles",
    [["../evil"], ["/etc/evil"], ["a/../../evil"], ["a//b"], ["a/"], ["./a"], ["a\\b"], ["a", "a"], ["a", "a/b"]],
)
def test_names_that_leave_the_folder_or_collide_are_refused(
    registry: LocalRegistry, tmp_path: Path, titles: list[str]
) -> None:
    reference = _push_by_hand(registry, "names", titles)
    with pytest.raises(UnreadableArtifact):
        pull(reference, tmp_path / "in/out", trust=AUTHOR.public, plain_http=True)
    assert not list(tmp_path.rglob("evil"))


def test_a_signature_among_the_files_is_refused(registry: LocalRegistry, tmp_path: Path) -> None:
    reference = _push_by_hand(registry, "smuggled", ["a", "model.sig"])
    with pytest.raises(UnreadableArtifact, match=r"model\.sig"):
        pull(reference, tmp_path / "out", trust=AUTHOR.public, plain_http=True)


def test_an_attachment_cannot_replace_a_file_of_the_model(registry: LocalRegistry, model: Path, tmp_path: Path) -> None:
    reference = _pushed(registry, model, "overwrite")
    repository = Repository(reference, plain_http=True)
    _, subject = repository.manifest("v1")
    layer = _blob(repository, b"evil", BUNDLE, "model.safetensors")
    repository.attach(attachment_manifest(BUNDLE, _blob(repository, b"{}", EMPTY), [layer], subject), subject, BUNDLE)
    done = pull(reference, tmp_path / "out", trust=AUTHOR.public, plain_http=True)
    assert (done.path / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_without_a_signature_nothing_is_pushed_or_pulled(registry: LocalRegistry, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/a").write_text("a")
    with pytest.raises(RecordMissing, match="sign"):
        push(tmp_path / "bare", f"{registry.host}/team/bare:v1", plain_http=True)
    with pytest.raises(RecordMissing, match="signature"):
        pull(_push_by_hand(registry, "bare", ["a"]), tmp_path / "out", trust=AUTHOR.public, plain_http=True)


def test_what_is_there_is_never_replaced(registry: LocalRegistry, model: Path, tmp_path: Path) -> None:
    reference = _pushed(registry, model, "there")
    (tmp_path / "out").mkdir()
    with pytest.raises(StorageError, match="exists"):
        pull(reference, tmp_path / "out", trust=AUTHOR.public, plain_http=True)


def test_missing_references_and_registries_are_one_clear_sentence(registry: LocalRegistry, tmp_path: Path) -> None:
    with pytest.raises(UnreadableArtifact, match="not in the registry"):
        pull(f"{registry.host}/team/none:v1", tmp_path / "out", trust=AUTHOR.public, plain_http=True)
    with pytest.raises(InvalidConfig, match="registry"):
        pull("resnet20:v1", tmp_path / "out", trust=AUTHOR.public)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(Unavailable, match="does not answer"):
            pull(f"{host}/team/none:v1", tmp_path / "out", trust=AUTHOR.public, plain_http=True)


def test_the_command_line_pushes_and_pulls(
    registry: LocalRegistry, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "author.pub").write_bytes(AUTHOR.public.pem)
    reference, out = f"{registry.host}/team/cli:v1", str(tmp_path / "out")
    assert main(["oci", "push", str(model), reference, "--plain-http", "--json"]) == 0
    digest = json.loads(capsys.readouterr().out)["digest"]
    call = ["oci", "pull", reference, out, "--trust", str(tmp_path / "author.pub"), "--plain-http", "--json"]
    assert main(call) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == digest
    assert main(call) == 3
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("name", [".git/config", ".gitattributes", ".github/workflows/build.yml"])
def test_a_registry_cannot_add_what_a_signature_leaves_out(
    registry: LocalRegistry, model: Path, tmp_path: Path, name: str
) -> None:
    """Git runs commands out of its configuration: a folder ``.git`` that nobody signed must not arrive."""
    repository = Repository(_pushed(registry, model, "extra"), plain_http=True)
    layers = [Descriptor.from_json(item) for item in json.loads(repository.manifest("v1")[0])["layers"]]
    layers.append(_blob(repository, b"[core]\n\tfsmonitor = touch /tmp/x", layer_type(name), name))
    repository.put_manifest(model_manifest(_blob(repository, b"{}", EMPTY), layers), "v1")
    _, subject = repository.manifest("v1")
    signature = _blob(repository, (model / "model.sig").read_bytes(), BUNDLE, "model.sig")
    forged = attachment_manifest(BUNDLE, _blob(repository, b"{}", EMPTY), [signature], subject)
    repository.attach(forged, subject, BUNDLE)
    with pytest.raises(DigestMismatch, match="not signed"):
        pull(f"{registry.host}/team/extra:v1", tmp_path / "out", trust=AUTHOR.public, plain_http=True)
    assert not (tmp_path / "out").exists()


def test_a_clone_of_git_is_pushed_without_what_its_signature_leaves_out(
    registry: LocalRegistry, model: Path, tmp_path: Path
) -> None:
    (model / ".git").mkdir()
    (model / ".git/config").write_text("[core]")
    (model / ".gitattributes").write_text("*.safetensors filter=lfs")
    (model / "notes.txt").write_text("mine")
    sign_artifact(model, AUTHOR, how=Serialization(ignore=frozenset({"notes.txt"})))
    done = pull(_pushed(registry, model, "clone"), tmp_path / "out", trust=AUTHOR.public, plain_http=True)
    assert set(done.files) == {"README.md", "model.safetensors", "sub/tokens.json"}
    assert not (done.path / ".git").exists()


@pytest.mark.parametrize("digest", ["sha512:" + "a" * 128, "sha256:" + "A" * 64, "md5:" + "0" * 32, "sha256:abc"])
def test_a_pin_that_cannot_be_checked_is_refused(
    registry: LocalRegistry, model: Path, tmp_path: Path, digest: str
) -> None:
    with pytest.raises(InvalidConfig, match="cannot pin"):
        pull(f"{registry.host}/team/pin@{digest}", tmp_path / "out", trust=AUTHOR.public, plain_http=True)


@pytest.mark.parametrize("change", [{"mediaType": "application/vnd.oci.image.index.v1+json"}, {"manifests": []}])
def test_no_document_is_a_manifest_and_an_index(change: dict[str, object]) -> None:
    blob = Descriptor("text/plain", digest_of(b"a"), 1, {TITLE: "a"})
    value = json.loads(model_manifest(blob, [blob]))
    assert read_layers(json.dumps(value).encode(), MODEL) == [blob]
    with pytest.raises(UnreadableArtifact, match="index"):
        read_layers(json.dumps(value | change).encode(), MODEL)


def test_attachments_are_bounded_together(
    registry: LocalRegistry, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = _pushed(registry, model, "flood")
    monkeypatch.setattr(sys.modules["holdfast.distribution.pull"], "ATTACHED_LIMIT", 100)
    with pytest.raises(RecordMissing, match="signature"):
        pull(reference, tmp_path / "out", trust=AUTHOR.public, plain_http=True)
