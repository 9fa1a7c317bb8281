"""The OMS v1.0 statement: one subject, a root digest, and a resource per file or shard; written, and read strictly.

Shards leave out files without bytes. We name them in an in-toto annotation of the first resource, which other tools
ignore, so that an empty file can be neither added to nor taken from a model that we signed in shards.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.errors import InvalidConfig, SignatureInvalid, UnsupportedVersion
from holdfast.evidence.beside import GIT_NAMES, is_canonical
from holdfast.evidence.statement import Statement, Subject
from holdfast.signing.oms.names import covers, parse_shard, shard_name
from holdfast.signing.oms.serialization import (
    FILES,
    HASHES,
    HEX_DIGITS,
    MODEL_SIGNING,
    SHARDS,
    Serialization,
    require_count,
)

PREDICATE_TYPE = "https://model_signing/signature/v1.0"
EMPTY_FILES = "https://holdfast.dev/oms/empty-files"
_HEX = re.compile(r"[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class Listing:
    """What a statement signs: how it lists the model, and the digest (hex) of every file or shard by name.

    In shards a file without bytes has the entry ``name:0:0``.
    """

    how: Serialization
    digests: Mapping[str, str]

    @property
    def files(self) -> frozenset[str]:
        """The names of the files."""
        return frozenset(file_of(name, self.how) for name in self.digests)


def file_of(name: str, how: Serialization) -> str:
    """Return the file that a resource is, or is part of."""
    shard = parse_shard(name) if how.method == SHARDS else None
    return name if shard is None else shard[0]


def write_statement(name: str, listing: Listing) -> Statement:
    """Return the statement about the model called ``name``, its resources in code-point order of their names.

    In the dialect of ``model-signing`` they are in that tool's order, by the parts of their paths, so that the root
    digest is the one it computes.

    Raises:
        InvalidConfig: it would list nothing.
    """
    empty = sorted(file_of(item, listing.how) for item in listing.digests if _is_empty(item, listing.how))
    listed = _ordered([item for item in listing.digests if not _is_empty(item, listing.how)], listing.how)
    if not listed:
        raise InvalidConfig(f"{name} holds no file to sign")
    algorithm = listing.how.sharded_hash if listing.how.dialect == MODEL_SIGNING else listing.how.hash
    resources: list[dict[str, Any]] = [
        {"name": item, "algorithm": algorithm, "digest": listing.digests[item]} for item in listed
    ]
    if empty:
        resources[0]["annotations"] = {EMPTY_FILES: empty}
    subject = Subject(name, {"sha256": root_digest(listing.digests[item] for item in listed)})
    return Statement((subject,), PREDICATE_TYPE, {"serialization": listing.how.to_json(), "resources": resources})


def _ordered(names: list[str], how: Serialization) -> list[str]:
    if how.dialect != MODEL_SIGNING:
        return sorted(names)
    places = {name: (parse_shard(name) if how.method == SHARDS else None) or (name, 0, 0) for name in names}
    return sorted(names, key=lambda name: (places[name][0].split("/"), *places[name][1:]))


def root_digest(digests: Iterable[str]) -> str:
    """Return SHA-256 (hex) over the bytes of ``digests`` in their order: OMS's name of a model, blind to file names."""
    return hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in digests)).hexdigest()


def _is_empty(name: str, how: Serialization) -> bool:
    shard = parse_shard(name) if how.method == SHARDS else None
    return shard is not None and shard[1:] == (0, 0)


def read_statement(statement: Statement) -> Listing:
    """Return what an OMS statement signs, after checking that it is well-formed and consistent with itself.

    Raises:
        UnsupportedVersion: another predicate, or a method or hash that OMS does not have.
        SignatureInvalid: no or several subjects, no resources, a malformed or repeated name, a malformed digest, a
            digest of another algorithm, shards that overlap or leave gaps, ignored paths that hide signed files, or a
            root digest that is not the one of the resources.
    """
    if statement.predicate_type != PREDICATE_TYPE:
        raise UnsupportedVersion(f"unknown predicate {statement.predicate_type!r}", hint=f"expected {PREDICATE_TYPE}")
    settings, resources = statement.predicate.get("serialization"), statement.predicate.get("resources")
    if not isinstance(settings, dict):
        raise SignatureInvalid("the signed statement does not say how it lists files")
    how = _serialization(settings)
    if not isinstance(resources, list) or not resources:
        raise SignatureInvalid("the signed statement lists no files")
    require_count(len(resources))
    pairs = [_resource(item, how) for item in resources]
    if len(statement.subjects) != 1:
        raise SignatureInvalid(f"the signed statement is about {len(statement.subjects)} models")
    if statement.subjects[0].digest.get("sha256") != root_digest(digest for _, digest in pairs):
        raise SignatureInvalid("the signed root digest does not fit the signed files")
    pairs += [(name, HASHES[how.hash]().hexdigest()) for name in _empty_files(resources, how)]
    _require_distinct([name for name, _ in pairs])
    listing = Listing(how, dict(pairs))
    _require_whole(listing)
    if "ignore_paths" in settings:
        return _require_visible(listing)
    return Listing(dataclasses.replace(how, ignore=_unlisted(GIT_NAMES, listing.files)), listing.digests)


