"""Signing with a certificate: the chain goes along, and what nobody would accept is not signed at all."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from holdfast.errors import DigestMismatch, InvalidConfig, SignerUntrusted, UnsupportedVersion
from holdfast.evidence.statement import Statement, Subject
from holdfast.signing import (
    generate_key,
    load_signer,
    load_trust,
    sign_artifact,
    sign_statement,
    verify_artifact,
    verify_bundle,
)
from holdfast.signing.envelope import CHAIN, read_envelope
from holdfast.signing.keys import KeySigner, write_key
from holdfast.signing.signers import require_key
from holdfast.signing.signers.certificate import CertificateSigner
from tests.authority import BUILDER, Holder, authority, issue, signer
from tests.timestamping import validity
from tests.tokens import make_token

STATEMENT = Statement((Subject("model", {"sha256": "0" * 64}),), "https://example.org/kind", {"a": 1})
ROOT = authority("root", **validity())
BETWEEN = authority("between", ROOT, **validity())
LEAF = signer(BETWEEN, **validity())


def write(folder: Path, leaf: Holder = LEAF) -> str:
    """Write key, chain and root to ``folder`` and return the signer's URI."""
    write_key(KeySigner(leaf.key), folder / "leaf.key")
    for name, holder in (("leaf", leaf), ("between", BETWEEN), ("root", ROOT)):
        (folder / f"{name}.pem").write_bytes(holder.pem)
    return f"certificate:key={folder}/leaf.key,chain={folder}/leaf.pem+{folder}/between.pem"


def test_a_statement_signed_with_a_certificate_is_accepted_by_name(tmp_path: Path):
    made = load_signer(write(tmp_path))
    bundle = sign_statement(STATEMENT, made)
    trust = load_trust(f"certificate:roots={tmp_path}/root.pem,identity={BUILDER}")
    proof = verify_bundle(bundle, trust)
    assert (proof.statement, proof.signer) == (STATEMENT, BUILDER)
    envelope = read_envelope(bundle)
    assert envelope.material.kind == CHAIN
    assert len(envelope.material.value["certificates"]) == 2
    with pytest.raises(SignerUntrusted, match=r"trusted is 'other@example\.org'"):
        verify_bundle(bundle, load_trust(f"certificate:roots={tmp_path}/root.pem,identity=other@example.org"))


def test_a_certificate_and_keys_sign_side_by_side(tmp_path: Path):
    key = generate_key("ed25519")
    bundle = sign_statement(STATEMENT, load_signer(write(tmp_path)), key)
    trust = f"certificate:roots={tmp_path}/root.pem,identity={BUILDER}"
    assert [item.kind for item in verify_bundle(bundle, [trust, key.public]).signers] == ["certificate", "key"]
    assert verify_bundle(bundle, trust).signer == BUILDER
    assert verify_bundle(bundle, key.public).signer == key.public.fingerprint
    with pytest.raises(SignerUntrusted, match="1 of 2"):
        verify_bundle(bundle, [trust, generate_key().public])
    with pytest.raises(SignerUntrusted):  # a key that is only certified was not trusted as a key
        verify_bundle(bundle, require_key(load_signer(f"file:{tmp_path}/leaf.key")).public)


def test_a_root_in_the_chain_stays_at_home(tmp_path: Path):
    bundle = sign_statement(STATEMENT, load_signer(f"{write(tmp_path)}+{tmp_path}/root.pem"))
    assert len(read_envelope(bundle).material.value["certificates"]) == 2


def test_the_key_may_be_in_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    token = make_token(tmp_path / "hsm", monkeypatch)
    token.make("key", "secp384r1", b"\x01")
    uri = f"pkcs11:{token.uri('key')}"
    public = load_pem_public_key(require_key(load_signer(uri)).public.pem)
    certified = signer(BETWEEN, key=_PublicOnly(public), **validity())
    (tmp_path / "root.pem").write_bytes(ROOT.pem)
    (tmp_path / "chain.pem").write_bytes(certified.pem + BETWEEN.pem)
    bundle = sign_statement(STATEMENT, load_signer(f"certificate:key=({uri}),chain={tmp_path}/chain.pem"))
    trust = load_trust(f"certificate:roots={tmp_path}/root.pem,identity={BUILDER}")
    assert verify_bundle(bundle, trust).signer == BUILDER


@dataclasses.dataclass
class _PublicOnly:
    """Stands for a private key that is elsewhere."""

    key: object

    def public_key(self) -> object:
        return self.key


@pytest.mark.parametrize(
    ("leaf", "words"),
    [
        (signer(BETWEEN, purposes=[ExtendedKeyUsageOID.SERVER_AUTH], **validity()), "not for codeSigning"),
        (signer(BETWEEN, **validity(-9, -1)), "expired"),
        (signer(BETWEEN, **validity(1, 9)), "not valid before"),
    ],
    ids=["tls", "expired", "tomorrow"],
)
def test_what_nobody_would_accept_is_not_signed(tmp_path: Path, leaf: Holder, words: str):
    with pytest.raises(InvalidConfig, match=words):
        load_signer(write(tmp_path, leaf))


