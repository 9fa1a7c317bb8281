"""Pulling a model: every blob against its digest, the signature over all of them, and only then a folder to see."""

from __future__ import annotations

import io
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from holdfast._files import make_folder
from holdfast.distribution.layout import (
    BUNDLE,
    BUNDLE_LIMIT,
    MODEL,
    OUTBOARD,
    Descriptor,
    is_side_file,
    read_layers,
    title_of,
)
from holdfast.distribution.registry import Repository
from holdfast.errors import (
    DigestMismatch,
    HoldfastError,
    RecordMissing,
    StorageError,
    UnreadableArtifact,
    UnsupportedVersion,
    VerificationError,
)
from holdfast.evidence.beside import SIGNATURE
from holdfast.signing import (
    Threshold,
    TrustSources,
    Verified,
    VerifiedArtifact,
    verify,
    verify_artifact,
    verify_bundle,
    verify_listing,
)
from holdfast.signing.oms.serialization import FILES
from holdfast.signing.oms.statement import Listing

MAX_ATTACHMENTS = 256
ATTACHED_LIMIT = 1 << 30  # bytes of all attachments, which are held in memory
Progress = Callable[[str, int], None]
_Sides = dict[str, list[bytes]]


@dataclass(frozen=True, slots=True)
class Pulled:
    """A verified model on disk, the digest of its manifest in the registry, and the proof of who signed it."""

    path: Path
    digest: str
    files: tuple[str, ...]
    attached: tuple[str, ...]
    proof: Verified


def pull(
    reference: str,
    out: Path | str,
    *,
    trust: TrustSources | Threshold,
    plain_http: bool = False,
    progress: Progress = lambda _name, _size: None,
    accept: Callable[[Path], object] | None = None,
    limit: int | None = None,
) -> Pulled:
    """Pull the model at ``HOST/NAME[:TAG][@DIGEST]`` into the new folder ``out``, which appears only when it verifies.

    Signatures are found as referrers of the model's manifest. Others may have attached theirs, so of several under one
    name the first that ``trust`` signed is taken. They are verified first, and against the manifest: of a model that
    ``trust`` did not sign no file is fetched.

    Args:
        reference: a digest in it pins the manifest.
        out: must not exist.
        trust: who must have signed the files.
        plain_http: talk without TLS, as to a registry on this machine.
        progress: called with the name and size of each file that is about to come.
        accept: called with the verified folder before anybody can see it; what it raises leaves nothing behind.
        limit: most bytes of all files together; what the disk holds by default.

    Raises:
        VerificationError: a blob, the manifest or the signature does not hold; ``out`` is not made.
        RecordMissing: nobody attached a signature.
        StorageError: ``out`` exists, the files are more than ``limit`` or the disk holds, or the disk refuses.
        Unavailable: the registry does not answer or refuses.
    """
    out = Path(out)
    if out.exists() or out.is_symlink():
        raise StorageError(f"{out} exists already", hint="a pulled model gets a folder of its own")
    repository = Repository(reference, plain_http=plain_http)
    data, subject = repository.manifest(repository.wanted)
    layers = _named(read_layers(data, MODEL))
    sides = _attachments(repository, subject)
    _require_promised(layers, sides, trust)
    with _staging(out) as folder:
        _require_room(folder, layers, limit)
        for name, layer in layers.items():
            progress(name, layer.size)
            _save(repository, layer, folder / name)
        names = tuple(sides)
        proof = _verified(folder, tuple(layers), sides, trust)
        if accept is not None:
            accept(folder)
        folder.rename(out)
    return Pulled(out, subject.digest, tuple(layers), names, proof)


def _named(layers: list[Descriptor]) -> dict[str, Descriptor]:
    """Return the layers by path.

    Raises:
        UnreadableArtifact: a path twice, one inside another, or that of a signature, which may only come as a referrer.
    """
    result = {title_of(layer): layer for layer in layers}
    if len(result) != len(layers):
        raise UnreadableArtifact("the registry holds two files of one name")
    for name in result:
        if is_side_file(name) or any(other.startswith(f"{name}/") for other in result):
            raise UnreadableArtifact(f"the registry holds a file named {name!r} among those of the model")
    return result


def _require_promised(layers: Mapping[str, Descriptor], sides: _Sides, trust: TrustSources | Threshold) -> None:
    """Refuse, before any file is fetched, what no attached signature of ``trust`` promises.

    Raises:
        VerificationError: of the first signature that was attached.
        RecordMissing: there is none.
    """
    refusals: list[HoldfastError] = []
    for data in sides[_signature_name(tuple(layers), sides)]:
        try:
            _require_listed(layers, verify_listing(data, trust).listing)
            return
        except (VerificationError, UnreadableArtifact) as error:
            refusals.append(error)
    raise refusals[0]


