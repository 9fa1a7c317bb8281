"""Keys in services, through securesystemslib's own table of schemes; no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import InvalidConfig, SignatureInvalid, Unavailable, UnknownName
from holdfast.evidence.statement import Statement, Subject
from holdfast.signing import generate_key, load_signer, sign_statement, verify_bundle
from holdfast.signing.keys import KeySigner, write_key

services = pytest.importorskip("securesystemslib.signer", reason="the extra kms is not installed")
STATEMENT = Statement((Subject("model", {"sha256": "0" * 64}),), "https://example.org/kind", {"a": 1})


class PretendService(services.Signer):
    """A key service with a real key, registered as any other would be."""

    keys: dict[str, KeySigner] = {}  # noqa: RUF012  the service's own memory
    answer: Any = None

    def __init__(self, key: KeySigner, public: Any) -> None:
        self._key, self._public = key, public

    @property
    def public_key(self) -> Any:
        return self._public

    @classmethod
    def from_priv_key_uri(cls, uri: str, public_key: Any, secrets_handler: Any = None) -> PretendService:
        name = uri.partition(":")[2]
        if name.startswith("locked/") and secrets_handler("PIN") != "open sesame":
            raise ValueError("wrong PIN")
        if name not in cls.keys:
            raise OSError(f"no key {name}")
        return cls(cls.keys[name], public_key)

    def sign(self, payload: bytes) -> Any:
        value = self.answer(payload) if self.answer else self._key.sign(payload).hex()
        return services.Signature(self._public.keyid, value)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> type[PretendService]:
    monkeypatch.setitem(services.SIGNER_FOR_URI_SCHEME, "pretendkms", PretendService)
    monkeypatch.setattr(PretendService, "keys", {})
    monkeypatch.setattr(PretendService, "answer", None)
    return PretendService


@pytest.mark.parametrize("kind", ["p256", "p384", "p521", "ed25519"])
def test_a_service_signs_what_the_given_key_verifies(service: type[PretendService], tmp_path: Path, kind: str):
    key = generate_key(kind)
    service.keys["projects/p/keys/k"] = key
    (tmp_path / "k.pub").write_bytes(key.public.pem)
    signer = load_signer(f"kms:uri=(pretendkms:projects/p/keys/k),public={tmp_path}/k.pub")
    bundle = sign_statement(STATEMENT, signer)
    assert verify_bundle(bundle, key.public).statement == STATEMENT
    assert verify_bundle(bundle, key.public).signer == key.public.fingerprint


@pytest.mark.parametrize("kind", ["p256", "p384", "p521", "ed25519"])
def test_the_librarys_own_file_scheme(tmp_path: Path, kind: str):
    key = generate_key(kind)
    write_key(key, tmp_path / "k.pem")
    (tmp_path / "k.pub").write_bytes(key.public.pem)
    signer = load_signer(f"kms:uri=(file2:{tmp_path}/k.pem),public={tmp_path}/k.pub")
    assert verify_bundle(sign_statement(STATEMENT, signer), key.public).statement == STATEMENT


def test_a_service_that_answers_with_something_else_is_found_out(service: type[PretendService], tmp_path: Path):
    key, other = generate_key(), generate_key()
    service.keys["k"] = key
    (tmp_path / "k.pub").write_bytes(key.public.pem)
    signer = load_signer(f"kms:uri=(pretendkms:k),public={tmp_path}/k.pub")
    for answer, error in [
        (lambda payload: other.sign(payload).hex(), SignatureInvalid),
        (lambda payload: key.sign(payload + b"!").hex(), SignatureInvalid),
        (lambda _: "", SignatureInvalid),
        (lambda _: "not hex", Unavailable),
    ]:
        service.answer = staticmethod(answer)
        with pytest.raises(error):
            signer.seal("type", b"payload")


def test_another_public_key_than_the_services(service: type[PretendService], tmp_path: Path):
    service.keys["k"] = generate_key()
    (tmp_path / "k.pub").write_bytes(generate_key().public.pem)
    with pytest.raises(SignatureInvalid):
        sign_statement(STATEMENT, load_signer(f"kms:uri=(pretendkms:k),public={tmp_path}/k.pub"))


def test_a_secret_is_asked_for_and_never_shown(service: type[PretendService], tmp_path: Path):
    service.keys["locked/k"] = generate_key()
    (tmp_path / "k.pub").write_bytes(service.keys["locked/k"].public.pem)
    uri = f"kms:uri=(pretendkms:locked/k),public={tmp_path}/k.pub"
    assert "sesame" not in repr(load_signer(uri, password=b"open sesame"))
    with pytest.raises(InvalidConfig, match="asks for its PIN"):
        load_signer(uri)
    with pytest.raises(Unavailable, match="wrong PIN") as caught:
        load_signer(uri, password=b"guess")
    assert "guess" not in str(caught.value)


def test_calls_that_cannot_work(service: type[PretendService], tmp_path: Path):
    (tmp_path / "k.pub").write_bytes(generate_key().public.pem)
    for rest, error, words in [
        ("uri=(pretendkms:k)", InvalidConfig, "needs uri and public"),
        (f"uri=(pretendkms:k),public={tmp_path}/k.pub,region=x", InvalidConfig, "needs uri and public"),
        (f"uri=(nokms:k),public={tmp_path}/k.pub", UnknownName, "unknown key service 'nokms'"),
        (f"uri=(gnupg:k),public={tmp_path}/k.pub", InvalidConfig, "cannot sign models"),
        (f"uri=(hsm:2?label=YubiKey),public={tmp_path}/k.pub", InvalidConfig, "environment variable"),
        (f"uri=(pretendkms:missing),public={tmp_path}/k.pub", Unavailable, "no key missing"),
        (f"uri=(file2:{tmp_path}/missing.pem),public={tmp_path}/k.pub", Unavailable, "does not answer"),
    ]:
        with pytest.raises(error, match=words):
            load_signer(f"kms:{rest}")


@pytest.mark.parametrize("uri", ["awskms:arn/k", "gcpkms:projects/k", "azurekms:vault/k", "hv:k"])
def test_the_published_schemes_are_known_and_name_what_they_miss(tmp_path: Path, uri: str):
    packages = {"awskms": "boto3", "gcpkms": "google.cloud.kms", "azurekms": "azure.identity", "hv": "hvac"}
    try:
        __import__(packages[uri.partition(":")[0]])
    except ImportError:
        (tmp_path / "k.pub").write_bytes(generate_key().public.pem)
        with pytest.raises(Unavailable):
            load_signer(f"kms:uri=({uri}),public={tmp_path}/k.pub")
    else:
        pytest.skip("its package is installed, and asking it would need the network")
