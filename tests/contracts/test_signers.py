"""Every registered signer keeps the laws of a signer, and a broken one is caught."""

from __future__ import annotations

import importlib.util
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.authority import BUILDER, authority, signer
from tests.timestamping import validity
from tests.tokens import PIN, make_token

from holdfast.errors import InvalidConfig
from holdfast.signing import generate_key, load_signer, load_trust, signers
from holdfast.signing.envelope import Material, pae
from holdfast.signing.keys import KeySigner, PublicKey, key_material, write_key
from holdfast.testing import ContractBroken, check_signer

KINDS = ("p256", "p384", "p521", "ed25519")
CHECKED = {"file", "certificate", "pkcs11", "kms", "sigstore"}


def test_every_registered_signer_is_tested() -> None:
    assert set(signers.names()) == CHECKED


def secrets_of(key: KeySigner) -> list[bytes]:
    """The private key in the spellings in which it could come out."""
    der = key.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    pem = key.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    if isinstance(key.key, ec.EllipticCurvePrivateKey):
        value = key.key.private_numbers().private_value
        return [der, pem, str(value).encode(), f"{value:x}".encode(), value.to_bytes(66, "big").lstrip(b"\0")]
    return [der, pem, key.key.private_bytes_raw()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_in_a_file(tmp_path: Path, kind: str) -> None:
    key = generate_key(kind)
    write_key(key, tmp_path / "plain.pem")
    write_key(key, tmp_path / "locked.pem", password=b"open sesame")
    check_signer(load_signer(f"file:{tmp_path}/plain.pem"), secrets=secrets_of(key))
    locked = load_signer(f"file:{tmp_path}/locked.pem", password=b"open sesame")
    check_signer(locked, secrets=[*secrets_of(key), b"open sesame"])


def test_a_certificate(tmp_path: Path) -> None:
    root = authority("root", **validity())
    leaf = signer(root, **validity())
    write_key(KeySigner(leaf.key), tmp_path / "leaf.key")
    (tmp_path / "leaf.pem").write_bytes(leaf.pem)
    (tmp_path / "root.pem").write_bytes(root.pem)
    made = load_signer(f"certificate:key={tmp_path}/leaf.key,chain={tmp_path}/leaf.pem")
    trust = load_trust(f"certificate:roots={tmp_path}/root.pem,identity={BUILDER}")
    check_signer(made, trust=trust, secrets=secrets_of(KeySigner(leaf.key)))


@pytest.mark.parametrize("curve", ["secp256r1", "secp384r1", "secp521r1"])
def test_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, curve: str) -> None:
    token = make_token(tmp_path, monkeypatch)
    token.make("key", curve, b"\x01")
    check_signer(load_signer(f"pkcs11:{token.uri('key')}"), secrets=[PIN])


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    services = pytest.importorskip("securesystemslib.signer", reason="the extra kms is not installed")
    from tests.unit.signing.test_kms import PretendService

    monkeypatch.setitem(services.SIGNER_FOR_URI_SCHEME, "pretendkms", PretendService)
    key = generate_key(kind)
    monkeypatch.setattr(PretendService, "keys", {"k": key})
    write_key(key, tmp_path / "k.pem")
    (tmp_path / "k.pub").write_bytes(key.public.pem)
    for uri in ("pretendkms:k", f"file2:{tmp_path}/k.pem"):
        check_signer(load_signer(f"kms:uri=({uri}),public={tmp_path}/k.pub"), secrets=secrets_of(key))


@pytest.mark.skipif(importlib.util.find_spec("sigstore") is None, reason="the package sigstore is absent")
def test_keyless(tmp_path: Path) -> None:
    from tests.sigstore_server import Service, serving
    from tests.sigstore_world import World
    from tests.unit.signing.test_sigstore_signer import Instance

    service = Service(World())
    with serving(service) as address:
        own = Instance(service, address, tmp_path)
        check_signer(load_signer(own.uri), trust=own.trust, secrets=[(tmp_path / "token").read_text().strip()])


@dataclass(frozen=True)
class Broken:
    """Breaks one law, by name; ECDSA's nonces are fixed only where the law says so."""

    law: str
    key: KeySigner = field(default_factory=generate_key, repr=False)
    secret: str = field(default="hidden", repr=False)
    used: list[bytes] = field(default_factory=list, repr=False, compare=False)

    def __repr__(self) -> str:
        return f"Broken({self.law}{', ' + self.secret if self.law == 'chatty' else ''})"

    def __reduce__(self) -> Any:
        if self.law == "pickled":
            return (str, (self.secret,))
        raise TypeError("it stays where it is")

    @property
    def public(self) -> PublicKey:
        return generate_key().public if self.law == "fickle" else self.key.public

    def seal(self, payload_type: str, payload: bytes) -> tuple[bytes, Material]:
        if self.law == "leaky" and payload is None:
            raise InvalidConfig(f"cannot sign with {self.secret}")
        if self.law == "anything":
            payload = payload or b""
        message = payload if self.law == "bare" else pae(payload_type, payload)
        if self.law == "untyped":
            message = pae("application/vnd.in-toto+json", payload)
        if self.law == "nameless":
            return self.key.sign(message), Material("certificate", {})
        if self.law == "list":
            return [self.key.sign(message), key_material(self.public)]  # type: ignore[return-value]
        if self.law == "mute":
            return b"", key_material(self.public)
        if self.law == "stale":
            self.used.append(self.key.sign(message))
            return self.used[0], key_material(self.public)
        return self.key.sign(message), key_material(self.public)


def test_the_unbroken_one_passes() -> None:
    check_signer(Broken("none"), secrets=["hidden"])


@pytest.mark.parametrize(
    ("law", "message"),
    [
        ("fickle", "same public key"),
        ("bare", "accepts the good bundle"),
        ("untyped", "signs the type and the bytes"),
        ("nameless", "accepts the good bundle"),
        ("list", "with a signature and its material"),
        ("mute", "and not none"),
        ("stale", "accepts the good bundle"),
        ("chatty", "its repr shows no secret"),
        ("pickled", "its pickle shows no secret"),
        ("leaky", "its traceback shows no secret"),
        ("anything", "signs bytes only"),
    ],
)
def test_each_broken_law_is_named(law: str, message: str) -> None:
    with pytest.raises(ContractBroken, match=message):
        check_signer(Broken(law), secrets=["hidden"])


def test_a_signer_is_frozen_and_a_nonce_is_used_once() -> None:
    @dataclass
    class Loose:
        def seal(self, payload_type: str, payload: bytes) -> tuple[bytes, Material]:
            raise NotImplementedError

    with pytest.raises(ContractBroken, match="frozen dataclass"):
        check_signer(Loose())
    with pytest.raises(ContractBroken, match="never share a nonce"):
        check_signer(OneNonce())


@dataclass(frozen=True)
class OneNonce:
    """Real ECDSA on P-256 with a constant nonce, as no library makes it: r is the same in every signature."""

    key: KeySigner = field(default_factory=generate_key)

    @property
    def public(self) -> PublicKey:
        return self.key.public

    def seal(self, payload_type: str, payload: bytes) -> tuple[bytes, Material]:
        import hashlib

        from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

        order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
        nonce = random.Random(0).randrange(1, order)
        r = ec.derive_private_key(nonce, ec.SECP256R1()).public_key().public_numbers().x % order
        digest = int.from_bytes(hashlib.sha256(pae(payload_type, payload)).digest(), "big")
        d = self.key.key.private_numbers().private_value  # type: ignore[union-attr]
        s = pow(nonce, -1, order) * (digest + r * d) % order
        return encode_dss_signature(r, s), key_material(self.public)