def _require_visible(listing: Listing) -> Listing:
    if hidden := sorted(name for name in listing.files if covers(listing.how.ignore, name)):
        raise SignatureInvalid(f"the signed statement both lists and ignores {hidden[0]}")
    return listing


def _unlisted(folders: Iterable[str], files: frozenset[str]) -> frozenset[str]:
    """Return the ``folders`` that no file lies in: older tools ignored git's names without saying so."""
    return frozenset(folder for folder in folders if not any(covers({folder}, name) for name in files))


def _serialization(value: Mapping[str, Any]) -> Serialization:
    method, kind = value.get("method"), value.get("hash_type")
    if method not in (FILES, SHARDS) or not isinstance(kind, str) or kind not in HASHES:
        hint = f"this version reads {FILES} and {SHARDS} with {', '.join(HASHES)}"
        raise UnsupportedVersion(f"cannot verify {method}/{kind} signatures", hint=hint)
    links = value.get("allow_symlinks")
    if not isinstance(links, bool):
        raise SignatureInvalid(f"the signed statement allows links by {links!r}")
    size = _shard_size(value.get("shard_size"), method)
    ignore = _ignored(value.get("ignore_paths"))
    return Serialization(method=method, hash=kind, shard_size=size, allow_symlinks=links, ignore=ignore)


def _shard_size(value: Any, method: str) -> int | None:
    """Return the size of a shard; model-signing writes it as a float."""
    if method == FILES and value is None:
        return None
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if method == FILES or not whole or isinstance(value, bool) or not 0 < value <= 2**53:
        raise SignatureInvalid(f"the signed statement has {method} of size {value!r}")
    return int(value)


def _ignored(value: Any) -> frozenset[str]:
    paths = [] if value is None else value
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise SignatureInvalid("the signed list of ignored paths is malformed")
    if wrong := [path for path in paths if not is_canonical(path)]:
        raise SignatureInvalid(f"the signature ignores {wrong[0]!r}, which is no path inside a model")
    return frozenset(paths)


def _resource(item: Any, how: Serialization) -> tuple[str, str]:
    name = item.get("name") if isinstance(item, dict) else None
    if not isinstance(name, str) or not _is_name(name, how):
        raise SignatureInvalid(f"the signed statement holds the {how.method[:-1]} name {name!r}")
    algorithm, digest = item.get("algorithm"), item.get("digest")
    if algorithm not in (how.hash, how.sharded_hash):
        raise SignatureInvalid(f"the digest of {name} is {algorithm!r} in a statement of {how.hash}")
    if not isinstance(digest, str) or len(digest) != HEX_DIGITS[how.hash] or not _HEX.fullmatch(digest):
        raise SignatureInvalid(f"the signed digest of {name} is malformed")
    return name, digest


def _is_name(name: str, how: Serialization) -> bool:
    if how.method == FILES:
        return name == "." or is_canonical(name)
    shard = parse_shard(name)
    return shard is not None and (shard[0] == "." or is_canonical(shard[0])) and shard[1] < shard[2]


def _empty_files(resources: list[dict[str, Any]], how: Serialization) -> list[str]:
    """Return the entries of the files without bytes that the annotation of the first resource names."""
    notes = resources[0].get("annotations")
    names = notes.get(EMPTY_FILES, []) if isinstance(notes, dict) else []
    if not names:
        return []
    if how.method != SHARDS or not isinstance(names, list) or not all(_is_file(name) for name in names):
        raise SignatureInvalid("the signed list of empty files is malformed")
    return [shard_name(name, 0, 0) for name in names]


def _is_file(name: Any) -> bool:
    return isinstance(name, str) and is_canonical(name)


def _require_distinct(names: list[str]) -> None:
    if len(set(names)) != len(names):
        repeated = next(name for name, count in Counter(names).items() if count > 1)
        raise SignatureInvalid(f"the signed statement names {repeated} twice")


def _require_whole(listing: Listing) -> None:
    """Refuse shards that do not follow one another from the first byte on, all but the last of full size."""
    if listing.how.shard_size is None:
        return
    shards = sorted(shard for name in listing.digests if (shard := parse_shard(name)) is not None)
    previous, expected = "", 0
    for place, (path, start, end) in enumerate(shards):
        expected = expected if path == previous else 0
        last = place + 1 == len(shards) or shards[place + 1][0] != path
        size = end - start
        if start != expected or size > listing.how.shard_size or (size < listing.how.shard_size and not last):
            raise SignatureInvalid(f"the signed shards of {path} overlap, leave gaps or have the wrong size")
        previous, expected = path, end
