"""A case: one model or assessment under one policy, with every question answered once.

Answers that fail raise, each time they are asked; the judges turn that into a verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from holdfast._files import read_bytes
from holdfast.errors import RecordMissing, SignerUntrusted, UnreadableArtifact
from holdfast.evidence.beside import GIT_NAMES, default_manifest, default_signature
from holdfast.evidence.model_manifest import ModelManifest
from holdfast.evidence.statement import Statement
from holdfast.policy.bundles import LIMIT, Bundle, bundles_in
from holdfast.policy.identity import Identity, evidence_beside, identify, model_ids
from holdfast.policy.model import Policy
from holdfast.policy.trusted import Trusted
from holdfast.signing import Threshold, Verified, verify_bundle
from holdfast.signing.envelope import read_envelope
from holdfast.signing.manifests import read_manifest
from holdfast.signing.oms import read_statement
from holdfast.signing.oms.scope import verifying_skip
from holdfast.signing.passport import BUNDLE as PASSPORT
from holdfast.signing.revocation import bundle_names


@dataclass
class Case(Trusted):
    """What is judged: ``path`` under ``policy`` at ``at``, with the bundles and passports in ``evidence``."""

    path: Path
    policy: Policy
    at: datetime
    evidence: tuple[Path, ...] = ()
    _files_hold: bool = False
    unsigned: Sequence[str] = ()  # files that the signer of the model left out
    used: set[tuple[str, str]] = field(default_factory=set)  # file name and SHA-256 (hex) of what was believed

    @cached_property
    def signatures(self) -> dict[str, bytes]:
        """The model's own signatures by file name: OpenSSF's, and Holdfast's over the manifest; at least one."""
        first = default_signature(self.path)
        places = (first, default_manifest(self.path))
        found = {place.name: read_bytes(place, "signature", limit=LIMIT) for place in places if place.is_file()}
        if not found:
            raise RecordMissing(f"{self.path} holds no model signature", hint="holdfast sign writes one")
        if first.name not in found:
            raise RecordMissing(f"{self.path} holds no {first.name}, which signs every file", hint="holdfast sign")
        return found

    @cached_property
    def claimed_name(self) -> str:
        """The name that the signatures give the model; they must agree. Believed only once they verify."""
        names = {
            Statement.from_bytes(read_envelope(data).payload).subjects[0].name for data in self.signatures.values()
        }
        if len(names) != 1:
            raise SignerUntrusted(f"the signatures give the model different names: {', '.join(sorted(names))}")
        return names.pop()

    @cached_property
    def identity(self) -> Identity:
        """The digests of the files that are there."""
        return identify(self.path)

    def verify_signatures(self, trust: Threshold) -> dict[str, Verified]:
        """Return the proof of each of the model's signatures under ``trust``, for the very files that are there."""
        proofs: dict[str, Verified] = {name: verify_bundle(data, trust) for name, data in self.signatures.items()}
        if not self._files_hold:  # the bytes of the signatures are the same for every trust, so once is enough
            self._compare_files(proofs, trust)
            self._files_hold = True
        return proofs

    def _compare_files(self, proofs: dict[str, Verified], trust: Threshold) -> None:
        first, ignore = default_signature(self.path), evidence_beside(self.path)
        listing = read_statement(proofs[first.name].statement)
        skip, self.unsigned = verifying_skip(self.path, first, ignore, listing, links=False)
        if astray := [name for name in GIT_NAMES if (self.path / name).exists() and not skip(name)]:
            hint = "sign without listing git's own files"
            raise UnreadableArtifact(f"the signature does not leave out {astray[0]}", hint=hint)
        self.identity.require_signed(listing, skip)
        if len(proofs) == 2:
            self.read_manifest(trust)
        for name, data in self.signatures.items():
            self.note(Path(name), data)

    @cached_property
    def model_trusts(self) -> tuple[Threshold, ...]:
        """Every trust that the policy asks this model's signatures to satisfy; at least one."""
        fitting = [rule for rule in self.policy.model if fits(self.claimed_name, rule.match)]
        found = [self.trust(rule.trust, rule.threshold) for rule in fitting]
        if self.policy.keys is not None:
            found.append(self.checked(self.key_set))
        if not found:
            raise SignerUntrusted(f"no table of the policy says who may sign {self.claimed_name!r}")
        return tuple(found)

    @cached_property
    def proofs(self) -> tuple[dict[str, Verified], ...]:
        """The proofs under every such trust: from here on the model's name and version are believed."""
        return tuple(self.verify_signatures(trust) for trust in self.model_trusts)

    @property
    def verified_identity(self) -> Identity:
        """The identity of a model whose signatures hold under the policy."""
        if not self.proofs:
            raise RecordMissing("the model's signatures were not verified")
        return self.identity

    def read_manifest(self, trust: Threshold) -> ModelManifest:
        """Return the signed manifest, which must be of the files that are there."""
        data = self.signatures[default_manifest(self.path).name]
        manifest, _ = read_manifest(self.path, trust, signature=data)
        if manifest.name != self.claimed_name:
            raise SignerUntrusted(f"the manifest is of {manifest.name!r}, not of {self.claimed_name!r}")
        self.identity.require_listed(manifest)
        return manifest

    @cached_property
    def loaded_digest(self) -> str:
        """The digest of the model as it is loaded, from exactly the files that were verified; needs the framework."""
        from holdfast.models import load, model_subject

        expected = {name: item.sha256 for name, item in self.verified_identity.files.items()}
        return model_subject(load(self.path, expected=expected)).digest["blake3"]

    @property
    def is_assessment(self) -> bool:
        """Whether this is an assessment with a passport and no signed model."""
        return (self.path / PASSPORT).is_file() and not default_signature(self.path).is_file()

    @property
    def names(self) -> Iterator[tuple[str, str]]:
        """All kinds and names by which the files that are there, and their signatures, may be revoked."""
        yield from (("model", digest) for digest in model_ids(self.path, self.identity))
        places = (default_signature(self.path), default_manifest(self.path))
        for data in (read_bytes(place, "signature", limit=LIMIT) for place in places if place.is_file()):
            yield from (("bundle", digest) for digest in bundle_names(data))

    @cached_property
    def every_file(self) -> dict[str, Path]:
        """Every file that is there, signed or not, but for those in ``.git``; links and devices are refused."""
        if self.path.is_file():
            return {self.path.name: self.path}
        places = (path for path in self.path.rglob("*") if not _is_folder(path))
        found = {path.relative_to(self.path).as_posix(): path for path in places}
        found = {name: path for name, path in found.items() if not name.startswith(".git/")}
        for name, path in found.items():
            if path.is_symlink() or not path.is_file():
                raise UnreadableArtifact(f"{name} is not a regular file")
        if not found:
            raise UnreadableArtifact(f"{self.path} holds no file")
        return found

    @cached_property
    def manifest(self) -> ModelManifest:
        """The manifest that every asked trust signed."""
        name = default_manifest(self.path).name
        if name not in self.signatures:
            raise RecordMissing(f"there is no {name}, which would say the version", hint="sign a manifest of the model")
        return next(self.read_manifest(trust) for trust in self.model_trusts if self.proofs)

    @cached_property
    def bundles(self) -> tuple[Bundle, ...]:
        """All bundles of evidence, in the order of their names; one that cannot be read is refused by name."""
        folders = [*self.evidence, *([self.path / "lineage"] if self.path.is_dir() else [])]
        return bundles_in(folders)

    def about_model(self, predicate_type: str, trust: Threshold) -> Iterator[tuple[Bundle, Verified]]:
        """Yield the bundles of a type that are about the verified model and that ``trust`` signed.

        A bundle by strangers proves nothing and is passed over; one that claims a trusted name must hold.
        """
        identity = self.verified_identity
        for bundle in self.bundles:
            if bundle.claimed.predicate_type != predicate_type or not identity.is_subject_of(bundle.claimed):
                continue
            proof = self.verify_evidence(bundle, trust)
            if proof is not None:
                yield bundle, proof

    def verify_evidence(self, bundle: Bundle, trust: Threshold) -> Verified | None:
        """Return the proof of a bundle, or None if only strangers signed it: then it proves nothing."""
        try:
            proof = verify_bundle(bundle.data, trust)
        except SignerUntrusted:
            return None
        self.require_unrevoked_bundle(bundle.data)
        self.note(bundle.path, bundle.data)
        return proof


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def fits(name: str, pattern: str) -> bool:
    """Return whether a signed name fits a shell pattern, case and all."""
    return fnmatchcase(name, pattern)
