"""Key sets: what their keys may sign, and how one edition hands over to the next."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from holdfast.errors import InvalidConfig, PolicyError, SignerUntrusted, UnreadableArtifact
from holdfast.evidence.statement import Statement, Subject
from holdfast.signing import generate_key, load_trust, sign, sign_statement, verify, verify_bundle
from holdfast.signing.editions import Edition
from holdfast.signing.keys import KeySigner
from holdfast.signing.rotation import KeySet, SetKey, follow, sign_key_set
from holdfast.signing.times import now
from holdfast.signing.trusts import require_threshold
from holdfast.signing.trusts.keyset import KeySetTrust

DAY = timedelta(days=1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROOTS = [generate_key("ed25519") for _ in range(3)]
SIGNER = generate_key()


def set_key(key: KeySigner = SIGNER, names: tuple[str, ...] = ("llama-*",), start: datetime = NOON) -> SetKey:
    return SetKey(key.public, ("model",), names, start, start + 100 * DAY)


def key_set(*roots: KeySigner, threshold: int = 1, keys: tuple[SetKey, ...] = (), issued: datetime = NOON) -> KeySet:
    edition = Edition(1, issued, issued + 30 * DAY)
    return KeySet("house", edition, tuple(root.public for root in roots), threshold, keys or (set_key(start=issued),))


def after(before: KeySet, *roots: KeySigner, threshold: int = 1) -> KeySet:
    edition = dataclasses.replace(before.edition, version=before.edition.version + 1)
    public = tuple(root.public for root in roots)
    return dataclasses.replace(before, edition=edition, roots=public, threshold=threshold, previous=before.digest)


def pinned(*roots: KeySigner):
    return require_threshold([root.public for root in roots])


def model_bundle(name: str = "llama-7b", predicate: str = "https://model_signing/signature/v1.0") -> bytes:
    return sign_statement(Statement((Subject(name, {"sha256": "0" * 64}),), predicate, {}), SIGNER)


def test_a_set_survives_its_bundle_and_its_keys_count() -> None:
    made = key_set(ROOTS[0])
    read = follow([sign_key_set(made, ROOTS[0])], pinned(ROOTS[0]), at=NOON + DAY)
    assert read == made
    trust = KeySetTrust(read, NOON + DAY)
    assert verify_bundle(model_bundle(), trust).signer == SIGNER.public.fingerprint


@pytest.mark.parametrize(
    ("bundle", "at", "words"),
    [
        (model_bundle("qwen-7b"), NOON + DAY, "may sign llama-\\*, not 'qwen-7b'"),
        (model_bundle(predicate="https://slsa.dev/provenance/v1"), NOON + DAY, "may sign model, not a https://slsa"),
        (model_bundle(), NOON - DAY, "from 2026-03-01T12:00:00Z to 2026-06-09T12:00:00Z only"),
        (model_bundle(), NOON + 101 * DAY, "only"),
    ],
)
def test_a_key_signs_only_its_own_things_in_its_own_time(bundle: bytes, at: datetime, words: str) -> None:
    with pytest.raises(SignerUntrusted, match=words):
        verify_bundle(bundle, KeySetTrust(key_set(ROOTS[0]), at))


def test_roots_hand_over_one_edition_at_a_time() -> None:
    one = key_set(ROOTS[0])
    two = after(one, ROOTS[1], ROOTS[2], threshold=2)
    three = after(two, ROOTS[2])
    chain = [
        sign_key_set(one, ROOTS[0]),
        sign_key_set(two, ROOTS[0], ROOTS[1], ROOTS[2]),
        sign_key_set(three, ROOTS[1], ROOTS[2]),
    ]
    assert follow(chain, pinned(ROOTS[0]), at=NOON + DAY) == three
    assert follow(chain[1:], pinned(ROOTS[1], ROOTS[2]), at=NOON + DAY) == three  # pinned later


def test_only_the_newest_edition_must_be_current() -> None:
    one = key_set(ROOTS[0])
    late = Edition(2, NOON + 60 * DAY, NOON + 90 * DAY)
    two = dataclasses.replace(after(one, ROOTS[0]), edition=late)
    chain = [sign_key_set(one, ROOTS[0]), sign_key_set(two, ROOTS[0])]
    assert follow(chain, pinned(ROOTS[0]), at=NOON + 61 * DAY).edition.version == 2
    with pytest.raises(PolicyError, match="expired 2026-03-31"):
        follow(chain[:1], pinned(ROOTS[0]), at=NOON + 61 * DAY)


def test_a_folder_of_editions_is_a_trust(tmp_path: Path) -> None:
    start = now() - DAY
    one = key_set(ROOTS[0], issued=start)
    two = after(one, ROOTS[1])
    (tmp_path / "root.pub").write_bytes(ROOTS[0].public.pem)
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "1.bundle.json").write_bytes(sign_key_set(one, ROOTS[0]))
    (tmp_path / "keys" / "2.bundle.json").write_bytes(sign_key_set(two, ROOTS[0], ROOTS[1]))
    (tmp_path / "llama-1").mkdir()
    (tmp_path / "llama-1" / "weights").write_bytes(b"w")
    sign(tmp_path / "llama-1", key=SIGNER)
    source = f"keyset:path={tmp_path / 'keys'},root={tmp_path / 'root.pub'}"
    assert verify(tmp_path / "llama-1", trust=source).signer == SIGNER.public.fingerprint
    assert hash(load_trust(source)) == hash(load_trust(source))
    (tmp_path / "keys" / "1.bundle.json").unlink()
    with pytest.raises(UnreadableArtifact, match="without gap"):
        load_trust(source)


def test_sets_that_make_no_sense_are_refused() -> None:
    for wrong in (
        lambda: key_set(ROOTS[0], threshold=2),
        lambda: key_set(ROOTS[0], ROOTS[0]),
        lambda: key_set(ROOTS[0], keys=(set_key(), set_key())),
        lambda: dataclasses.replace(key_set(ROOTS[0]), previous="a" * 64),
        lambda: SetKey(SIGNER.public, ("modle",), ("*",), NOON, NOON + DAY),
        lambda: SetKey(SIGNER.public, (), ("*",), NOON, NOON + DAY),
        lambda: SetKey(SIGNER.public, ("model",), ("*",), NOON, NOON),
    ):
        with pytest.raises(InvalidConfig):
            wrong()
