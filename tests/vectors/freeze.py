"""Freezes one example of every signed document that this version writes; later versions must go on reading it.

Run ``python -m tests.vectors.freeze 0.2.0`` in the root of the checkout when a version is released. The private keys
are made for this, used once and thrown away, so nobody can make more such examples, and no folder is written twice.
"""

from __future__ import annotations

import hashlib
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from holdfast import __version__
from holdfast.data.commitments import commit
from holdfast.evidence.provenance import Provenance, Resource, build_type
from holdfast.evidence.statement import Subject
from holdfast.policy import judge, sign_summary
from holdfast.signing import Serialization, generate_key, sign_artifact, sign_statement, write_passport
from holdfast.signing.datasets import write_commitment
from holdfast.signing.editions import Edition
from holdfast.signing.keys import KeySigner
from holdfast.signing.lineage import identify, origin, write_step
from holdfast.signing.manifests import read_manifest, sign_manifest, write_manifest
from holdfast.signing.outboards import write_outboards
from holdfast.signing.resident.incident import Incident
from holdfast.signing.revocation import Revocation, RevocationList, sign_revocations
from holdfast.signing.rotation import KeySet, SetKey, sign_key_set

HERE = Path(__file__).parent
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
SUMS = "SHA256SUMS"
KINDS = {"author": "p256", "second": "ed25519", "root": "p384", "verifier": "p521"}


def freeze(folder: Path) -> None:
    """Write everything below a new ``folder``."""
    folder.mkdir()
    keys = {name: generate_key(kind) for name, kind in KINDS.items()}
    (folder / "keys").mkdir()
    for name, key in keys.items():
        (folder / "keys" / f"{name}.pub").write_bytes(key.public.pem)
    expected = {
        "model": _model(folder, keys["author"], keys["second"]),
        "dataset": _dataset(folder, keys["second"]),
    }
    _lineage(folder, keys["author"], expected["dataset"]["digest"])
    _lists(folder, keys["root"], keys["author"])
    _summary(folder, keys["verifier"])
    _passport_and_incident(folder, keys["author"], expected["model"]["model_id"])
    (folder / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")
    (folder / SUMS).write_text(sums(folder))


def sums(folder: Path) -> str:
    """Return one line per file of ``folder``, as ``sha256sum`` writes it."""
    files = sorted(item for item in folder.rglob("*") if item.is_file() and item != folder / SUMS)
    lines = (
        f"{hashlib.sha256(item.read_bytes()).hexdigest()}  {item.relative_to(folder).as_posix()}" for item in files
    )
    return "\n".join(lines) + "\n"


def _model(folder: Path, author: KeySigner, second: KeySigner) -> dict[str, str]:
    """An OpenSSF signature by files, one by shards with two signers, a manifest and an outboard."""
    model = folder / "model"
    (model / "sub").mkdir(parents=True)
    weights = {
        "w": torch.arange(1200.0).reshape(30, 40),
        "b": torch.arange(6).to(torch.int8),
        "empty": torch.zeros(0, 2),
    }
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    (model / "config.json").write_text('{"model_type": "toy"}\n')
    (model / "sub" / "ü.txt").write_text("grüß\n")
    found = read_manifest(model, author.public, signature=write_manifest(model, author, version=3))[0]
    found = write_outboards(model, found, group=1024, least=4096)
    (model / "model.sig2").write_bytes(sign_manifest(found, author))
    sign_artifact(model, author)
    sign_artifact(model, second, author, out=folder / "shards.sig", how=Serialization(method="shards", shard_size=2048))
    sign_artifact(model, second, out=folder / "blake3.sig", how=Serialization(hash="blake3"))
    return {"model_id": found.model_id, "content_id": found.content_id, "outboard": found.files[1].outboard}


def _dataset(folder: Path, signer: KeySigner) -> dict[str, str]:
    samples = [(f"k{place}", {"sample": np.full(4, place, np.uint8), "label": place % 3}) for place in range(7)]
    whole = commit(samples, "toy")
    write_commitment(folder / "dataset", whole, signer)
    return {"digest": whole.commitment.digest, "root": whole.commitment.root}


def _lineage(folder: Path, signer: KeySigner, dataset: str) -> None:
    """A dataset to start from, and the training that made the model of it."""
    place = folder / "model" / "lineage"
    place.mkdir()
    data = Subject("dataset:toy", {"blake3": dataset})
    stated = origin(data, kind="dataset", uri="https://example.org/toy", licence="CC0-1.0")
    (place / "toy.bundle.json").write_bytes(sign_statement(stated, signer))
    times = {"started": "2026-06-01T10:00:00Z", "finished": "2026-06-01T11:00:00Z"}
    inputs = (Resource("dataset:toy", {"blake3": dataset}, "data"),)
    made = Provenance(
        build_type=build_type("train"),
        parameters={"epochs": 2, "seed": "7"},
        inputs=inputs,
        version={"holdfast": __version__},
        **times,
    )
    write_step(folder / "model", made, identify(folder / "model"), signer)


def _lists(folder: Path, root: KeySigner, author: KeySigner) -> None:
    entries = (
        Revocation("dataset", "d" * 64, "poisoned", NOON),
        Revocation("key", "a" * 64, "compromise", NOON - DAY),
    )
    edition = Edition(1, NOON, NOON + 30 * DAY)
    (folder / "revoked.bundle.json").write_bytes(sign_revocations(RevocationList("house", edition, entries), root))
    able = SetKey(author.public, ("model", "passport"), ("*",), NOON, NOON + 30 * DAY)
    first = KeySet("house", edition, (root.public,), 1, (able,))
    second = KeySet("house", Edition(2, NOON, NOON + 60 * DAY), (root.public,), 1, (able,), first.digest)
    (folder / "keyset").mkdir()
    for number, item in enumerate((first, second), 1):
        (folder / "keyset" / f"{number}.bundle.json").write_bytes(sign_key_set(item, root))


def _summary(folder: Path, signer: KeySigner) -> None:
    (folder / "deploy.toml").write_text('[[model]]\ntrust = ["keys/author.pub"]\n\n[files]\nforbid = ["pickle"]\n')
    judgement = judge(folder / "model", folder / "deploy.toml")
    (folder / "summary.bundle.json").write_bytes(sign_summary(judgement, signer, at=NOON))


def _passport_and_incident(folder: Path, signer: KeySigner, model_id: str) -> None:
    incident = Incident("w", "1" * 64, "2" * 64, ((1024, 2048),), 1, 0.25, True)
    procedure = {"type": "resident-audit", "version": 1}
    record = incident.to_record(
        Subject("model", {"blake3": model_id}), procedure, {"name": "holdfast", "version": __version__}
    )
    (folder / "incident.bundle.json").write_bytes(sign_statement(record.to_statement(), signer))
    (folder / "passport" / "records").mkdir(parents=True)
    (folder / "passport" / "records" / "incident.json").write_bytes(record.to_bytes())
    (folder / "passport" / "report.html").write_text("<!doctype html><title>toy</title>\n")
    write_passport(folder / "passport", signer, facts={"note": "a toy"})


if __name__ == "__main__":
    freeze(HERE / sys.argv[1])
