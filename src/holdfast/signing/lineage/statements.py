"""The signed statements a lineage is made of: gathered from folders, verified one by one, and counted only then.

What a statement may say about lineage depends on its type: SLSA provenance joins outputs to inputs, a passport joins an
assessment to its model, and an origin or a dataset commitment vouches for a thing of which nothing here says how it was
made. All other statements, such as signatures over a model's files, say nothing of where it comes from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from holdfast._files import read_bytes
from holdfast.errors import InvalidConfig, SignerUntrusted, UnreadableArtifact
from holdfast.evidence.beside import LINEAGE
from holdfast.evidence.digest import digest_bytes
from holdfast.evidence.provenance import PROVENANCE_TYPE, Provenance, Resource, build_type
from holdfast.evidence.statement import Statement
from holdfast.signing.bundle import Verified, verify_bundle
from holdfast.signing.envelope import read_envelope
from holdfast.signing.passport import PASSPORT_TYPE
from holdfast.signing.revocation import bundle_names
from holdfast.signing.trust import Identity
from holdfast.signing.trusts import Threshold, TrustSources, load_trust

ORIGIN_TYPE = "https://holdfast.dev/origin/v1"
BUNDLES, COMMITMENT = "*.bundle.json", "commitment.json"
VOUCHING = {
    ORIGIN_TYPE: "",
    "https://holdfast.dev/dataset-commitment/v1": "dataset",
}  # predicate type -> what kind of thing its subjects are; an origin says so itself
# A signed list of a model's files is not among them: whoever takes a history away could put it in the history's place.
_LIMIT = 64 << 20
_MAX_FILES = 10_000


@dataclass(frozen=True, slots=True)
class Evidence:
    """One verified statement of a lineage.

    Attributes:
        source: the file it was read from.
        outputs: what it speaks about.
        inputs: what that was made of; empty for a statement that only vouches.
        provenance: how it was made; None for a statement that only vouches.
        signers: who signed.
        digests: by which revocation lists name the bundle: of its payload, and of its bytes.
    """

    source: Path
    statement: Statement
    outputs: tuple[Resource, ...]
    inputs: tuple[Resource, ...]
    provenance: Provenance | None
    signers: tuple[Identity, ...]
    digests: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ignored:
    """A statement that counts for nothing, kept to explain a gap; ``untrusted`` if that is for who signed it."""

    source: Path
    identities: frozenset[str]
    reason: str
    untrusted: bool = False


def any_of(trust: TrustSources | Threshold) -> Threshold:
    """Return the trust in one step of a lineage: several sources mean that each step is signed by any one of them."""
    if isinstance(trust, Threshold):
        return trust
    members = tuple(load_trust(item) for item in (trust if isinstance(trust, list | tuple) else [trust]))
    if not members:
        raise InvalidConfig("a lineage needs somebody to trust", hint="--trust KEY.pub")
    return Threshold(members, 1)


def gather(
    places: Iterable[Path | str], trust: Threshold, origins: Threshold
) -> tuple[tuple[Evidence, ...], tuple[Ignored, ...]]:
    """Read and verify every bundle in ``places``; return what counts, and what does not.

    Args:
        places: bundles, and folders that hold ``*.bundle.json``, a ``lineage`` folder of them, or the signed commitment
            of a dataset.
        trust: who may sign steps.
        origins: who may vouch for data and models to start from.

    Raises:
        SignatureInvalid: a signature in the name of somebody trusted does not verify.
        UnreadableArtifact, UnsupportedVersion: a malformed bundle, statement or provenance.
    """
    found: dict[str, Evidence] = {}
    ignored: list[Ignored] = []
    for path in _bundles(places):
        data = read_bytes(path, "lineage statement", limit=_LIMIT)
        unverified = Statement.from_bytes(read_envelope(data).payload)
        if unverified.predicate_type not in {PROVENANCE_TYPE, PASSPORT_TYPE, *VOUCHING}:
            ignored.append(Ignored(path, _named(unverified), f"{unverified.predicate_type} says nothing of lineage"))
            continue
        try:
            proof = verify_bundle(data, origins if unverified.predicate_type in VOUCHING else trust)
        except SignerUntrusted as error:
            ignored.append(Ignored(path, _named(unverified), str(error), untrusted=True))
        else:
            found.setdefault(digest_bytes(data), replace(_evidence(path, data, proof), digests=bundle_names(data)))
    return tuple(found.values()), tuple(ignored)


def unsigned(places: Iterable[Path | str]) -> tuple[Ignored, ...]:
    """Return the step documents that nobody signed: no evidence, but they explain a gap."""
    ignored = []
    for folder in filter(Path.is_dir, map(Path, places)):
        for path in sorted(folder.glob(f"{LINEAGE}/*.json")):
            if not path.match(BUNDLES):
                statement = Statement.from_bytes(read_bytes(path, "step document", limit=_LIMIT))
                ignored.append(Ignored(path, _named(statement), "nobody signed it"))
    return tuple(ignored)


def _bundles(places: Iterable[Path | str]) -> list[Path]:
    found: dict[Path, None] = {}
    for place in map(Path, places):
        if place.is_dir():
            patterns = (BUNDLES, f"{LINEAGE}/{BUNDLES}", COMMITMENT)
            found |= dict.fromkeys(sorted(path for pattern in patterns for path in place.glob(pattern)))
        elif place.is_file():
            found[place] = None
        else:
            raise UnreadableArtifact(f"no statement or folder at {place}")
    if len(found) > _MAX_FILES:
        raise UnreadableArtifact(f"a lineage of {len(found)} statements is more than {_MAX_FILES}")
    return list(found)


def _named(statement: Statement) -> frozenset[str]:
    return frozenset().union(*(Resource(item.name, item.digest).identities for item in statement.subjects))


def _evidence(path: Path, data: bytes, proof: Verified) -> Evidence:
    statement = proof.statement
    if statement.predicate_type == PASSPORT_TYPE:
        return _assessment(path, data, proof)
    if statement.predicate_type == PROVENANCE_TYPE:
        made = Provenance.from_statement(statement)
        outputs = tuple(Resource(item.name, item.digest) for item in statement.subjects)
        return Evidence(path, statement, outputs, _walked(made), made, proof.signers)
    kind = VOUCHING[statement.predicate_type] or str(statement.predicate.get("kind", ""))
    outputs = tuple(Resource(item.name, item.digest, kind, notes=_notes(statement)) for item in statement.subjects)
    return Evidence(path, statement, outputs, (), None, proof.signers)


def _walked(made: Provenance) -> tuple[Resource, ...]:
    """Return the inputs that lineage follows: all but code and packages, which are named for reproduction alone."""
    return tuple(item for item in made.inputs if item.identities or not _is_software(item))


def _is_software(item: Resource) -> bool:
    return item.role in _SOFTWARE or (not item.role and (item.uri.startswith("pkg:") or "gitCommit" in item.digest))


_SOFTWARE = ("code", "config", "container", "package")


def _notes(statement: Statement) -> dict[str, object]:
    return dict(statement.predicate) if statement.predicate_type == ORIGIN_TYPE else {}


def _assessment(path: Path, data: bytes, proof: Verified) -> Evidence:
    """Read a passport as the step that made an assessment from a model."""
    digest = proof.statement.predicate.get("model")
    model = Resource.from_json({"name": "model", "digest": {"blake3": digest}, "annotations": {"role": "model"}})
    made = Provenance(build_type=build_type("assess"), inputs=(model,))
    outputs = (Resource(path.parent.resolve().name, {"blake3": digest_bytes(data)}, "assessment"),)
    return Evidence(path, proof.statement, outputs, (model,), made, proof.signers)
