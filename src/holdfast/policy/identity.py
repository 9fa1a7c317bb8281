"""Which model lies there: digests over all its files, computed here and compared with what was signed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from holdfast._files import read_bytes
from holdfast.errors import DigestMismatch, HoldfastError, UnreadableArtifact
from holdfast.evidence.beside import GIT_NAMES, default_manifest, default_signature, is_beside
from holdfast.evidence.digest import FileDigest, digest_tree
from holdfast.evidence.model_manifest import FileEntry, ModelManifest
from holdfast.evidence.statement import Statement, Subject
from holdfast.signing.envelope import read_envelope
from holdfast.signing.oms import Listing, read_statement, require_same
from holdfast.signing.oms.serialization import FILES

MODEL_ID = "holdfastModelId"
LIMIT = 64 << 20  # bytes of a signature


@dataclass(frozen=True)
class Identity:
    """The files of a model, by POSIX path, and the digests that name all of them together.

    Attributes:
        files: without signatures and evidence, which are verified by themselves.
        model_id: BLAKE3 (hex) over names, sizes and contents; see :mod:`holdfast.evidence.model_manifest`.
        alone: whether the model is a file and not a folder.
    """

    files: Mapping[str, FileDigest]
    model_id: str
    alone: bool = False

    @property
    def digests(self) -> dict[str, str]:
        """The digests that name the whole model; those of its file, too, if it is no folder."""
        found = {MODEL_ID: self.model_id}
        if self.alone:
            (only,) = self.files.values()
            found |= {"sha256": only.sha256, "blake3": only.blake3}
        return found

    def names(self, subject: Subject) -> bool:
        """Return whether ``subject`` is this whole model: no digest that is compared differs, and one is equal."""
        shared = self.digests.keys() & subject.digest.keys()
        return bool(shared) and all(self.digests[name] == subject.digest[name] for name in shared)

    def is_subject_of(self, statement: Statement) -> bool:
        """Return whether the statement is about this model: one subject names it, or the subjects name every file."""
        if any(self.names(subject) for subject in statement.subjects):
            return True
        named = {subject.name: subject.digest.get("sha256") for subject in statement.subjects}
        return bool(self.files) and all(named.get(name) == item.sha256 for name, item in self.files.items())

    def signed_id(self, names: Iterable[str]) -> str:
        """Return the model id over only those files that ``names`` lists; over all of them where it lists none."""
        listed = {} if self.alone else {name: self.files[name] for name in names if name in self.files}
        return _model_id(listed or self.files)

    def require_listed(self, manifest: ModelManifest) -> None:
        """Return if a verified manifest lists exactly these files; raise :class:`DigestMismatch` otherwise."""
        signed = {item.name: f"{item.size} {item.blake3}" for item in manifest.files}
        require_same(signed, {name: f"{item.size} {item.blake3}" for name, item in self.files.items()})
        if manifest.model_id != self.model_id:
            raise DigestMismatch("the manifest lists the files of the model and has another model id")

    def require_signed(self, listing: Listing, skip: Callable[[str], bool]) -> None:
        """Return if an OpenSSF model signature lists exactly these files, but for those that may be skipped.

        Raises:
            UnreadableArtifact: it lists them by another hash, or in shards, which are not compared here.
            DigestMismatch: files are missing, new or changed; the first are named.
        """
        if listing.how.method != FILES or listing.how.hash not in ("sha256", "blake3"):
            raise UnreadableArtifact(
                f"a signature by {listing.how.method}/{listing.how.hash} does not show which files were judged",
                hint="sign files by sha256 or blake3",
            )
        files = {name: item for name, item in self.files.items() if not skip(name)}
        actual = {name: str(getattr(item, listing.how.hash)) for name, item in files.items()}
        if listing.files == {"."} and self.alone:
            actual = dict(zip(".", actual.values(), strict=True))
        require_same(listing.digests, actual)


def identify(model: Path) -> Identity:
    """Return the identity of a model folder or file.

    Raises:
        UnreadableArtifact: nothing there, or a link or a device in it.
    """
    alone = not model.is_dir()
    found = digest_tree(model, exclude=() if alone else (*GIT_NAMES, *evidence_beside(model)))
    files = {model.name: found["."]} if alone else found
    if not files:
        raise UnreadableArtifact(f"{model} holds no model")
    return Identity(files, _model_id(files), alone)


def _model_id(files: Mapping[str, FileDigest]) -> str:
    entries = (FileEntry(name, files[name].size, files[name].sha256, files[name].blake3) for name in sorted(files))
    return ModelManifest("model", tuple(entries)).model_id  # which is over the files, whatever the model is called


def model_ids(model: Path, found: Identity | None = None) -> tuple[str, ...]:
    """Return the ids by which a model is revoked: over all its files and, if that differs, over those it was signed by.

    A file that the signature leaves out can change without another signature; the second id stays as it is then.
    """
    found = found or identify(model)
    return tuple(dict.fromkeys((found.model_id, found.signed_id(_claimed_files(model)))))


def _claimed_files(model: Path) -> frozenset[str]:
    """Return what the signatures beside a model say they cover; nothing is believed, and nothing refused."""
    names: set[str] = set()
    for place, read in ((default_signature(model), _listed), (default_manifest(model), _in_manifest)):
        with suppress(HoldfastError):
            names |= read(Statement.from_bytes(read_envelope(read_bytes(place, "signature", limit=LIMIT)).payload))
    return frozenset(names)


def _listed(statement: Statement) -> frozenset[str]:
    listing = read_statement(statement)
    return frozenset(listing.files) if listing.how.method == FILES else frozenset()


def _in_manifest(statement: Statement) -> frozenset[str]:
    return frozenset(item.name for item in ModelManifest.from_statement(statement).files)


def evidence_beside(model: Path) -> tuple[str, ...]:
    """Return the POSIX paths of signatures and evidence in a model's folder; a file has none in it."""
    places = (path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file())
    return tuple(sorted(name for name in places if is_beside(name)))
