"""Signed documents: damaged as they are, where only what leaves their meaning alone may be accepted, and damaged and
then signed again by the trusted key, where nothing may crash."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from holdfast.data.commitments import commit, from_predicate, to_predicate, write_table
from holdfast.evidence import canonical
from holdfast.evidence.outboard import Outboard, build_outboard
from holdfast.evidence.provenance import Provenance, Resource, build_type
from holdfast.evidence.record import Measurement, Record
from holdfast.evidence.statement import PAYLOAD_TYPE, Statement, Subject
from holdfast.policy.read import read_policy
from holdfast.policy.summary import sign_summary, verify_summary
from holdfast.signing import generate_key, require_threshold
from holdfast.signing.datasets import open_commitment, sign_commitment
from holdfast.signing.editions import Edition
from holdfast.signing.envelope import Signature, read_envelope, write_envelope
from holdfast.signing.keys import KeySigner
from holdfast.signing.manifests import read_manifest, sign_manifest, verify_files, write_manifest
from holdfast.signing.opened import open_verified
from holdfast.signing.outboards import write_outboards
from holdfast.signing.revocation import Revocation, RevocationList, sign_revocations, verify_revocations
from holdfast.signing.rotation import KeySet, SetKey, follow, sign_key_set
from holdfast.signing.trusts import KeyTrust

from .damage import mutate_binary, mutate_tree
from .driver import Target
from .folder import Folder
from .mutations import mutate, mutate_bytes, mutate_structure
from .samples import model_sample

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
KEY = generate_key("ed25519")
Maker = Callable[[], Target]
_WORDS = (
    "files", "tensors", "name", "version", "base", "ignore", "size", "sha256", "blake3", "outboard", "offset", "length",
    "shape", "dtype", "file", "issued", "expires", "entries", "kind", "id", "reason", "effective", "key", "dataset",
    "compromise", "keys", "roots", "threshold", "previous", "pem", "roles", "names", "not_before", "not_after",
    "verifier", "timeVerified", "policy", "PASSED", "verifiedLevels", "resourceUri", "count", "bytes", "root",
    "multiset", "sources", "subject", "predicate", "predicateType", "_type", "digest", "../x", "f32", "0" * 64,
    "2026-06-01T12:00:00Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "\\ud800",
)  # fmt: skip


def _signed_again(key: KeySigner, random: Random, data: bytes) -> bytes:
    """Damage what a bundle says, and have the trusted key sign it."""
    envelope = read_envelope(data)
    change = random.choice((mutate_bytes, partial(mutate_structure, words=_WORDS)))
    payload = change(random, envelope.payload)
    signature = Signature(key.seal(PAYLOAD_TYPE, payload)[0])
    return write_envelope(replace(envelope, payload=payload, signatures=(signature,)))


def _both(name: str, good: bytes, use: Callable[[bytes], Any], key: KeySigner = KEY) -> list[Maker]:
    again = partial(_signed_again, key)
    return [
        lambda: Target(name=name, good=good, damage=mutate, use=use),
        lambda: Target(name=f"{name}, signed again", good=good, damage=again, use=use, same=False),
    ]


def _everything(path: Path, signature: bytes | None = None, *, strict: bool = True) -> Any:
    """Return all that a verified model gives: identities, files, tensors and slices of them."""
    with open_verified(path, KeyTrust(KEY.public), signature=signature, strict=strict) as opened:
        arrays = {
            (file, name): opened.get_tensor(name, file=file).reshape(-1).tolist()
            for file in opened.containers()
            for name in opened.keys(file)
            if "mask" not in name
        }
        halves = {
            (file, name): opened.get_slice(name, file=file)[: entry.shape[0] // 2].reshape(-1).tolist()
            for file in opened.containers()
            for name, entry in opened.entries(file).items()
            if entry.shape and entry.dtype != "q8_0"
        }
        return opened.manifest, dict(opened.files()), arrays, halves


def _bytes_used(path: Path, data: bytes) -> Any:
    manifest, proof = read_manifest(path, KeyTrust(KEY.public), signature=data)
    return manifest, manifest.model_id, manifest.content_id, proof.statement, _everything(path, data)


def manifest_targets() -> list[Maker]:
    """Bundles of manifests with the model on disk, and the model on disk with its bundle."""
    folder = Folder()
    path = folder.hold(model_sample())
    manifest = write_manifest(path, KEY).read_bytes()
    (path / "model.sig2").unlink()
    return [*_both("manifest", manifest, lambda data: _bytes_used(path, data)), _tree, _tree_lazy]


def _signed_model(folder: Folder) -> dict[str, bytes]:
    """Return all files of a signed model with outboards, signature included."""
    path = folder.hold(model_sample())
    whole = read_manifest(path, KeyTrust(KEY.public), signature=write_manifest(path, KEY))[0]
    (path / "model.sig2").write_bytes(sign_manifest(write_outboards(path, whole, group=1024, least=1), KEY))
    return {item.relative_to(path).as_posix(): item.read_bytes() for item in path.rglob("*") if item.is_file()}


def _tree() -> Target:
    """Files beside a signature: nothing may be missing, new, renamed or changed, but for evidence of its own."""
    folder = Folder()
    files = _signed_model(folder)

    def use(changed: dict[str, bytes]) -> Any:
        path = folder.hold(changed)
        found = read_manifest(path, KeyTrust(KEY.public))[0]
        verify_files(path, found)
        return found, _everything(path)

    return Target(name="files of a model", good=files, damage=mutate_tree, use=use)


def _tree_lazy() -> Target:
    """As above, opened so that nothing but what is asked for is read."""
    folder = Folder()
    files = _signed_model(folder)
    use = lambda changed: _everything(folder.hold(changed), strict=False)
    return Target(name="files of a model, lazy", good=files, damage=mutate_tree, use=use)


def outboard_targets() -> list[Maker]:
    """Outboards, held against their root; ranges are read through what was accepted."""
    content = np.random.default_rng(0).bytes(9_500)
    whole = build_outboard(io.BytesIO(content), group=1024)

    def use(data: bytes) -> Any:
        found = Outboard.from_bytes(data, root=whole.root, size=len(content))
        return found, found.verify_range(lambda offset, length: content[offset : offset + length], 900, 5_000)

    good = whole.to_bytes()
    return [lambda: Target(name="outboard", good=good, damage=partial(mutate_binary, front=20), use=use)]


def dataset_targets() -> list[Maker]:
    """Folders of a dataset commitment: its statement, its leaf table."""
    whole = commit([(f"k{index}", {"x": np.full(3, index), "y": index % 2}) for index in range(9)], "toy")
    folder = Folder()
    files = {"commitment.json": sign_commitment(whole.commitment, KEY), "leaves.bin": write_table(whole.table)}

    def use(changed: dict[str, bytes]) -> Any:
        found = open_commitment(folder.hold(changed), trust=KEY.public)
        return to_predicate(found.commitment), write_table(found.whole.table), found.signer

    def table(random: Random, good: dict[str, bytes]) -> dict[str, bytes]:
        return good | {"leaves.bin": mutate_binary(random, good["leaves.bin"], front=64)}

    def statement(random: Random, good: dict[str, bytes], change: Any = mutate) -> dict[str, bytes]:
        return good | {"commitment.json": change(random, good["commitment.json"])}

    again = partial(statement, change=partial(_signed_again, KEY))
    make = partial(Target, good=files, use=use)
    predicate = canonical.dumps(to_predicate(whole.commitment))
    return [
        lambda: make(name="dataset commitment", damage=statement),
        lambda: make(name="dataset commitment, signed again", damage=again, same=False),
        lambda: make(name="leaf table", damage=table),
        lambda: Target(
            name="dataset predicate",
            good=predicate,
            damage=partial(mutate_structure, words=_WORDS),
            use=lambda data: from_predicate(canonical.loads(data)),
            same=False,
        ),
    ]


def list_targets() -> list[Maker]:
    """Revocation lists and key sets."""
    entries = (
        Revocation("dataset", "d" * 64, "poisoned", NOON),
        Revocation("key", "a" * 64, "compromise", NOON - DAY),
    )
    revoked = sign_revocations(RevocationList("house", Edition(1, NOON, NOON + 30 * DAY), entries), KEY)
    other = generate_key("ed25519")
    able = SetKey(other.public, ("model", "passport"), ("llama-*",), NOON, NOON + 30 * DAY)
    first = KeySet("house", Edition(1, NOON, NOON + 30 * DAY), (KEY.public,), 1, (able,))
    second = KeySet("house", Edition(2, NOON, NOON + 30 * DAY), (KEY.public,), 1, (able,), first.digest)
    editions = sign_key_set(first, KEY), sign_key_set(second, KEY)
    pinned = require_threshold(KEY.public)

    def revocations(data: bytes) -> Any:
        found, proof = verify_revocations(data, pinned, at=NOON + DAY)
        return found, proof.statement, proof.signers

    return [
        *_both("revocation list", revoked, revocations),
        *_both("key set", editions[0], lambda data: follow([data], pinned, at=NOON + DAY)),
        *_both("key set, next edition", editions[1], lambda data: follow([editions[0], data], pinned, at=NOON + DAY)),
    ]


def record_targets() -> list[Maker]:
    """What a trusted key signed, of which the readers must stand anything: records, and steps of a lineage."""
    about = Subject("model", {"blake3": "1" * 64})
    measured = {"detection-latency": Measurement(0.25, 0.0, 0.5, 3, "s")}
    record = Record(kind="integrity-incident", subject=about, procedure={"type": "x"}, measured=measured, seed=7)
    inputs = (Resource("dataset:toy", {"blake3": "2" * 64}, "data"),)
    made = Provenance(build_type=build_type("train"), parameters={"epochs": 2}, inputs=inputs, invocation="a")
    change = partial(mutate_structure, words=_WORDS)
    make = partial(Target, damage=change, same=False)
    return [
        lambda: make(name="record", good=record.to_bytes(), use=lambda data: Record.from_bytes(data).to_bytes()),
        lambda: make(
            name="provenance",
            good=made.statement(about).to_bytes(),
            use=lambda data: Provenance.from_statement(Statement.from_bytes(data)).statement(about).to_bytes(),
        ),
    ]


def summary_targets() -> list[Maker]:
    """Verification summaries."""
    from tests.judged import scene

    folder = Folder()
    made = scene(folder.path)
    rules = made.policy('[[model]]\ntrust = ["author.pub"]\n')
    bundle = sign_summary(made.judge(rules.read_text()), made.key("verifier"), at=NOON)
    trust, policy = require_threshold(made.key("verifier").public), read_policy(rules)

    def use(data: bytes) -> Any:
        found = verify_summary(made.model, data, trust, policy, maximum_age=9 * DAY, at=NOON + DAY)
        return found.proof.statement, found.proof.signers, found.verified, found.levels

    return _both("verification summary", bundle, use, made.key("verifier"))
