"""Which model lies there: digests over all its files, computed here and compared with what was signed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from holdfast.errors import DigestMismatch, UnreadableArtifact
from holdfast.evidence.beside import GIT_NAMES, is_beside
from holdfast.evidence.digest import FileDigest, digest_tree
from holdfast.evidence.model_manifest import FileEntry, ModelManifest
from holdfast.evidence.statement import Statement, Subject
from holdfast.signing.oms import Listing, require_same
from holdfast.signing.oms.serialization import FILES

MODEL_ID = "holdfastModelId"


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
    entries = tuple(FileEntry(name, item.size, item.sha256, item.blake3) for name, item in files.items())
    return Identity(files, ModelManifest(model.name, entries).model_id, alone)


def evidence_beside(model: Path) -> tuple[str, ...]:
    """Return the POSIX paths of signatures and evidence in a model's folder; a file has none in it."""
    places = (path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file())
    return tuple(sorted(name for name in places if is_beside(name)))
