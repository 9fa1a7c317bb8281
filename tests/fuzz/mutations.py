"""Random damage to signature bundles, from single bits to the structure of the signed statement."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from random import Random
from typing import Any

Mutation = Callable[[Random, bytes], bytes]
_ATOMS: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    8,
    8.0,
    2**53,
    1e308,
    "",
    ".",
    "..",
    "a",
    "/",
    "a:0:8",
    [],
    {},
    [[]],
)
# fmt: off
_WORDS = (
    "payload", "payloadType", "signatures", "sig", "keyid", "mediaType", "verificationMaterial", "publicKey",
    "hint", "rawBytes", "certificate", "tlogEntries", "x509CertificateChain", "certificates", "dsseEnvelope",
    "_type", "subject", "name", "digest", "sha256", "predicateType", "predicate", "resources", "serialization",
    "method", "files", "shards", "hash_type", "blake2b", "blake3", "allow_symlinks", "shard_size", "ignore_paths",
    "algorithm", "annotations", "https://model_signing/signature/v1.0", "https://model_signing/Digests/v0.1",
    "https://in-toto.io/Statement/v1", "https://holdfast.dev/oms/empty-files", "application/vnd.in-toto+json",
    "sha256-sharded-8",
)
# fmt: on


def mutate_bytes(random: Random, data: bytes) -> bytes:
    """Flip, replace, insert, delete, double or cut a few bytes."""
    result = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        place = random.randrange(len(result) + 1)
        kind = random.randrange(6)
        if kind == 0 and place < len(result):
            result[place] ^= 1 << random.randrange(8)
        elif kind == 1 and place < len(result):
            result[place] = random.randrange(256)
        elif kind == 2:
            result.insert(
                place, random.choice(b'"{}[],:\\0 azAZ/+=') if random.random() < 0.7 else random.randrange(256)
            )
        elif kind == 3:
            del result[place : place + random.choice((1, 1, 2, 16))]
        elif kind == 4:
            length = random.choice((1, 4, 16, 64))
            result[place:place] = result[place : place + length]
        elif random.random() < 0.2:
            del result[place:]
    return bytes(result)


def mutate_payload(random: Random, data: bytes) -> bytes:
    """Damage the bytes of the signed statement and wrap them well again."""
    return _with_base64(data, ("dsseEnvelope", "payload"), lambda inner: mutate_bytes(random, inner))


def mutate_signature(random: Random, data: bytes) -> bytes:
    """Damage the bytes of one signature and wrap them well again."""
    count = len(json.loads(data)["dsseEnvelope"]["signatures"])
    path = ("dsseEnvelope", "signatures", random.randrange(count), "sig")
    return _with_base64(data, path, lambda inner: mutate_bytes(random, inner))


def mutate_structure(random: Random, data: bytes, words: tuple[str, ...] = _WORDS) -> bytes:
    """Change the JSON of the bundle: keys, values, order, repetition."""
    value = json.loads(data)
    for _ in range(random.choice((1, 1, 2, 3))):
        _change(random, value, words)
    return _dump(random, value)


def mutate_statement(random: Random, data: bytes) -> bytes:
    """Change the JSON of the signed statement."""
    return _with_base64(data, ("dsseEnvelope", "payload"), lambda inner: mutate_structure(random, inner))


MUTATIONS: tuple[Mutation, ...] = (mutate_bytes, mutate_payload, mutate_signature, mutate_structure, mutate_statement)


def mutate(random: Random, data: bytes) -> bytes:
    """Apply one kind of damage."""
    return random.choice(MUTATIONS)(random, data)


def _with_base64(data: bytes, path: tuple[str | int, ...], change: Callable[[bytes], bytes]) -> bytes:
    value = json.loads(data)
    holder = value
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = base64.b64encode(change(base64.b64decode(holder[path[-1]]))).decode()
    return json.dumps(value).encode()


def _dump(random: Random, value: Any) -> bytes:
    text = json.dumps(value, indent=random.choice((None, None, 1)), ensure_ascii=random.random() < 0.5)
    if random.random() < 0.1:  # say a key twice
        key = random.choice(_WORDS)
        text = text.replace(f'"{key}":', f'"{key}": "twice", "{key}":', 1)
    return text.encode("utf-8", "surrogatepass")


def _nodes(value: Any) -> list[tuple[Any, Any]]:
    """Return (container, key) of everything inside ``value``."""
    pairs = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    found = [(value, key) for key, _ in pairs]
    for _, child in pairs:
        found += _nodes(child)
    return found


def _copy(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _change(random: Random, value: Any, words: tuple[str, ...] = _WORDS) -> None:
    nodes = _nodes(value)
    if not nodes:
        return
    holder, key = random.choice(nodes)
    kind = random.randrange(7)
    if kind == 0:
        holder[key] = _copy(random.choice(_ATOMS))
    elif kind == 1:
        holder[key] = random.choice(words)
    elif kind == 2:
        del holder[key]
    elif kind == 3:
        other, place = random.choice(nodes)
        if other is not holder and place in (other if isinstance(other, dict) else range(len(other))):
            holder[key] = _copy(other[place])
    elif kind == 4 and isinstance(holder[key], str):
        holder[key] = mutate_bytes(random, holder[key].encode()).decode("utf-8", "replace")
    elif kind == 5 and isinstance(holder, list):
        holder.append(_copy(holder[key]))
        random.shuffle(holder)
    elif isinstance(holder, dict):
        holder[random.choice(words)] = _copy(holder[key])
