"""Whom a keyless trust accepts, how it is written, and which trusted roots are read at all."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from holdfast.errors import InvalidConfig, MissingExtra, SignerUntrusted, UnreadableArtifact, UnsupportedVersion
from holdfast.signing import (
    KeyHolder,
    Threshold,
    generate_key,
    load_trust,
    require_threshold,
    sign_statement,
    verify_bundle,
)
from holdfast.signing.sigstore import load_root, parse_trusted_root
from tests.sigstore_parts import b64
from tests.sigstore_world import IDENTITY, ISSUER
from tests.unit.signing.test_sigstore import STATEMENT, first, trusting


def test_a_keyless_signer_and_a_key_can_both_be_demanded(tmp_path: Path):
    world, key = first(tmp_path), generate_key("ed25519")
    bundle = sign_statement(STATEMENT, world.login(), key)
    both = require_threshold([trusting(world), key.public], 2)
    assert [item.kind for item in verify_bundle(bundle, both).signers] == ["sigstore", "key"]
    with pytest.raises(SignerUntrusted):
        verify_bundle(bundle, require_threshold([trusting(world, identity="eve@example.org"), key.public], 2))
    with pytest.raises(SignerUntrusted, match="1 of 2"):
        verify_bundle(sign_statement(STATEMENT, world.login()), both)


def test_one_login_does_not_count_for_two_identities(tmp_path: Path):
    world = first(tmp_path)
    members = (trusting(world), trusting(world, identity="", domain="example.org"))
    with pytest.raises(SignerUntrusted, match="1 of 2"):
        verify_bundle(sign_statement(STATEMENT, world.login()), Threshold(members, 2))


@pytest.mark.parametrize(
    ("options", "accepted"),
    [
        ({"domain": "example.org"}, True),
        ({"domain": "EXAMPLE.org"}, True),
        ({"domain": "ample.org"}, False),
        ({"domain": "org"}, False),
        ({"identity_regex": r"[a-z]+@example\.org"}, True),
        ({"identity_regex": r"ada"}, False),
        ({"identity_regex": r"[a-z]+@example\.or"}, False),
        ({"identity_regex": r"da@example\.org"}, False),
        ({"identity": "ADA@example.org"}, False),
    ],
)
def test_identities_are_matched_whole(tmp_path: Path, options: dict[str, str], accepted: bool):
    world = first(tmp_path)
    trust = trusting(world, **({"identity": ""} | options))
    bundle = sign_statement(STATEMENT, world.login())
    if accepted:
        assert verify_bundle(bundle, trust).signer == IDENTITY
    else:
        with pytest.raises(SignerUntrusted, match="trusted is"):
            verify_bundle(bundle, trust)


WORKFLOW = "https://github.com/org/repo/.github/workflows/sign.yml@refs/heads/main"


def test_workflows_are_named_by_their_uri_and_have_no_domain(tmp_path: Path):
    world = first(tmp_path)
    bundle = sign_statement(STATEMENT, world.login(names=[x509.UniformResourceIdentifier(WORKFLOW)]))
    assert verify_bundle(bundle, trusting(world, identity=WORKFLOW)).signer == WORKFLOW
    for options in ({"domain": "github.com"}, {"domain": "refs/heads/main"}, {"identity": WORKFLOW[:-5]}):
        with pytest.raises(SignerUntrusted):
            verify_bundle(bundle, trusting(world, **({"identity": ""} | options)))


@pytest.mark.parametrize(
    "options",
    [
        {"issuer": ""},
        {"identity": ""},
        {"domain": "example.org"},
        {"identity": "", "identity_regex": "("},
    ],
)
def test_a_trust_without_issuer_or_with_no_or_two_names_is_refused(tmp_path: Path, options: dict[str, str]):
    with pytest.raises(InvalidConfig):
        trusting(first(tmp_path), **options)


def test_a_trust_is_written_on_one_line(tmp_path: Path):
    world, path = first(tmp_path), tmp_path / "root.json"
    path.write_text(json.dumps(world.trusted_root()))
    trust = load_trust(f"sigstore:identity={IDENTITY},issuer={ISSUER},root={path}")
    assert trust == trusting(world)
    assert hash(trust) == hash(trusting(world))
    for missing in (f"identity={IDENTITY},root={path}", f"identity={IDENTITY},issuer={ISSUER}", f"issuer={ISSUER}"):
        with pytest.raises(InvalidConfig):
            load_trust(f"sigstore:{missing}")


def test_a_public_root_without_the_package_that_brings_it_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra) as caught:
        load_root("public-good")
    assert "holdfast[sigstore]" in caught.value.hint


def test_a_keyless_session_is_no_lasting_key(tmp_path: Path):
    assert not isinstance(first(tmp_path).login(), KeyHolder)


ROOT_EDITS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "media type": lambda r: r.update(mediaType="application/json"),
    "no authority": lambda r: r.update(certificateAuthorities=[]),
    "no signature log": lambda r: r.pop("tlogs"),
    "no certificate log": lambda r: r.update(ctlogs=[]),
    "a log id of another key": lambda r: r["tlogs"][0]["logId"].update(keyId=b64(bytes(32))),
    "a key of another kind": lambda r: r["tlogs"][0]["publicKey"].update(keyDetails="PKIX_ED25519"),
    "no key": lambda r: r["tlogs"][0]["publicKey"].update(rawBytes=b64(b"key")),
    "another hash": lambda r: r["tlogs"][0].update(hashAlgorithm="SHA2_512"),
    "no validity": lambda r: r["tlogs"][0]["publicKey"].pop("validFor"),
    "no start": lambda r: r["certificateAuthorities"][0]["validFor"].pop("start"),
    "no such day": lambda r: r["certificateAuthorities"][0]["validFor"].update(start="2026-02-30T00:00:00Z"),
    "a local time": lambda r: r["certificateAuthorities"][0]["validFor"].update(start="2026-02-03T00:00:00+02:00"),
    "the same log twice": lambda r: r["tlogs"].append(r["tlogs"][0]),
    "a chain out of order": lambda r: r["certificateAuthorities"][0]["certChain"]["certificates"].reverse(),
    "a chain without its root": lambda r: r["certificateAuthorities"][0]["certChain"]["certificates"].pop(),
    "no address": lambda r: r["tlogs"][0].update(baseUrl="rekor"),
}


@pytest.mark.parametrize("what", ROOT_EDITS)
def test_a_trusted_root_is_refused(tmp_path: Path, what: str):
    value = first(tmp_path).trusted_root()
    ROOT_EDITS[what](value)
    with pytest.raises((UnreadableArtifact, UnsupportedVersion)):
        parse_trusted_root(json.dumps(value).encode())
