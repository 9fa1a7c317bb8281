"""Pushing a signed model: one layer a file, and one referring manifest for every thing that is said about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from holdfast._files import read_bytes
from holdfast.distribution.layout import (
    BUNDLE,
    BUNDLE_LIMIT,
    CONFIG,
    EMPTY,
    FILEPATH,
    OUTBOARD,
    TITLE,
    Descriptor,
    attachment_manifest,
    is_side_file,
    layer_type,
    model_manifest,
)
from holdfast.distribution.registry import Repository, digest_of
from holdfast.errors import InvalidConfig, RecordMissing
from holdfast.evidence import canonical
from holdfast.evidence.beside import GIT_NAMES
from holdfast.evidence.digest import FileDigest, digest_file, digest_tree
from holdfast.evidence.statement import Statement
from holdfast.signing.envelope import read_envelope
from holdfast.signing.oms import default_signature, read_statement
from holdfast.signing.oms.names import OWN_NAMES, covers

Progress = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class Pushed:
    """What lies in the registry now: the manifest's digest, the files and the names of what was attached."""

    reference: str
    digest: str
    files: tuple[str, ...]
    attached: tuple[str, ...]


def push(
    model: Path | str, reference: str, *, plain_http: bool = False, progress: Progress = lambda _name, _size: None
) -> Pushed:
    """Push a signed model and its evidence to ``HOST/NAME:TAG``.

    Args:
        model: a folder with ``model.sig`` in it, or a file with its ``.sig`` beside it.
        reference: where to; a tag, since the digest follows from the files.
        plain_http: talk without TLS, as to a registry on this machine.
        progress: called with the name and size of each file that is about to go.

    Raises:
        RecordMissing: the model is not signed.
        InvalidConfig: the reference names a digest, or no registry.
        Unavailable: the registry does not answer or refuses.
    """
    repository = Repository(reference, plain_http=plain_http)
    if repository.wanted.startswith("sha256:"):
        raise InvalidConfig("a digest cannot be chosen", hint="push to a tag: HOST/NAME:TAG")
    files, sides = _sorted_out(Path(model))
    layers = [_put(repository, path, name, layer_type(name), item, progress) for name, (path, item) in files.items()]
    config = _put_config(repository, Path(model).resolve().name, layers)
    manifest = model_manifest(config, layers)
    repository.put_manifest(manifest, repository.wanted)
    _, subject = repository.manifest(digest_of(manifest))
    _attach_all(repository, subject, sides, progress)
    return Pushed(reference, subject.digest, tuple(files), tuple(sides))


_Found = dict[str, tuple[Path, FileDigest]]


def _sorted_out(model: Path) -> tuple[_Found, _Found]:
    """Return the model's own files and those that speak about it, by name."""
    found = dict(_found(model))
    sides = {name: item for name, item in found.items() if is_side_file(name)}
    files = {name: item for name, item in found.items() if name not in sides}
    if not any(name.endswith(".sig") for name in sides) or not files:
        raise RecordMissing(f"{model} has no signature to push", hint="holdfast sign it first")
    return files, sides


def _found(model: Path) -> Iterator[tuple[str, tuple[Path, FileDigest]]]:
    if model.is_dir():
        found = digest_tree(model, exclude=_left_out(model))
        yield from ((name, (model / name, item)) for name, item in found.items())
        return
    beside = (model.with_name(f"{model.name}{suffix}") for suffix in ("", ".sig", ".sig2", ".obao"))
    yield from ((path.name, (path, digest_file(path))) for path in beside if path.is_file())


def _left_out(model: Path) -> Callable[[str], bool]:
    """Return what tells the paths that the signature leaves out: who pulls could not tell them from a stranger's."""
    signature, ignored = default_signature(model), frozenset(GIT_NAMES)
    if signature.is_file():
        envelope = read_envelope(read_bytes(signature, "signature", limit=BUNDLE_LIMIT))
        ignored |= read_statement(Statement.from_bytes(envelope.payload)).how.ignore - {*OWN_NAMES}
    return lambda name: covers(ignored, name) and not is_side_file(name)


def _put(
    repository: Repository, path: Path, name: str, media_type: str, item: FileDigest, progress: Progress
) -> Descriptor:
    progress(name, item.size)
    digest = f"sha256:{item.sha256}"
    repository.put_blob(path, digest, item.size)
    return Descriptor(media_type, digest, item.size, {TITLE: name, FILEPATH: name})


def _put_config(repository: Repository, name: str, layers: list[Descriptor]) -> Descriptor:
    """Upload ModelPack's configuration: the model's name and the digests of its uncompressed layers; no clock in it."""
    diffs = {"type": "layers", "diffIds": [layer.digest for layer in layers]}
    return _put_bytes(
        repository, canonical.dumps({"descriptor": {"name": name}, "config": {}, "modelfs": diffs}), CONFIG
    )


def _put_bytes(repository: Repository, data: bytes, media_type: str) -> Descriptor:
    repository.put_blob(data, digest_of(data), len(data))
    return Descriptor(media_type, digest_of(data), len(data))


def _attach_all(repository: Repository, subject: Descriptor, sides: _Found, progress: Progress) -> None:
    empty = _put_bytes(repository, b"{}", EMPTY)
    for name, (path, item) in sides.items():
        kind = OUTBOARD if name.endswith(".obao") else BUNDLE
        layer = _put(repository, path, name, kind, item, progress)
        repository.attach(attachment_manifest(kind, empty, [layer], subject), subject, kind)
