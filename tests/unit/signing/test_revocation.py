"""Revocation lists: what they say, how they age, and how the next edition follows from the last."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from holdfast.errors import InvalidConfig, PolicyError, SignerUntrusted, UnreadableArtifact
from holdfast.evidence.statement import Statement, Subject
from holdfast.signing import generate_key, sign_statement, verify_bundle
from holdfast.signing.editions import Edition
from holdfast.signing.marks import Mark, Marks
from holdfast.signing.revocation import Revocation, RevocationList, sign_revocations, verify_revocations
from holdfast.signing.times import read_span, read_time, write_time
from holdfast.signing.trusts import KeyTrust, Threshold
from holdfast.signing.trusts.unrevoked import Unrevoked, certificate_names
from holdfast.signing.x509 import certificate_name
from tests.authority import BUILDER, NOW, authority, sealed, signer, trusting

DAY = timedelta(days=1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ISSUER = generate_key("ed25519")


def listing(*entries: Revocation, version: int = 1, issued: datetime = NOON) -> RevocationList:
    return RevocationList("house", Edition(version, issued, issued + 30 * DAY), tuple(sorted(entries)))


def entry(kind: str = "key", name: str = "a" * 64, reason: str = "retired", effective: datetime = NOON) -> Revocation:
    return Revocation(kind, name, reason, effective)


def test_a_list_survives_its_bundle() -> None:
    made = listing(entry(), entry("certificate", "b" * 64 + "/77"), entry("dataset", "c" * 64, "poisoned"))
    read, proof = verify_revocations(sign_revocations(made, ISSUER), ISSUER.public, at=NOON + DAY)
    assert read == made
    assert proof.signer == ISSUER.public.fingerprint
    assert read.find("dataset", "c" * 64).reason == "poisoned"
    assert read.find("model", "c" * 64) is None


@pytest.mark.parametrize(
    ("reason", "signed", "at", "stands"),
    [
        ("retired", None, NOON + DAY, True),  # nothing proves that it was signed before
        ("retired", NOON - DAY, NOON + DAY, False),
        ("retired", NOON, NOON + DAY, True),  # the very second counts as revoked
        ("retired", NOON + timedelta(hours=1), NOON + DAY, True),
        ("retired", None, NOON - DAY, False),  # it comes into force later
        ("compromise", None, NOON + DAY, True),
        ("compromise", NOON - DAY, NOON + DAY, True),
        ("compromise", NOON - DAY, NOON - 2 * DAY, True),
    ],
)
def test_when_a_revoked_key_still_counts(reason: str, signed: datetime | None, at: datetime, stands: bool) -> None:
    found = listing(entry(reason=reason)).against("key", "a" * 64, signed=signed, at=at)
    assert (found is not None) == stands


def test_a_thing_is_revoked_whenever_it_was_signed() -> None:
    bad = listing(entry("model", reason="unsafe"))
    assert bad.against("model", "a" * 64, signed=NOON - DAY, at=NOON + DAY) is not None
    assert bad.against("model", "a" * 64, signed=NOON - DAY, at=NOON - DAY) is None


def test_the_next_edition_keeps_and_adds() -> None:
    first = listing(entry())
    second = first.next(entry("model", "d" * 64, "unsafe"), issued=NOON + DAY, lifetime=7 * DAY)
    assert [item.kind for item in second.entries] == ["key", "model"]
    assert second.edition == Edition(2, NOON + DAY, NOON + 8 * DAY)
    third = second.next(entry(reason="compromise"), issued=NOON + 2 * DAY, lifetime=DAY)
    assert third.find("key", "a" * 64).reason == "compromise"
    with pytest.raises(InvalidConfig, match="stays so"):
        third.next(entry(reason="retired"), lifetime=DAY)


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        ("person", "a" * 64, "retired"),
        ("key", "A" * 64, "retired"),
        ("key", "a" * 63, "retired"),
        ("certificate", "a" * 64, "retired"),
        ("certificate", "a" * 64 + "/0", "retired"),
        ("key", "a" * 64, "mood"),
    ],
)
def test_entries_that_name_nothing_are_refused(kind: str, name: str, reason: str) -> None:
    with pytest.raises(InvalidConfig):
        entry(kind, name, reason)


def test_lists_are_sorted_and_name_a_thing_once() -> None:
    with pytest.raises(InvalidConfig, match="twice"):
        RevocationList("house", Edition(1, NOON, NOON + DAY), (entry(), entry(reason="compromise")))


def test_trust_less_a_list_names_the_entry() -> None:
    key = generate_key()
    bundle = sign_statement(Statement((Subject("m", {"sha256": "0" * 64}),), "https://example.org/x", {}), key)
    fine = Threshold((Unrevoked(KeyTrust(key.public), listing(), NOON),))
    assert verify_bundle(bundle, fine).signer == key.public.fingerprint
    bad = listing(entry(name=key.public.fingerprint, reason="compromise"))
    with pytest.raises(SignerUntrusted, match=f"{key.public.fingerprint[:16]} is revoked .compromise. from 2026-03-01"):
        verify_bundle(bundle, Threshold((Unrevoked(KeyTrust(key.public), bad, NOON),)))


def test_every_certificate_that_came_along_is_looked_up() -> None:
    root = authority("root")
    between = authority("between", root)
    leaf = signer(between)
    envelope = sealed(leaf, between)
    names = [certificate_name(item.certificate) for item in (leaf, between)]
    assert list(certificate_names(envelope)) == names
    assert Unrevoked(trusting(root), listing(), NOW).accept(envelope, 0).name == BUILDER
    for name in names:
        bad = listing(entry("certificate", name, "superseded", NOW - DAY))
        with pytest.raises(SignerUntrusted, match=r"certificate .* is revoked"):
            Unrevoked(trusting(root), bad, NOW).accept(envelope, 0)
    key = Unrevoked(trusting(root), listing(), NOW).accept(envelope, 0).fingerprint
    with pytest.raises(SignerUntrusted, match=r"key .* is revoked"):
        Unrevoked(trusting(root), listing(entry(name=key, reason="compromise")), NOW).accept(envelope, 0)


def test_times_have_one_spelling() -> None:
    assert read_time(write_time(NOON)) == NOON
    assert write_time(NOON) == "2026-03-01T12:00:00Z"
    for wrong in (
        "2026-03-01T12:00:00+00:00",
        "2026-03-01 12:00:00Z",
        "2026-02-30T12:00:00Z",
        5,
        "2026-03-01T12:00:0٠Z",
    ):
        with pytest.raises(UnreadableArtifact):
            read_time(wrong)
    for wrong_time in (datetime(2026, 3, 1), NOON.replace(microsecond=1)):
        with pytest.raises(InvalidConfig):
            write_time(wrong_time)
    assert read_span("90d") == 90 * DAY
    for span in ("0d", "-1d", "1y", "d", 5):
        with pytest.raises(InvalidConfig):
            read_span(span)


def test_marks_only_rise(tmp_path: Path) -> None:
    marks = Marks(tmp_path / "deep" / "marks.json")
    assert marks.read() == {}
    marks.remember(("model:a", Mark(3, "a" * 64)))
    assert "first one seen" in marks.require_no_older("model:b", Mark(0, "b" * 64))
    assert "none higher than 3" in marks.require_no_older("model:a", Mark(4, "b" * 64))
    marks.require_no_older("model:a", Mark(3, "a" * 64))
    with pytest.raises(PolicyError, match="other contents"):
        marks.require_no_older("model:a", Mark(3, "b" * 64))
    with pytest.raises(PolicyError, match="version 3 was already accepted"):
        marks.remember(("model:new", Mark(1, "c" * 64)), ("model:a", Mark(2, "a" * 64)))
    assert set(marks.read()) == {"model:a"}  # all or none


def test_checks_at_once_lose_no_mark(tmp_path: Path) -> None:
    marks = Marks(tmp_path / "marks.json")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: marks.remember((f"model:{n}", Mark(n, "a" * 64))), range(40)))
    assert {name: mark.version for name, mark in marks.read().items()} == {f"model:{n}": n for n in range(40)}