def test_a_chain_that_does_not_fit(tmp_path: Path):
    uri = write(tmp_path)
    write_key(generate_key(), tmp_path / "other.key")
    for wrong, words in [
        (uri.replace("leaf.key", "other.key"), "for another key"),
        (f"certificate:key={tmp_path}/leaf.key,chain={tmp_path}/between.pem+{tmp_path}/leaf.pem", "for another key"),
        (f"certificate:key={tmp_path}/leaf.key,chain={tmp_path}/leaf.pem+{tmp_path}/root.pem", "did not issue"),
        (f"certificate:key={tmp_path}/leaf.key", "needs key and chain"),
        (f"{uri},password=x", "no option 'password'"),
    ]:
        with pytest.raises(InvalidConfig, match=words):
            load_signer(wrong)


def test_an_authority_as_signer_needs_the_exception_on_both_sides(tmp_path: Path):
    extensions = tuple(
        (item.value, item.critical) for item in LEAF.certificate.extensions if item.oid.dotted_string != "2.5.29.19"
    )
    basic = next(item for item in ROOT.certificate.extensions if item.oid.dotted_string == "2.5.29.19")
    both = issue("both", BETWEEN, extensions=((basic.value, True), *extensions), **validity())
    uri = write(tmp_path, both)
    with pytest.raises(InvalidConfig, match="is an authority"):
        load_signer(uri)
    bundle = sign_statement(STATEMENT, load_signer(f"{uri},allow-ca-leaf=true"))
    spec = f"certificate:roots={tmp_path}/root.pem,identity={BUILDER}"
    with pytest.raises(SignerUntrusted, match="is an authority"):
        verify_bundle(bundle, load_trust(spec))
    assert verify_bundle(bundle, load_trust(f"{spec},allow-ca-leaf=true")).signer == BUILDER


def test_it_is_checked_again_when_it_signs():
    made = CertificateSigner(KeySigner(LEAF.key), (LEAF.certificate, BETWEEN.certificate))
    old = signer(BETWEEN, key=LEAF.key, **validity(-9, -1))
    object.__setattr__(made, "chain", (old.certificate,))  # as if time had gone by
    with pytest.raises(InvalidConfig, match="expired"):
        made.seal("type", b"payload")


@pytest.fixture
def openssf(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return what runs the tool of OpenSSF model signing in ``tmp_path``."""
    pytest.importorskip("model_signing", reason="the openssf tool is not installed")
    pytest.importorskip("OpenSSL", reason="the openssf tool needs pyopenssl")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "model_signing", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


def make_model(folder: Path) -> Path:
    (folder / "model").mkdir()
    (folder / "model" / "weights.bin").write_bytes(b"weights")
    return folder / "model"


def test_the_openssf_tool_verifies_what_a_certificate_signed(tmp_path: Path, openssf: Callable[..., Any]):
    model = make_model(tmp_path)
    sign_artifact(model, require_key(load_signer(write(tmp_path))))
    verify = ["verify", "certificate", "model", "--signature", "model/model.sig", "--certificate_chain", "root.pem"]
    done = openssf(*verify)
    assert done.returncode == 0, done.stderr
    (model / "weights.bin").write_bytes(b"others")
    assert openssf(*verify).returncode != 0


def test_what_the_openssf_tool_signs_with_a_certificate_is_accepted_here(tmp_path: Path, openssf: Callable[..., Any]):
    model = make_model(tmp_path)
    write(tmp_path)
    words = ["--private_key", "leaf.key", "--signing_certificate", "leaf.pem", "--certificate_chain", "between.pem"]
    done = openssf("sign", "certificate", "model", "--signature", "model/model.sig", *words)
    assert done.returncode == 0, done.stderr
    trust = load_trust(f"certificate:roots={tmp_path}/root.pem,identity={BUILDER}")
    assert verify_artifact(model, trust).signer == BUILDER
    (model / "weights.bin").write_bytes(b"others")
    with pytest.raises(DigestMismatch):
        verify_artifact(model, trust)


@pytest.mark.parametrize(("release", "legacy"), [("v1.0.0", False), ("v0.2.0", True)])
def test_a_published_model_verifies(shared_data: Path, release: str, legacy: bool):
    """Signed by releases of OpenSSF model signing, with a leaf that says it is an authority too."""
    oms = shared_data.parent / "vectors" / "oms"
    if not oms.is_dir():
        pytest.skip(f"no published bundles at {oms}")
    spec = f"certificate:roots={oms}/keys/ca-cert.pem,subject=CN=intermediate-ca,at=2026-06-01T00:00:00Z"
    trust = load_trust(f"{spec},allow-ca-leaf=true")
    proof = verify_artifact(oms / f"{release}-certificate", trust, legacy=legacy)
    assert proof.signer == "CN=intermediate-ca"
    if legacy:
        with pytest.raises(UnsupportedVersion):
            verify_artifact(oms / f"{release}-certificate", trust)
    with pytest.raises(SignerUntrusted, match="is an authority, not a signer"):
        verify_artifact(oms / f"{release}-certificate", load_trust(spec), legacy=legacy)
