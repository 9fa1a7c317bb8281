"""Mutates signature bundles and looks for an accepted forgery.

Run ``python -m tests.fuzz.fuzz_bundle --mutations 1000000`` in the root of the checkout.

A mutation may be accepted only if it left alone what counts: the payload to the byte, and who signed. Everything else
must end in one of our own errors; any other exception is a bug, too. Prints one JSON object with the counts.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random

from holdfast.errors import HoldfastError
from holdfast.evidence.statement import PAYLOAD_TYPE
from holdfast.seeds import derive
from holdfast.signing import (
    Serialization,
    Threshold,
    add_signature,
    generate_key,
    require_threshold,
    sign_artifact,
    verify_listing,
)
from holdfast.signing.envelope import read_envelope

from .mutations import mutate


@dataclass(frozen=True)
class Target:
    """A good bundle and the trust that accepts it."""

    name: str
    data: bytes
    trust: Threshold
    legacy: bool = False


class ForgeryFound(Exception):
    """A mutation was accepted that must not be."""


def targets(folder: Path) -> list[Target]:
    """Sign a small model in several ways."""
    (folder / "m" / "sub").mkdir(parents=True)
    for name, data in (("weights.bin", bytes(range(20))), ("sub/config.json", b"{}"), ("empty", b"")):
        (folder / "m" / name).write_bytes(data)
    first, second = generate_key("p256"), generate_key("ed25519")
    shards = Serialization(method="shards", shard_size=8, hash="blake3")
    files = sign_artifact(folder / "m", first).read_bytes()
    cut = sign_artifact(folder / "m", second, how=shards).read_bytes()
    both = add_signature(files, second)
    return [
        Target("files, p256", files, require_threshold(first.public)),
        Target("shards, ed25519", cut, require_threshold(second.public)),
        Target("two of two", both, require_threshold([first.public, second.public])),
        Target("one of two", both, require_threshold([first.public, second.public], 1)),
        Target("legacy allowed", _with_key(files, first.public.pem), require_threshold(first.public), legacy=True),
    ]


def _with_key(data: bytes, pem: bytes) -> bytes:
    value = json.loads(data)
    value["verificationMaterial"] = {"publicKey": {"rawBytes": base64.b64encode(pem).decode()}}
    return json.dumps(value).encode()


def try_one(target: Target, data: bytes) -> str:
    """Return how ``data`` fared: the name of the error, or ``accepted``; raise :class:`ForgeryFound` if it is one."""
    try:
        proof = verify_listing(data, target.trust, legacy=target.legacy)
    except HoldfastError as error:
        return type(error).__name__
    original, seen = read_envelope(target.data), read_envelope(data)
    known = {member.key.fingerprint for member in target.trust.members}
    same = seen.payload == original.payload and seen.payload_type == PAYLOAD_TYPE == original.payload_type
    if not same or len(proof.signers) < target.trust.needed or not {item.name for item in proof.signers} <= known:
        raise ForgeryFound(target.name)
    return "accepted"


def run(mutations: int, seed: int) -> dict[str, object]:
    """Try ``mutations`` of them, in turn over all targets, and return the counts."""
    counts: Counter[str] = Counter()
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        corpus = targets(Path(folder))
    for target in corpus:
        if try_one(target, target.data) != "accepted":
            raise ForgeryFound(f"{target.name} does not verify to begin with")
    for index in range(mutations):
        target = corpus[index % len(corpus)]
        data = mutate(Random(derive(seed, "fuzz-bundle", index).key), target.data)
        counts["unchanged" if data == target.data else try_one(target, data)] += 1
    return {"mutations": mutations, "forgeries": 0, "cpu_seconds": round(time.process_time() - begun, 1)} | dict(
        sorted(counts.items())
    )


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(json.dumps(run(arguments.mutations, arguments.seed)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
