"""Keyless verification, step by step: what is accepted, and that another author's verifier says the same."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import shutil
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519

from holdfast.errors import (
    DigestMismatch,
    HoldfastError,
    RecordMissing,
    SignatureInvalid,
    SignerUntrusted,
    UnreadableArtifact,
    UnsupportedVersion,
)
from holdfast.evidence.statement import Statement, Subject
from holdfast.signing import (
    sign_statement,
    verify_bundle,
)
from holdfast.signing.sigstore import TrustedRoot, parse_trusted_root
from holdfast.signing.sigstore.merkle import leaf_hash, verify_inclusion
from holdfast.signing.sigstore.tsa import verify_timestamp
from holdfast.signing.trusts.sigstore import SigstoreTrust
from tests.sigstore_parts import SignatureLog, TimestampAuthority, audit_path, b64, new_key, sign, tree_hash
from tests.sigstore_world import IDENTITY, ISSUER, Session, World

STATEMENT = Statement((Subject("m", {"sha256": "ab" * 32}),), "https://example.org/p", {"n": 1})
needs_stamps = pytest.mark.skipif(
    importlib.util.find_spec("rfc3161_client") is None or shutil.which("openssl") is None,
    reason="timestamps are verified by rfc3161-client, and made by the openssl command",
)
needs_peer = pytest.mark.skipif(importlib.util.find_spec("sigstore") is None, reason="the package sigstore is absent")


def first(folder: Path, *, stamped: bool = False) -> World:
    return World(tsa=TimestampAuthority(folder / "tsa") if stamped else None)


def tiles(folder: Path) -> World:
    log = SignatureLog("log2026.example.org", ed25519.Ed25519PrivateKey.generate(), tiles=True)
    return World(log=log, tsa=TimestampAuthority(folder / "tsa"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is verified here is verified with every socket closed."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("verification opened a network connection")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def pinned(world: World) -> TrustedRoot:
    return parse_trusted_root(json.dumps(world.trusted_root()).encode())


def trusting(world: World, **options: Any) -> SigstoreTrust:
    return SigstoreTrust(**({"issuer": ISSUER, "identity": IDENTITY, "root": pinned(world)} | options))


def edited(bundle: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    value = json.loads(bundle)
    change(value)
    return json.dumps(value).encode()


def test_every_leaf_of_every_small_tree_is_proved_by_its_path_and_by_no_other():
    leaves = [b"%d" % number for number in range(20)]
    for size in range(1, 21):
        root = tree_hash(leaves[:size])
        for place in range(size):
            path, leaf = audit_path(place, leaves[:size]), leaf_hash(leaves[place])
            verify_inclusion(leaf, place, size, path, root)
            wrong = [(leaf, place, [*path, root]), (leaf, size, path), (leaf_hash(b"x"), place, path)]
            wrong += [(leaf, place, path[:-1])] if path else []
            wrong += [(leaf, other, path) for other in range(size) if other != place]
            for value, index, hashes in wrong:
                with pytest.raises(SignatureInvalid):
                    verify_inclusion(value, index, size, hashes, root)


def test_an_entry_that_looks_like_an_inner_node_is_not_one():
    """Leaves and nodes are hashed apart (RFC 6962): two leaf hashes in a row do not pass for an entry."""
    leaves = [b"a", b"b", b"c", b"d"]
    root, forged = tree_hash(leaves), b"".join(hashlib.sha256(b"\x00" + leaf).digest() for leaf in leaves[:2])
    with pytest.raises(SignatureInvalid):
        verify_inclusion(leaf_hash(forged), 0, 2, [tree_hash(leaves[2:])], root)


@needs_stamps
@pytest.mark.parametrize("kind", ["dsse", "intoto"])
def test_a_statement_is_accepted_with_a_timestamp_which_is_then_its_time(tmp_path: Path, kind: str):
    world = first(tmp_path, stamped=True)
    session = world.login()
    session.stamped, session.kind = True, kind
    signer = verify_bundle(sign_statement(STATEMENT, session), trusting(world)).signers[0]
    assert signer.name == IDENTITY
    assert abs((signer.time - world.time).total_seconds()) < 60


def test_the_older_kind_of_entry_is_read_too(tmp_path: Path):
    world = first(tmp_path)
    session = world.login()
    session.kind = "intoto"
    assert verify_bundle(sign_statement(STATEMENT, session), trusting(world)).signer == IDENTITY


@needs_stamps
def test_logs_of_the_second_generation_need_a_timestamp(tmp_path: Path):
    world = tiles(tmp_path)
    session = world.login()
    with pytest.raises(RecordMissing, match="nothing proves when"):
        verify_bundle(sign_statement(STATEMENT, session), trusting(world))
    session.stamped = True
    for kind in ("dsse", "dsse 0.0.2"):
        session.kind = kind
        assert verify_bundle(sign_statement(STATEMENT, session), trusting(world)).signer == IDENTITY


@needs_stamps
@pytest.mark.parametrize("kind", ["dsse", "dsse 0.0.2"])
@pytest.mark.parametrize("what", ["payload", "signature", "verifier", "algorithm"])
def test_an_entry_of_the_second_generation_about_something_else_is_refused(tmp_path: Path, kind: str, what: str):
    world = tiles(tmp_path)
    session, other = world.login(), world.login()
    session.stamped, session.kind, other.kind = True, kind, kind
    bundle = json.loads(sign_statement(STATEMENT, session))
    signature = base64.b64decode(bundle["dsseEnvelope"]["signatures"][0]["sig"])
    payload = STATEMENT.to_bytes() + (b" " if what == "payload" else b"")
    told = sign(new_key(), b"x") if what == "signature" else signature
    body = (other if what == "verifier" else session).body("application/vnd.in-toto+json", payload, told)
    text = json.dumps(body).replace("SHA2_256", "SHA1") if what == "algorithm" else json.dumps(body)
    bundle["verificationMaterial"]["tlogEntries"] = [world.log.add(json.loads(text), world.time)]
    with pytest.raises((SignatureInvalid, UnsupportedVersion), match=r"about|hashes with"):
        verify_bundle(json.dumps(bundle).encode(), trusting(world))


@needs_stamps
def test_a_time_without_a_promise_is_no_time(tmp_path: Path):
    """Anybody can write ``integratedTime``; in the second generation nobody signs it."""
    world = tiles(tmp_path)
    bundle = edited(
        sign_statement(STATEMENT, world.login()),
        lambda b: b["verificationMaterial"]["tlogEntries"][0].update(integratedTime=str(int(world.time.timestamp()))),
    )
    with pytest.raises(RecordMissing, match="nothing proves when"):
        verify_bundle(bundle, trusting(world))


@needs_stamps
def test_timestamps_of_another_signature_or_authority_are_refused(tmp_path: Path):
    world, other = first(tmp_path / "a", stamped=True), first(tmp_path / "b", stamped=True)
    bundle = sign_statement(STATEMENT, world.login())
    signature = json.loads(bundle)["dsseEnvelope"]["signatures"][0]["sig"]
    for token in (world.tsa.stamp(b"another signature"), other.tsa.stamp(base64.b64decode(signature))):
        stamps = {"rfc3161Timestamps": [{"signedTimestamp": b64(token)}]}
        forged = edited(bundle, lambda b, s=stamps: b["verificationMaterial"].update(timestampVerificationData=s))
        with pytest.raises(SignatureInvalid, match="timestamp"):
            verify_bundle(forged, trusting(world))


@needs_stamps
def test_a_timestamp_after_the_certificate_ended_is_refused_although_the_log_was_in_time(tmp_path: Path):
    world = first(tmp_path, stamped=True)
    then = world.time - timedelta(hours=1)
    session = world.login(start=then)
    session.time, session.stamped = then, False
    assert verify_bundle(sign_statement(STATEMENT, session), trusting(world)).signer == IDENTITY
    session.stamped = True
    with pytest.raises(SignerUntrusted, match="expired on"):
        verify_bundle(sign_statement(STATEMENT, session), trusting(world))


@needs_stamps
def test_a_damaged_timestamp_is_refused_or_still_says_the_same(tmp_path: Path):
    """Version numbers and an algorithm's name in its envelope are bound by nothing; every other bit is."""
    world = first(tmp_path, stamped=True)
    token, root = world.tsa.stamp(b"signature"), pinned(world)
    genuine, accepted = verify_timestamp(token, b"signature", root), set()
    for place in range(len(token)):
        damaged = token[:place] + bytes([token[place] ^ 1 << place % 8]) + token[place + 1 :]
        try:
            assert verify_timestamp(damaged, b"signature", root) == genuine
        except HoldfastError:
            continue
        accepted.add(place)
    assert len(accepted) <= 12


