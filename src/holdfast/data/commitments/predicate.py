"""A commitment as the predicate of an in-toto statement, and back, strictly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from holdfast.data.commitments.commitment import Commitment, SourceSummary
from holdfast.data.commitments.element import name_bytes
from holdfast.data.commitments.multiset import BITS, LANES, STATE, MultisetHash
from holdfast.errors import InvalidConfig, UnreadableArtifact, UnsupportedVersion

VERSION = 1
ALGORITHMS = {
    "element": "holdfast-element-1/blake3",
    "multiset": {"name": "lthash/blake3", "lanes": LANES, "bits": BITS},
    "tree": "rfc6962/blake3",
    "table": "hfleaf01",
}
_KINDS = {
    "version": int,
    "algorithms": dict,
    "name": str,
    "multiset": dict,
    "root": str,
    "leaves": dict,
    "sources": list,
}
_HEX = re.compile(r"[0-9a-f]{64}")


def to_predicate(commitment: Commitment) -> dict[str, Any]:
    """Return the JSON form; states are hex, counts are numbers below 2**53."""
    sources = [
        {"dataset": item.dataset, "multiset": _multiset(item.multiset), "root": item.root, "signer": item.signer}
        for item in commitment.sources
    ]
    return {
        "version": VERSION,
        "algorithms": ALGORITHMS,
        "name": commitment.name,
        "multiset": _multiset(commitment.multiset),
        "root": commitment.root,
        "leaves": {"bytes": commitment.leaves_size, "digest": commitment.leaves},
        "sources": sources,
    }


def _multiset(value: MultisetHash) -> dict[str, Any]:
    return {"count": value.count, "bytes": value.size, "state": value.state.hex(), "digest": value.digest}


def from_predicate(value: Mapping[str, Any]) -> Commitment:
    """Read a predicate.

    Raises:
        UnsupportedVersion: another version, or any other algorithm or parameter: fewer or narrower lanes above all.
        UnreadableArtifact: a field is missing, new, of another type, or contradicts another one.
    """
    if value.get("version") != VERSION:
        raise UnsupportedVersion(f"a dataset commitment of version {value.get('version')!r}")
    if value.get("algorithms") != ALGORITHMS:
        raise UnsupportedVersion(
            "the dataset commitment uses other algorithms or parameters", hint=f"only {LANES} lanes of {BITS} bits"
        )
    fields = _exactly(value, _KINDS)
    leaves = _exactly(fields["leaves"], {"bytes": int, "digest": str})
    try:
        return Commitment(
            name=fields["name"],
            multiset=_read_multiset(fields["multiset"]),
            root=_digest(fields["root"]),
            leaves=_digest(leaves["digest"]),
            leaves_size=leaves["bytes"],
            sources=tuple(_read_source(item) for item in fields["sources"]),
        )
    except InvalidConfig as error:
        raise UnreadableArtifact(f"the dataset commitment is malformed: {error}") from error


def _exactly(value: object, kinds: Mapping[str, type]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or value.keys() != kinds.keys():
        raise UnreadableArtifact(f"the dataset commitment lacks one of {', '.join(kinds)}, or has more")
    wrong = [name for name, kind in kinds.items() if type(value[name]) is not kind]
    if wrong:
        raise UnreadableArtifact(f"the dataset commitment's {wrong[0]!r} is of another type")
    return value


def _digest(value: object) -> str:
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise UnreadableArtifact("a digest in the dataset commitment is not 64 lower-case hex digits")
    return value


def _read_multiset(value: object) -> MultisetHash:
    fields = _exactly(value, {"count": int, "bytes": int, "state": str, "digest": str})
    if not re.fullmatch(rf"[0-9a-f]{{{2 * STATE}}}", fields["state"]):
        raise UnsupportedVersion(f"a multiset state is {STATE} bytes in hex", hint=f"{LANES} lanes of {BITS} bits")
    found = MultisetHash(bytes.fromhex(fields["state"]), fields["count"], fields["bytes"])
    if found.digest != _digest(fields["digest"]):
        raise UnreadableArtifact("a multiset's digest is not that of its state, count and bytes")
    return found


def _read_source(value: object) -> SourceSummary:
    signer = value.get("signer") if isinstance(value, Mapping) else None
    kinds = {"dataset": str, "multiset": dict, "root": str, "signer": type(None) if signer is None else str}
    fields = _exactly(value, kinds)
    if signer is not None:
        name_bytes(signer, "signer")
    return SourceSummary(
        dataset=fields["dataset"],
        multiset=_read_multiset(fields["multiset"]),
        root=_digest(fields["root"]),
        signer=signer,
    )