def _require_listed(layers: Mapping[str, Descriptor], listing: Listing) -> None:
    """Refuse layers other than the files listed; their digests are compared where both sides have SHA-256."""
    alone = listing.files == {"."} and len(layers) == 1  # a model of one file, as model-signing names it
    there = {"." if alone else name: layer for name, layer in layers.items()}
    if more := sorted(there.keys() - listing.files):
        raise DigestMismatch(f"the registry adds {more[0]}, which was not signed")
    if lacking := sorted(listing.files - there.keys()):
        raise DigestMismatch(f"the registry lacks {lacking[0]}, which was signed")
    if listing.how.method == FILES and listing.how.hash == "sha256":
        for name, layer in there.items():
            if layer.digest != f"sha256:{listing.digests[name]}":
                raise DigestMismatch(f"{name} in the registry is not what was signed")


def _require_room(folder: Path, layers: Mapping[str, Descriptor], limit: int | None) -> None:
    wanted, free = sum(layer.size for layer in layers.values()), shutil.disk_usage(folder).free
    if wanted > min(free, free if limit is None else limit):
        room = f"{free} bytes are free" if limit is None or limit > free else f"the limit is {limit}"
        raise StorageError(f"the registry announces {wanted} bytes, and {room}", hint="nothing was fetched")


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """Yield a private folder beside ``out``; whatever of it was not renamed away vanishes."""
    make_folder(out.parent)
    root = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        folder = root / "model"
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _save(repository: Repository, layer: Descriptor, path: Path) -> None:
    make_folder(path.parent)
    with path.open("xb") as file:
        repository.fetch(layer, file)


def _attachments(repository: Repository, subject: Descriptor) -> _Sides:
    """Return the bundles and outboards that refer to ``subject``, by name; several may claim one."""
    found: _Sides = {}
    left = ATTACHED_LIMIT
    entries = [item for item in repository.referrers(subject) if item.artifact_type in (BUNDLE, OUTBOARD)]
    for entry in entries[:MAX_ATTACHMENTS]:
        data, _ = repository.manifest(entry.digest)
        for layer in read_layers(data, entry.artifact_type):
            if is_side_file(title_of(layer)) and layer.size <= min(BUNDLE_LIMIT, left):
                left -= layer.size
                out = io.BytesIO()
                repository.fetch(layer, out)
                found.setdefault(title_of(layer), []).append(out.getvalue())
    return found


def _verified(folder: Path, files: tuple[str, ...], sides: _Sides, trust: TrustSources | Threshold) -> Verified:
    """Place what is said about the model beside it and return the proof that its files are those signed."""
    target, signature = _subject(folder, files, sides)
    manifest = f"{signature}2"
    mine: list[bytes | None] = [data for data in sides.pop(manifest, []) if _is_signed(data, trust)]  # anyone attaches
    for name, candidates in sides.items():
        if name != signature:
            _place(folder / name, candidates[0])
    refusals: list[HoldfastError] = []
    for first, second in itertools.product(sides[signature], mine or [None]):
        _place(folder / signature, first)
        if second is not None:
            _place(folder / manifest, second)
        try:
            proof = verify_artifact(target, trust, signature=folder / signature)
            _require_signed(files, proof)
            return proof if second is None else verify(target, trust=trust)  # where there are two, they must agree
        except (VerificationError, UnreadableArtifact) as error:
            refusals.append(error)
    raise refusals[0]


def _require_signed(files: tuple[str, ...], proof: VerifiedArtifact) -> None:
    """Refuse a file that no signature covers: what is left unsigned, as git's own names are, anybody could have added.

    Raises:
        DigestMismatch: names the file.
    """
    if unsigned := sorted(set(files) - proof.listing.files) if proof.listing.files != {"."} else []:
        raise DigestMismatch(f"the registry adds {unsigned[0]}, which was not signed")


def _is_signed(data: bytes, trust: TrustSources | Threshold) -> bool:
    try:
        verify_bundle(data, trust)
    except (VerificationError, UnreadableArtifact, UnsupportedVersion):
        return False
    return True


def _subject(folder: Path, files: tuple[str, ...], sides: _Sides) -> tuple[Path, str]:
    """Return what was signed, the folder or its single file, and the name of the signature over it."""
    name = _signature_name(files, sides)
    return (folder if name == SIGNATURE else folder / files[0]), name


def _signature_name(files: tuple[str, ...], sides: _Sides) -> str:
    if len(files) == 1 and f"{files[0]}.sig" in sides:
        return f"{files[0]}.sig"
    if SIGNATURE not in sides:
        raise RecordMissing("nobody attached a signature to this model", hint="its maker signs it before the push")
    return SIGNATURE


def _place(path: Path, data: bytes) -> None:
    make_folder(path.parent)
    path.write_bytes(data)