@needs_stamps
def test_an_authority_of_timestamps_that_is_retired_is_not_believed(tmp_path: Path):
    world = first(tmp_path, stamped=True)
    session = world.login()
    session.stamped = True
    bundle, value = sign_statement(STATEMENT, session), world.trusted_root()
    value["timestampAuthorities"][0]["validFor"]["end"] = "2021-01-01T00:00:00Z"
    with pytest.raises(SignerUntrusted, match="timestamp's authority is not believed"):
        verify_bundle(bundle, trusting(world, root=parse_trusted_root(json.dumps(value).encode())))
    value["timestampAuthorities"] = []
    with pytest.raises(SignerUntrusted, match="no timestamp authority"):
        verify_bundle(bundle, trusting(world, root=parse_trusted_root(json.dumps(value).encode())))


@needs_stamps
def test_what_is_no_timestamp_at_all_is_malformed(tmp_path: Path):
    world = first(tmp_path, stamped=True)
    stamps = {"rfc3161Timestamps": [{"signedTimestamp": b64(b"0\x03\x02\x01\x00")}]}
    bundle = edited(
        sign_statement(STATEMENT, world.login()),
        lambda b: b["verificationMaterial"].update(timestampVerificationData=stamps),
    )
    with pytest.raises((UnreadableArtifact, SignatureInvalid)):
        verify_bundle(bundle, trusting(world))


