"""Keyless signing: the sigstore package, unchanged, against an instance on this machine; never the public one."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from holdfast.errors import InvalidConfig, MissingExtra, SignatureInvalid, Unavailable, UnreadableArtifact, UsageError
from holdfast.evidence.statement import Statement, Subject
from holdfast.signing import KeyHolder, load_signer, sign, sign_statement, verify, verify_bundle
from holdfast.signing.sigstore import parse_trusted_root
from holdfast.signing.trusts.sigstore import SigstoreTrust
from tests.sigstore_parts import CertificateLog, SignatureLog, TimestampAuthority
from tests.sigstore_server import Service, serving, token
from tests.sigstore_world import IDENTITY, ISSUER, World

STATEMENT = Statement((Subject("m", {"sha256": "ab" * 32}),), "https://example.org/p", {"n": 1})
needs_sigstore = pytest.mark.skipif(
    importlib.util.find_spec("sigstore") is None, reason="the package sigstore is absent"
)
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="timestamps are made by the openssl command")


class Instance:
    """A served world, and files that a signer reads: a token and a trust configuration."""

    def __init__(self, service: Service, address: str, folder: Path) -> None:
        self.service, self.folder = service, folder
        (folder / "token").write_text(token(IDENTITY, ISSUER) + "\n")
        (folder / "config.json").write_text(json.dumps(service.trust_config(address)))
        self.uri = f"sigstore:token-file={folder / 'token'},trust-config={folder / 'config.json'}"
        root = parse_trusted_root(json.dumps(service.world.trusted_root()).encode())
        self.trust = SigstoreTrust(issuer=ISSUER, identity=IDENTITY, root=root)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    service = Service(World())
    with serving(service) as address:
        yield Instance(service, address, tmp_path)


@needs_sigstore
def test_a_statement_is_signed_without_a_key_and_verified_offline(instance: Instance):
    bundle = sign_statement(STATEMENT, load_signer(instance.uri))
    found = verify_bundle(bundle, instance.trust)
    assert found.statement == STATEMENT
    assert (found.signer, found.signers[0].issuer) == (IDENTITY, ISSUER)
    assert instance.service.requests == ["/api/v2/signingCert", "/api/v1/log/entries"]


@needs_sigstore
@needs_openssl
def test_an_instance_with_timestamps_and_a_log_of_the_second_generation(tmp_path: Path):
    log = SignatureLog("log2026.example.org", ed25519.Ed25519PrivateKey.generate(), tiles=True)
    service = Service(World(log=log, tsa=TimestampAuthority(tmp_path / "tsa")))
    with serving(service) as address:
        own = Instance(service, address, tmp_path)
        assert verify_bundle(sign_statement(STATEMENT, load_signer(own.uri)), own.trust).signer == IDENTITY
    assert service.requests == ["/api/v2/signingCert", "/timestamp", "/api/v2/log/entries"]


@needs_sigstore
def test_a_model_folder_is_signed_and_verified_like_with_any_other_key(instance: Instance, tmp_path: Path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights.bin").write_bytes(bytes(64))
    sign(model, key=instance.uri)
    assert verify(model, trust=instance.trust).signer == IDENTITY


@needs_sigstore
@pytest.mark.parametrize("path", ["/api/v2/signingCert", "/api/v1/log/entries"])
def test_a_service_that_refuses_is_said_to_be_unavailable(instance: Instance, path: str):
    instance.service.refusing.add(path)
    with pytest.raises(Unavailable, match="signing service"):
        sign_statement(STATEMENT, load_signer(instance.uri))


@needs_sigstore
def test_services_that_are_not_the_pinned_ones_produce_no_bundle(instance: Instance):
    """Whoever answers in place of the log, or of the certificate log, does not get a bundle written."""
    world = instance.service.world
    honest, world.log = world.log, SignatureLog()
    with pytest.raises(SignatureInvalid):
        sign_statement(STATEMENT, load_signer(instance.uri))
    world.log, world.certificate_log = honest, CertificateLog()
    with pytest.raises(SignatureInvalid):
        sign_statement(STATEMENT, load_signer(instance.uri))


@needs_sigstore
@pytest.mark.parametrize(
    "text", [token(IDENTITY, ISSUER, seconds=-60), token(IDENTITY, ISSUER, audience="other"), "secret.secret.secret"]
)
def test_a_token_that_is_old_or_for_others_is_refused_and_never_shown(instance: Instance, text: str):
    (instance.folder / "token").write_text(text)
    with pytest.raises(UsageError) as caught:
        sign_statement(STATEMENT, load_signer(instance.uri))
    assert text not in str(caught.value) + repr(caught.value) + repr(load_signer(instance.uri))
    assert instance.service.requests == []


@needs_sigstore
def test_a_machine_without_an_identity_of_its_own_says_so(instance: Instance, monkeypatch: pytest.MonkeyPatch):
    import sigstore.oidc

    monkeypatch.setattr(sigstore.oidc, "detect_credential", lambda: None)
    with pytest.raises(UsageError, match="no identity token"):
        sign_statement(STATEMENT, load_signer(f"sigstore:ambient,trust-config={instance.folder / 'config.json'}"))


@needs_sigstore
def test_a_configuration_that_is_missing_or_malformed_is_refused(instance: Instance):
    config = instance.folder / "config.json"
    config.write_text('{"mediaType": "application/json"}')
    with pytest.raises(Unavailable, match="malformed"):
        sign_statement(STATEMENT, load_signer(instance.uri))
    config.unlink()
    with pytest.raises(UnreadableArtifact):
        sign_statement(STATEMENT, load_signer(instance.uri))


@pytest.mark.parametrize(
    "options",
    ["", "ambient,interactive", "token-file=a,ambient", "token-file=", "token-file", "ambient=yes", "oauth",
     "token=secret", "ambient,staging,trust-config=a", "ambient,ambient"],
)  # fmt: skip
def test_options_that_name_no_identity_or_two_are_refused(options: str):
    with pytest.raises(InvalidConfig):
        load_signer(f"sigstore:{options}")


def test_a_keyless_signer_has_no_lasting_key_and_no_password():
    assert not isinstance(load_signer("sigstore:ambient"), KeyHolder)
    with pytest.raises(InvalidConfig):
        load_signer("sigstore:ambient", password=b"x")


def test_only_statements_are_signed():
    with pytest.raises(InvalidConfig, match="in-toto"):
        load_signer("sigstore:ambient").seal("text/plain", b"x")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    import sys

    monkeypatch.setitem(sys.modules, "sigstore.sign", None)
    with pytest.raises(MissingExtra) as caught:
        sign_statement(STATEMENT, load_signer("sigstore:ambient"))
    assert "holdfast[sigstore]" in caught.value.hint
