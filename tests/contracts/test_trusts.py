"""Every registered trust keeps the laws of a trust, and a broken one is caught."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.authority import BUILDER, authority, signer
from tests.timestamping import CLOCK, open_authority, validity

from holdfast.errors import SignatureInvalid, SignerUntrusted
from holdfast.evidence.statement import Statement, Subject
from holdfast.signing import (
    Identity,
    Threshold,
    Trust,
    add_signature,
    generate_key,
    load_trust,
    require_threshold,
    sign_statement,
    trusts,
)
from holdfast.signing.editions import Edition
from holdfast.signing.envelope import Envelope, read_envelope, write_envelope
from holdfast.signing.keys import KeySigner
from holdfast.signing.revocation import Revocation, RevocationList
from holdfast.signing.rotation import KeySet, SetKey, sign_key_set
from holdfast.signing.trusts import KeyTrust
from holdfast.signing.trusts.unrevoked import Unrevoked
from holdfast.testing import ContractBroken, check_trust

NAME = "https://holdfast.dev/model/v1"
STATEMENT = Statement((Subject("llama-7b", {"sha256": "0" * 64}),), NAME, {"a": 1})
CHECKED = {"key", "certificate", "sigstore", "keyset", "timestamped"}
KINDS = ("p256", "p384", "p521", "ed25519")
MONTH = timedelta(days=30)


def test_every_registered_trust_is_tested() -> None:
    assert set(trusts.names()) == CHECKED


@pytest.mark.parametrize("kind", KINDS)
def test_a_key(tmp_path: Path, kind: str) -> None:
    key = generate_key(kind)
    (tmp_path / "k.pub").write_bytes(key.public.pem)
    for trust in (load_trust(f"key:{tmp_path}/k.pub"), load_trust(key.public)):
        check_trust(trust, sign_statement(STATEMENT, key))
    second = sign_statement(STATEMENT, generate_key(), key)
    check_trust(require_threshold(key.public), second)  # somebody else's bundle, to which it was added


def certified(folder: Path) -> tuple[str, bytes]:
    """Return a specification of trust in a certificate, and a bundle for it."""
    from holdfast.signing.signers.certificate import CertificateSigner

    root = authority("root", **validity())
    leaf = signer(root, **validity())
    (folder / "root.pem").write_bytes(root.pem)
    bundle = sign_statement(STATEMENT, CertificateSigner(KeySigner(leaf.key), (leaf.certificate,)))
    return f"certificate:roots={folder}/root.pem,identity={BUILDER}", bundle


def test_a_certificate(tmp_path: Path) -> None:
    specification, bundle = certified(tmp_path)
    check_trust(load_trust(specification), bundle)


def test_keyless(tmp_path: Path) -> None:
    import json

    from tests.sigstore_world import IDENTITY, ISSUER, World

    world = World()
    (tmp_path / "root.json").write_text(json.dumps(world.trusted_root()))
    bundle = sign_statement(STATEMENT, world.login())
    check_trust(load_trust(f"sigstore:issuer={ISSUER},identity={IDENTITY},root={tmp_path}/root.json"), bundle)


def test_a_key_set(tmp_path: Path) -> None:
    root, member, other = (generate_key("ed25519") for _ in range(3))
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    keys = tuple(SetKey(key.public, ("model",), ("llama-*",), start, start + MONTH) for key in (other, member))
    listing = KeySet("house", Edition(1, start, start + MONTH), (root.public,), 1, keys)
    (tmp_path / "keys.json").write_bytes(sign_key_set(listing, root))
    (tmp_path / "root.pub").write_bytes(root.public.pem)
    trust = load_trust(f"keyset:path={tmp_path}/keys.json,root={tmp_path}/root.pub")
    check_trust(trust, sign_statement(STATEMENT, member))


@pytest.mark.parametrize("inner", ["key", "certificate"])
def test_a_timestamp(tmp_path: Path, inner: str) -> None:
    from holdfast.signing.timestamps import add_timestamp

    tsa = open_authority(tmp_path / "tsa")
    (tmp_path / "tsa.pem").write_bytes(tsa.root.pem)
    specification, bundle = certified(tmp_path)
    if inner == "key":
        key = generate_key()
        (tmp_path / "k.pub").write_bytes(key.public.pem)
        specification, bundle = f"key:{tmp_path}/k.pub", sign_statement(STATEMENT, key)
    stamped = add_timestamp(bundle, tsa.stamp(read_envelope(bundle).signatures[0].value))
    later = (CLOCK + timedelta(hours=12)).isoformat().replace("+00:00", "Z")
    trust = load_trust(f"timestamped:trust=({specification}),tsa-roots={tmp_path}/tsa.pem,at={later}")
    check_trust(trust, stamped)
    with pytest.raises(ContractBroken, match="no timestamp"):
        check_trust(trust, bundle)


def test_a_list_of_revocations_that_names_others() -> None:
    key, start = generate_key(), datetime(2026, 1, 1, tzinfo=UTC)
    entry = Revocation("key", "a" * 64, "compromise", start)
    listing = RevocationList("house", Edition(1, start, start + MONTH), (entry,))
    check_trust(Unrevoked(KeyTrust(key.public), listing), sign_statement(STATEMENT, key))


def test_thresholds() -> None:
    keys = [generate_key(kind) for kind in KINDS]
    bundle = add_signature(sign_statement(STATEMENT, keys[0]), *keys[1:])
    publics = [key.public for key in keys]
    check_trust(require_threshold(publics), bundle)
    check_trust(require_threshold(publics, 2), bundle)
    check_trust(require_threshold([publics[3], generate_key().public], 1), bundle)


@dataclass(frozen=True)
class Broken:
    """Trusts a key, but for one law, by name."""

    law: str
    key: KeySigner

    def claims(self, envelope: Envelope, index: int) -> bool:
        if self.law == "modest":
            return False
        if self.law == "verdict":
            return KeyTrust(self.key.public).claims(envelope, index) and bool(envelope.signatures[index].value)
        if self.law == "vague":
            return 1  # type: ignore[return-value]
        return KeyTrust(self.key.public).claims(envelope, index)

    def accept(self, envelope: Envelope, index: int) -> Identity:
        if self.law == "stern":
            raise SignerUntrusted("nobody is good enough")
        if self.law == "gullible":
            return Identity("key", "somebody", "a" * 64)
        if self.law == "untyped":
            envelope = replace(envelope, payload_type="application/vnd.in-toto+json")
        if self.law == "partial":
            envelope = replace(envelope, payload=envelope.payload.rstrip())
        if self.law == "padded":
            longest = len(sign_one(self.key).signatures[0].value)
            envelope = replace(
                envelope, signatures=tuple(replace(s, value=s.value[:longest]) for s in envelope.signatures)
            )
        try:
            found = KeyTrust(self.key.public).accept(envelope, index)
        except SignatureInvalid as error:
            if self.law == "crash":
                raise ValueError("not one of ours") from error
            raise
        if self.law == "nobody":
            return replace(found, name="")
        if self.law == "moody":
            return replace(found, name=generate_key().public.fingerprint)
        return replace(found, fingerprint="?") if self.law == "nameless" else found


def sign_one(key: KeySigner) -> Envelope:
    return read_envelope(sign_statement(STATEMENT, key))


def test_the_unbroken_one_passes() -> None:
    key = generate_key("ed25519")
    trust: Trust = Broken("none", key)
    check_trust(trust, sign_statement(STATEMENT, key))


@pytest.mark.parametrize(
    ("law", "message"),
    [
        ("modest", "accepts the good bundle, and not: 0 of 1"),
        ("vague", "claims a signature of the bundle"),
        ("verdict", "claims without looking"),
        ("stern", "accepts the good bundle, and not: nobody is good enough"),
        ("gullible", "refuses a payload that is changed"),
        ("untyped", "refuses another type"),
        ("partial", "refuses a payload that is longer"),
        ("padded", "refuses a signature that is longer"),
        ("crash", "not with ValueError"),
        ("nobody", "of what kind the signer is"),
        ("moody", "same answer"),
        ("nameless", "64 hex digits"),
    ],
)
def test_each_broken_law_is_named(law: str, message: str) -> None:
    key = generate_key("ed25519")
    with pytest.raises(ContractBroken, match=message):
        check_trust(Broken(law, key), sign_statement(STATEMENT, key))


def test_a_trust_is_frozen_and_the_bundle_must_be_one_it_accepts() -> None:
    key = generate_key()

    @dataclass
    class Loose:
        key: object

    with pytest.raises(ContractBroken, match="frozen dataclass"):
        check_trust(Loose(key.public), sign_statement(STATEMENT, key))  # type: ignore[arg-type]
    with pytest.raises(ContractBroken, match="accepts the good bundle"):
        check_trust(Threshold((KeyTrust(key.public),)), sign_statement(STATEMENT, generate_key()))
    with pytest.raises(ContractBroken, match="accepts the good bundle"):
        check_trust(KeyTrust(key.public), write_envelope(replace(sign_one(key), payload=b"{}")))