def test_witnesses_may_cosign_a_checkpoint_and_nothing_depends_on_them(tmp_path: Path):
    world = first(tmp_path)
    line = f"— witness.example.com {b64(b'wxyz' + sign(new_key(), b'anything'))}\n"

    def cosign(bundle: dict[str, Any]) -> None:
        note = bundle["verificationMaterial"]["tlogEntries"][0]["inclusionProof"]["checkpoint"]
        note["envelope"] += line

    bundle = sign_statement(STATEMENT, world.login())
    assert verify_bundle(edited(bundle, cosign), trusting(world)).signer == IDENTITY


def test_a_file_signed_as_it_is(tmp_path: Path):
    world, path = first(tmp_path), tmp_path / "weights.bin"
    path.write_bytes(bytes(range(256)))
    bundle = world.login().sign_file(path)
    assert trusting(world).accept_file(bundle, path).name == IDENTITY
    path.write_bytes(bytes(range(255)))
    with pytest.raises(DigestMismatch):
        trusting(world).accept_file(bundle, path)


def test_a_bundle_over_a_file_is_no_statement_and_a_statement_no_file(tmp_path: Path):
    world, path = first(tmp_path), tmp_path / "weights.bin"
    path.write_bytes(STATEMENT.to_bytes())
    session = world.login()
    with pytest.raises(UnreadableArtifact, match="no DSSE envelope"):
        verify_bundle(session.sign_file(path), trusting(world))
    with pytest.raises(UnsupportedVersion, match="does not sign a file"):
        trusting(world).accept_file(sign_statement(STATEMENT, session), path)


def test_an_entry_about_a_file_does_not_speak_for_a_statement(tmp_path: Path):
    world, path = first(tmp_path), tmp_path / "f"
    path.write_bytes(STATEMENT.to_bytes())
    session = world.login()
    entries = json.loads(session.sign_file(path))["verificationMaterial"]["tlogEntries"]
    bundle = sign_statement(STATEMENT, session)
    forged = edited(bundle, lambda b: b["verificationMaterial"].update(tlogEntries=entries))
    with pytest.raises(UnsupportedVersion, match="hashedrekord"):
        verify_bundle(forged, trusting(world))


def peer_verdict(bundle: bytes, world: World, folder: Path) -> str:
    """Return the payload type that sigstore-python verifies, or raise what it raises."""
    from sigstore.models import Bundle
    from sigstore.models import TrustedRoot as PeerRoot
    from sigstore.verify import Verifier, policy

    path = folder / "trusted_root.json"
    path.write_text(json.dumps(world.trusted_root()))
    verifier = Verifier(trusted_root=PeerRoot.from_file(str(path)))
    return verifier.verify_dsse(Bundle.from_json(bundle), policy.Identity(identity=IDENTITY, issuer=ISSUER))[0]


@needs_peer
@needs_stamps
@pytest.mark.parametrize("make", [first, lambda folder: first(folder, stamped=True), tiles], ids=["1", "1+tsa", "2"])
def test_the_sigstore_package_accepts_the_same_bundles(tmp_path: Path, make: Callable[[Path], World]):
    world = make(tmp_path)
    session: Session = world.login()
    session.stamped = world.tsa is not None
    bundle = sign_statement(STATEMENT, session)
    assert verify_bundle(bundle, trusting(world)).signer == IDENTITY
    assert peer_verdict(bundle, world, tmp_path) == "application/vnd.in-toto+json"


@needs_peer
def test_the_sigstore_package_refuses_bundles_that_are_refused_here(tmp_path: Path):
    from sigstore.errors import Error

    world = first(tmp_path)
    strangers = [{"certificate_logs": []}, {"names": [x509.RFC822Name("eve@example.org")]}, {"purposes": ()}]
    for changes in strangers:
        bundle = sign_statement(STATEMENT, world.login(**changes))
        with pytest.raises(HoldfastError):
            verify_bundle(bundle, trusting(world))
        with pytest.raises((Error, x509.ExtensionNotFound, ValueError)):
            peer_verdict(bundle, world, tmp_path)
