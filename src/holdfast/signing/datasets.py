"""Signed commitments to datasets, and training data that is verified before it is used.

A commitment on disk is a folder: ``commitment.json`` (the signed statement), ``leaves.bin`` (the leaf table, bound by
the statement) and, where it was merged from several providers, ``sources/0000.json`` and so on: what each of them
signed, in the order in which the statement lists them. Nothing is found by listing a folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast._files import make_folder, read_bytes, write_atomic
from holdfast.errors import (
    DigestMismatch,
    InvalidConfig,
    RecordMissing,
    SignerUntrusted,
    UnsupportedVersion,
)
from holdfast.evidence.statement import Statement, Subject
from holdfast.signing.bundle import sign_statement, verify_bundle

if TYPE_CHECKING:
    from holdfast.data.commitments import (
        Commitment,
        Committed,
        LeafTable,
        MapStyle,
        Source,
        VerifiedImages,
        VerifiedSamples,
        VerifiedStream,
    )
    from holdfast.data.dataset import Dataset

COMMITMENT_TYPE = "https://holdfast.dev/dataset-commitment/v1"
STATEMENT, LEAVES, SOURCES = "commitment.json", "leaves.bin", "sources"
_MOST_STATEMENT = 64 << 20  # bytes


@dataclass(frozen=True, kw_only=True)
class VerifiedCommitment:
    """Proof that a commitment, its table and its sources are what the trusted keys signed; only verification makes one.

    Attributes:
        whole: the commitment and its leaf table.
        signer: who signed the whole.
        bundle: its signed statement.
        providers: by dataset id, the signed statement of each source that its own provider signed.
    """

    whole: Committed
    signer: str
    bundle: bytes = field(repr=False)
    providers: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def commitment(self) -> Commitment:
        """What was signed."""
        return self.whole.commitment


def sign_commitment(commitment: Commitment, signer: Any) -> bytes:
    """Return the signed statement of a commitment; its subject has the digests that lineage and policies refer to."""
    from holdfast.data.commitments import to_predicate

    subject = Subject(f"dataset:{commitment.name}", {"blake3": commitment.digest, "merkle": commitment.root})
    return sign_statement(Statement((subject,), COMMITMENT_TYPE, to_predicate(commitment)), signer)


def verify_commitment(bundle: bytes, trust: Any) -> tuple[Commitment, str]:
    """Return the commitment that ``trust`` signed, and the name of the signer.

    Raises:
        SignatureInvalid, SignerUntrusted: it is not signed by the trusted key.
        UnsupportedVersion: a statement about something else, or with other parameters than 1024 lanes of 16 bits.
        UnreadableArtifact, DigestMismatch: a signed statement that contradicts itself.
    """
    from holdfast.data.commitments import from_predicate
    from holdfast.signing import load_trust

    proof = verify_bundle(bundle, load_trust(trust))
    statement = proof.statement
    if statement.predicate_type != COMMITMENT_TYPE:
        raise UnsupportedVersion(f"the bundle is about {statement.predicate_type}, not a dataset")
    found = from_predicate(statement.predicate)
    digests = [dict(subject.digest) for subject in statement.subjects]
    if digests != [{"blake3": found.digest, "merkle": found.root}]:
        raise DigestMismatch(f"the subject of the statement about {found.name} is not what the statement describes")
    return found, proof.signer


def write_commitment(
    folder: Path | str, whole: Committed, signer: Any, providers: Mapping[str, bytes] | None = None
) -> Path:
    """Sign a commitment and write it with its table and the signed statements of its sources; return the folder.

    Args:
        folder: made if need be.
        whole: the commitment and its table.
        signer: who signs the whole.
        providers: by dataset id, for exactly the sources that name a signer.

    Raises:
        RecordMissing, DigestMismatch: the statements are not those of the sources that name a signer.
        StorageError: the disk refuses.
    """
    given = dict(providers or {})
    named = [source.dataset for source in whole.commitment.sources if source.signer is not None]
    _require_names("statements", set(given), set(named))
    from holdfast.data.commitments import write_table

    path = make_folder(folder)
    write_atomic(path / LEAVES, write_table(whole.table))
    for place, source in enumerate(whole.commitment.sources):
        if source.signer is not None:
            write_atomic(_source_file(path, place), given[source.dataset])
    write_atomic(path / STATEMENT, sign_commitment(whole.commitment, signer))
    return path


def _source_file(folder: Path, place: int) -> Path:
    return folder / SOURCES / f"{place:04d}.json"


def _require_names(what: str, given: set[str], named: set[str]) -> None:
    if missing := sorted(named - given):
        raise RecordMissing(f"the {what} of {', '.join(missing)} are missing", hint="name every source's provider")
    if extra := sorted(given - named):
        raise SignerUntrusted(f"there are {what} of {', '.join(extra)}, which the commitment does not ask for")


def open_commitment(
    folder: Path | str, *, trust: Any, providers: Mapping[str, Any] | None = None
) -> VerifiedCommitment:
    """Read a commitment and verify all of it: signature, table, sums, roots, and the providers' own signatures.

    Args:
        folder: with ``commitment.json``.
        trust: the key that must have signed the whole.
        providers: by dataset id, the key that must have signed that source. A commitment whose sources name signers is
            only opened with the keys of exactly those sources.

    Raises:
        VerificationError: a signature, a source or the table is not what it should be; a source whose provider did not
            sign, is not named, or is named and not there, is refused.
        ArtifactError: a missing or malformed file.
    """
    from holdfast.data.commitments import Committed

    path = Path(folder)
    bundle = read_bytes(path / STATEMENT, "dataset commitment", limit=_MOST_STATEMENT)
    commitment, signer = verify_commitment(bundle, trust)
    statements = verify_sources(commitment, _statements(path, commitment), providers or {})
    whole = Committed(commitment=commitment, table=_table(path / LEAVES, commitment))
    return VerifiedCommitment(whole=whole, signer=signer, bundle=bundle, providers=statements)


def _table(path: Path, commitment: Commitment) -> LeafTable:
    """Read the leaf table; its length is compared before anything of it is read, its digest before it is parsed."""
    from holdfast.data.commitments import read_table
    from holdfast.data.commitments.table import table_digest

    if path.is_file() and path.stat().st_size != commitment.leaves_size:
        raise DigestMismatch(f"{path} has another length than the leaf table of {commitment.name}")
    data = read_bytes(path, "leaf table")
    if table_digest(data) != commitment.leaves:
        raise DigestMismatch(f"{path} is not the leaf table of {commitment.name}")
    return read_table(data)


def _statements(folder: Path, commitment: Commitment) -> dict[str, bytes]:
    """Return the statements of the sources that name a signer; any other file beside them is refused."""
    wanted = {
        _source_file(folder, place): source.dataset
        for place, source in enumerate(commitment.sources)
        if source.signer is not None
    }
    there = set((folder / SOURCES).iterdir()) if (folder / SOURCES).is_dir() else set()
    if missing := sorted(wanted[path] for path in wanted.keys() - there):
        raise RecordMissing(f"the signed statement of the source {missing[0]} is missing")
    if extra := sorted(path.name for path in there - wanted.keys()):
        raise DigestMismatch(f"{SOURCES}/{extra[0]} belongs to no source of {commitment.name}")
    return {name: read_bytes(path, "source", limit=_MOST_STATEMENT) for path, name in wanted.items()}


def verify_sources(
    commitment: Commitment, statements: Mapping[str, bytes], providers: Mapping[str, Any]
) -> dict[str, bytes]:
    """Return ``statements`` if each source's provider signed exactly what the commitment says of that source.

    Args:
        commitment: of the whole.
        statements: signed statements by dataset id.
        providers: keys to trust, by dataset id.

    Raises:
        RecordMissing: a source without a statement or without a trusted key, or one that nobody signed.
        SignerUntrusted: a statement or key for something that is no source, or the wrong key.
        DigestMismatch: a provider signed another sum, root or number of samples.
    """
    named = {source.dataset for source in commitment.sources if source.signer is not None}
    if providers and (unsigned := [source.dataset for source in commitment.sources if source.signer is None]):
        raise RecordMissing(f"nobody but the signer of the whole vouches for the source {unsigned[0]}")
    _require_names("statements", set(statements), named)
    _require_names("keys", set(providers), named)
    for name in sorted(named):
        _require_source(commitment, name, *verify_commitment(statements[name], providers[name]))
    return dict(statements)


def _require_source(commitment: Commitment, name: str, signed: Commitment, signer: str) -> None:
    source = commitment.source(name)
    own = signed.source(name) if [item.dataset for item in signed.sources] == [name] else None
    if own is None:
        raise DigestMismatch(f"the statement given for {name} is about {signed.name}")
    if signer != source.signer:
        raise SignerUntrusted(f"{name} is said to be signed by {source.signer}, and is signed by {signer}")
    if (own.multiset, own.root) != (source.multiset, source.root):
        raise DigestMismatch(f"the source {name} is not what its provider signed")


def merge_commitments(name: str, parts: Sequence[VerifiedCommitment]) -> tuple[Committed, dict[str, bytes]]:
    """Return the commitment to everything in ``parts``, and the providers' statements to write beside it.

    Every source keeps the statement of whoever signed it alone. Where two parts share a dataset id (shards of one
    dataset), their samples become one source that only the signer of the whole vouches for.

    Raises:
        InvalidConfig: fewer than two parts, or two samples with one dataset id and key.
    """
    from holdfast.data.commitments import merge

    if len(parts) < 2:
        raise InvalidConfig("merging takes at least two commitments")
    signers: dict[str, tuple[str, bytes] | None] = {}
    for part in parts:
        for source in part.commitment.sources:
            once = source.dataset not in signers
            signers[source.dataset] = _vouching(part, source.dataset) if once else None
    known = {dataset: found for dataset, found in signers.items() if found is not None}
    whole = merge(name, [part.whole for part in parts], {dataset: signer for dataset, (signer, _) in known.items()})
    return whole, {dataset: bundle for dataset, (_, bundle) in known.items()}


def _vouching(part: VerifiedCommitment, dataset: str) -> tuple[str, bytes] | None:
    """Return who signed a source alone, and with what statement."""
    source = part.commitment.source(dataset)
    if source.signer is not None:
        return source.signer, part.providers[dataset]
    return (part.signer, part.bundle) if len(part.commitment.sources) == 1 else None


def verified(
    dataset: Dataset | MapStyle,
    manifest: VerifiedCommitment | Path | str,
    *,
    trust: Any = None,
    providers: Mapping[str, Any] | None = None,
    source: str | None = None,
    keys: Sequence[str | tuple[str, str]] | None = None,
    subset: Iterable[str | tuple[str, str]] | None = None,
    fields: Sequence[str] = ("sample", "label"),
    transform: Callable[[Any], Any] | None = None,
) -> VerifiedImages | VerifiedSamples:
    """Return ``dataset`` so that each sample is held against a signed commitment before it is used.

    All signatures, those of the providers included, are verified here, before the first sample is read. The result
    works in a ``DataLoader`` with any number of workers, and ours in every verb that takes a dataset. At the end of an
    epoch ``require_complete()`` says whether exactly the signed samples were used, or raises and names the others.

    Args:
        dataset: one of ours, or any map-style dataset without augmentation.
        manifest: a folder that ``holdfast dataset commit`` wrote, or one that :func:`open_commitment` opened.
        trust: the key that must have signed the folder.
        providers: keys by dataset id, where the commitment was merged from several providers.
        source: the dataset id, where there are several.
        keys: of every index of the dataset, in order; places by default.
        subset: keys of the samples that an epoch is to use; all by default.
        fields: names of the parts of a sample that is a tuple.
        transform: called with each sample after the check (map-style datasets only).

    Raises:
        VerificationError: a signature does not hold, or the keys of the dataset are not the signed ones.
        InvalidConfig: nobody to trust, or the source is not said.
    """
    from holdfast.data.commitments import checked

    proof = manifest if isinstance(manifest, VerifiedCommitment) else _opened(manifest, trust, providers)
    return checked(dataset, proof.whole, source=source, keys=keys, subset=subset, fields=fields, transform=transform)


def verified_stream(
    source: Source | str,
    manifest: VerifiedCommitment | Path | str,
    *,
    trust: Any = None,
    providers: Mapping[str, Any] | None = None,
    dataset: str | None = None,
    subset: Iterable[str | tuple[str, str]] | None = None,
    transform: Callable[[Any], Any] | None = None,
) -> VerifiedStream:
    """Return the samples of a source as an iterable dataset that checks each before it hands it out.

    For shards and rows that no map-style dataset gives: WebDataset, Parquet, Mosaic. All signatures are verified here;
    ``require_complete()`` says at the end of an epoch whether exactly the signed samples were used.

    Args:
        source: a source, or what names one, as ``webdataset:FOLDER``.
        manifest: a folder that ``holdfast dataset commit`` wrote, or one that :func:`open_commitment` opened.
        trust: the key that must have signed the folder.
        providers: keys by dataset id, where the commitment was merged from several providers.
        dataset: the dataset id, where there are several.
        subset: keys of the samples that an epoch is to use; all by default.
        transform: called with the fields of each sample after the check.

    Raises:
        VerificationError: a signature does not hold.
        InvalidConfig: nobody to trust, or the id is not said.
    """
    from holdfast.data.commitments import checked_stream, open_source

    proof = manifest if isinstance(manifest, VerifiedCommitment) else _opened(manifest, trust, providers)
    opened = open_source(source) if isinstance(source, str) else source
    return checked_stream(opened, proof.whole, dataset=dataset, subset=subset, transform=transform)


def _opened(folder: Path | str, trust: Any, providers: Mapping[str, Any] | None) -> VerifiedCommitment:
    if not isinstance(folder, Path | str):
        raise InvalidConfig(f"a {type(folder).__name__} is not a signed commitment", hint="open_commitment gives one")
    if trust is None:
        raise InvalidConfig("verification needs the key to trust", hint="trust='lab.pub'")
    return open_commitment(folder, trust=trust, providers=providers)
