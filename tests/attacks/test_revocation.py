"""Attacks on revocation lists, key sets and the memory of versions: each must be refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import (
    HoldfastError,
    PolicyError,
    SignatureInvalid,
    SignerUntrusted,
    UnreadableArtifact,
    UnsupportedVersion,
)
from holdfast.evidence.statement import Statement, Subject
from holdfast.signing import generate_key, sign_statement
from holdfast.signing.editions import Edition
from holdfast.signing.keys import KeySigner
from holdfast.signing.marks import Mark, Marks
from holdfast.signing.revocation import PREDICATE_TYPE, Revocation, RevocationList, sign_revocations, verify_revocations
from holdfast.signing.rotation import KeySet, SetKey, follow, sign_key_set
from holdfast.signing.trusts import require_threshold
from holdfast.signing.trusts.unrevoked import Unrevoked
from holdfast.signing.x509 import certificate_name
from tests.authority import NOW, authority, sealed, signer, trusting

DAY = timedelta(days=1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ISSUER, OTHER, OLD, NEW = (generate_key("ed25519") for _ in range(4))
LIST = RevocationList(
    "house", Edition(4, NOON, NOON + 30 * DAY), (Revocation("key", OLD.public.fingerprint, "compromise", NOON),)
)


def test_a_list_by_another_signer_is_refused() -> None:
    with pytest.raises(SignerUntrusted):
        verify_revocations(sign_revocations(LIST, OTHER), ISSUER.public, at=NOON)


def test_an_expired_a_stale_and_a_future_list_are_refused() -> None:
    data = sign_revocations(LIST, ISSUER)
    with pytest.raises(PolicyError, match="expired 2026-03-31"):
        verify_revocations(data, ISSUER.public, at=NOON + 30 * DAY)
    with pytest.raises(PolicyError, match="older than allowed"):
        verify_revocations(data, ISSUER.public, at=NOON + 8 * DAY, maximum_age=7 * DAY)
    with pytest.raises(PolicyError, match="in the future"):
        verify_revocations(data, ISSUER.public, at=NOON - DAY)


def test_an_older_list_is_refused_by_memory(tmp_path: Path) -> None:
    marks = Marks(tmp_path / "marks.json")
    marks.remember(LIST.mark)
    shorter = dataclasses.replace(LIST, edition=dataclasses.replace(LIST.edition, version=3), entries=())
    with pytest.raises(PolicyError, match="version 3; version 4 was already accepted"):
        marks.require_no_older(*shorter.mark)
    forked = dataclasses.replace(LIST, entries=())  # two lists of one version: the issuer, or a thief of his key
    with pytest.raises(PolicyError, match="with other contents"):
        marks.remember(forked.mark)


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "unknown kind": lambda p: p["entries"][0].update(kind="signer"),
    "unknown reason": lambda p: p["entries"][0].update(reason="none"),
    "extra field of an entry": lambda p: p["entries"][0].update(unless="tuesday"),
    "missing field of an entry": lambda p: p["entries"][0].pop("effective"),
    "time without a zone": lambda p: p["entries"][0].update(effective="2026-03-01T12:00:00"),
    "upper-case id": lambda p: p["entries"][0].update(id=p["entries"][0]["id"].upper()),
    "two entries on one key": lambda p: p["entries"].append(p["entries"][0] | {"reason": "retired"}),
    "no expiry": lambda p: p.pop("expires"),
    "never expires": lambda p: p.update(expires=None),
    "expires before it is issued": lambda p: p.update(expires="2026-02-01T12:00:00Z"),
    "version 0": lambda p: p.update(version=0),
    "version true": lambda p: p.update(version=True),
    "version as text": lambda p: p.update(version="4"),
    "extra field of the list": lambda p: p.update(note=""),
    "entries no list": lambda p: p.update(entries={}),
    "entry dropped under the old digest": lambda p: p["entries"].clear(),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_malformed_lists_are_refused_even_with_a_good_signature(name: str) -> None:
    predicate = json.loads(json.dumps(LIST.to_json()))
    CHANGES[name](predicate)
    subject = Subject("revocations:house", {"sha256": LIST.digest})
    data = sign_statement(Statement((subject,), PREDICATE_TYPE, predicate), ISSUER)
    with pytest.raises((UnreadableArtifact, SignatureInvalid)):
        verify_revocations(data, ISSUER.public, at=NOON)


def test_another_statement_is_no_list() -> None:
    data = sign_statement(Statement((Subject("x", {"sha256": "0" * 64}),), "https://x", LIST.to_json()), ISSUER)
    with pytest.raises(UnsupportedVersion):
        verify_revocations(data, ISSUER.public, at=NOON)


@pytest.mark.parametrize(
    "damage", [b"", b"{}", b"[]", b'{"marks":{}}', b'{"marks":{},"marks":{},"type":""}', b"\xff", b'{"type": 1']
)
def test_a_damaged_memory_is_never_an_empty_one(tmp_path: Path, damage: bytes) -> None:
    marks = Marks(tmp_path / "marks.json")
    marks.remember(("model:a", Mark(3, "a" * 64)))
    marks.path.write_bytes(damage)
    with pytest.raises(UnreadableArtifact):
        marks.require_no_older("model:a", Mark(9, "a" * 64))
    with pytest.raises(UnreadableArtifact):
        marks.remember(("model:a", Mark(9, "a" * 64)))
    assert marks.path.read_bytes() == damage


@pytest.mark.parametrize("mark", [{"version": True}, {"version": "9"}, {"digest": "x"}, {"digest": None}, {"more": 1}])
def test_a_damaged_mark_is_refused(tmp_path: Path, mark: dict[str, Any]) -> None:
    marks = Marks(tmp_path / "marks.json")
    marks.remember(("model:a", Mark(3, "a" * 64)))
    value = json.loads(marks.path.read_bytes())
    value["marks"]["model:a"] |= mark
    marks.path.write_text(json.dumps(value))
    with pytest.raises(UnreadableArtifact, match="model:a"):
        marks.read()


def key_set(root: KeySigner, version: int = 1, before: KeySet | None = None) -> KeySet:
    key = SetKey(OTHER.public, ("model",), ("*",), NOON, NOON + DAY)
    edition = Edition(version, NOON, NOON + 30 * DAY)
    return KeySet("house", edition, (root.public,), 1, (key,), "" if before is None else before.digest)


ONE = key_set(OLD)
TWO = key_set(NEW, 2, ONE)
THREE = key_set(ISSUER, 3, TWO)
FIRST, SECOND, THIRD = sign_key_set(ONE, OLD), sign_key_set(TWO, OLD, NEW), sign_key_set(THREE, NEW, ISSUER)
CHAINS = {
    "the whole chain is accepted": [FIRST, SECOND, THIRD],
    "no edition": [],
    "a removed step": [FIRST, THIRD],
    "a step signed by the new roots only": [FIRST, sign_key_set(TWO, NEW)],
    "a step signed by the old roots only": [FIRST, sign_key_set(TWO, OLD)],
    "a version left out, signed by both": [FIRST, sign_key_set(key_set(NEW, 3, ONE), OLD, NEW)],
    "a step from another past, signed by both": [FIRST, sign_key_set(key_set(NEW, 2, THREE), OLD, NEW)],
    "the same edition again": [FIRST, FIRST],
    "a step back": [FIRST, SECOND, FIRST],
    "another set of the same roots": [FIRST, sign_key_set(dataclasses.replace(TWO, name="other"), OLD, NEW)],
    "a first edition by strangers": [sign_key_set(key_set(NEW), NEW)],
    "a first edition that its own roots did not sign": [sign_key_set(key_set(NEW), OLD)],
}


@pytest.mark.parametrize("name", list(CHAINS))
def test_broken_rotations_are_refused(name: str) -> None:
    roots = require_threshold(OLD.public)
    if name.endswith("accepted"):
        assert follow(CHAINS[name], roots, at=NOON) == THREE
        return
    with pytest.raises(HoldfastError) as caught:
        follow(CHAINS[name], roots, at=NOON)
    assert caught.value.exit_code == 1


def test_a_key_set_with_unknown_fields_or_wrong_types_is_refused() -> None:
    changes: list[dict[str, Any]] = [{"threshold": 0}, {"threshold": True}, {"roots": []}, {"keys": {}}, {"more": 1}]
    changes += [{"keys": [ONE.keys[0].to_json() | {"roles": ["anything"]}]}, {"keys": ["pem"]}, {"roots": [5]}]
    for change in changes:
        predicate = ONE.to_json() | change
        statement = Statement(
            (Subject("key-set:house", {"sha256": ONE.digest}),), "https://holdfast.dev/key-set/v1", predicate
        )
        with pytest.raises((UnreadableArtifact, SignatureInvalid)):
            follow([sign_statement(statement, OLD)], require_threshold(OLD.public), at=NOON)


BUNDLES = {
    "list": (sign_revocations(LIST, ISSUER), lambda data: verify_revocations(data, ISSUER.public, at=NOON)[0]),
    "key set": (FIRST, lambda data: follow([data], require_threshold(OLD.public), at=NOON)),
}


@pytest.mark.parametrize("name", list(BUNDLES))
def test_no_flipped_byte_changes_what_is_accepted(name: str) -> None:
    whole, read = BUNDLES[name]
    good, refused = read(whole), 0
    for place in range(len(whole)):
        for mask in (1, 32):
            changed = whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :]
            try:
                assert read(changed) == good, place  # bytes that nobody signs, such as the name of a field
            except HoldfastError:
                refused += 1
    assert refused > len(whole)


@pytest.mark.parametrize("roots", ["root", "between"])
def test_a_revoked_authority_is_not_saved_by_leaving_it_out_of_the_bundle(roots: str) -> None:
    """The verifier knows the authority between by himself, so the signer need not send it."""
    root = authority("root")
    between = authority("between", root)
    bare = sealed(signer(between))
    trust = trusting(root, intermediates=(between.certificate,)) if roots == "root" else trusting(between)
    Unrevoked(trust, RevocationList("house", Edition(1, NOW, NOW + DAY), ()), NOW).accept(bare, 0)
    entry = Revocation("certificate", certificate_name(between.certificate), "compromise", NOW)
    revoked = RevocationList("house", Edition(1, NOW, NOW + DAY), (entry,))
    with pytest.raises(SignerUntrusted, match="revoked"):
        Unrevoked(trust, revoked, NOW).accept(bare, 0)
