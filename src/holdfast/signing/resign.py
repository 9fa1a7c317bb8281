"""Signing a changed model again: what the old signature still holds for is taken from it, the rest is hashed.

A file is taken from the old manifest only when that verifies under the caller's trust, this machine remembers having
hashed it to the very same digest, and nothing of size, times, inode and device changed since. Of all that is taken so,
a random part is read and compared again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from blake3 import blake3

from holdfast._files import write_atomic
from holdfast.errors import DigestMismatch, InvalidConfig
from holdfast.evidence.beside import GIT_NAMES, default_manifest
from holdfast.evidence.digest import Hashed, Wanted, hash_files
from holdfast.evidence.hashing import Stamp, windows
from holdfast.evidence.model_manifest import ModelManifest
from holdfast.evidence.tree import Found, Links, Tree, open_tree
from holdfast.seeds import Entropy
from holdfast.signing.digest_cache import GROUP, DigestCache, Known
from holdfast.signing.manifests import (
    manifest_of,
    next_version,
    read_manifest,
    sign_manifest,
    unsigned_names,
)
from holdfast.signing.pair import renew_openssf
from holdfast.signing.signers.protocol import KeyHolder, Signer
from holdfast.signing.trusts import Threshold, TrustSources

SAMPLE = 0.01  # of the bytes that are taken from the old signature
_MOST_SAMPLED = 1 << 30  # bytes read again, unless the caller asks for a part


@dataclass(frozen=True, slots=True)
class Resigned:
    """What became of signing again.

    Attributes:
        path: of the bundle.
        manifest: the new one.
        previous: the verified old one.
        hashed: files that were read.
        reused: files whose entries came from the old manifest.
        sampled: bytes of the reused files that were read again and compared.
    """

    path: Path
    manifest: ModelManifest
    previous: ModelManifest
    hashed: tuple[str, ...]
    reused: tuple[str, ...]
    sampled: int


def resign(
    model: Path | str,
    signer: Signer,
    trust: TrustSources | Threshold,
    *more: KeyHolder,
    full: bool = False,
    sample: float | None = None,
    version: int | None = None,
    ignore: Iterable[str] | None = None,
    signature: Path | str | None = None,
    links: Links = Links.REFUSE,
    cache: DigestCache | None = None,
    threads: int | None = None,
) -> Resigned:
    """Sign ``model`` as it is now, reading only what changed since its old manifest was signed; replace the bundle.

    An OpenSSF signature in its usual place is replaced as well.

    The first time, and for files younger than the clock's grain, everything is read: what was signed elsewhere is no
    memory of this machine.

    Args:
        model: folder or file.
        signer: whose verification material the new bundle carries.
        trust: who must have signed the old manifest.
        more: further signers, named by their keys.
        full: read everything.
        sample: part (0 .. 1) of the reused bytes to read again; one hundredth, at most 1 GiB, by default.
        version: one more than the old one's by default; the same when nothing changed.
        ignore: relative paths to leave unsigned; those of the old manifest by default.
        signature: the bundle, if not in its usual place.
        links: which symbolic links to follow.
        cache: this machine's memory; the user's by default.
        threads: how many to use; as many as there are cores by default.

    Raises:
        VerificationError: the old manifest is not ``trust``'s, or a sample differs from what it says.
        ArtifactError, InvalidConfig: see :func:`write_manifest`.
    """
    path = default_manifest(model) if signature is None else Path(signature)
    if sample is not None and not 0 <= sample <= 1:
        raise InvalidConfig(f"a sample of {sample} is no part between 0 and 1")
    previous, _ = read_manifest(model, trust, signature=path)
    ignore = previous.ignore if ignore is None else tuple(sorted({*ignore, *(set(previous.ignore) & set(GIT_NAMES))}))
    cache = DigestCache.of_user() if cache is None else cache
    memory = cache.recall(model)
    with open_tree(model, exclude=unsigned_names(model, path, ignore=ignore), links=links) as tree:
        known = {} if full else _still_known(tree, previous, memory)
        changed = [item for item in tree.files if item.name not in known]
        wanted = Wanted(algorithms=_algorithms(previous), tensors=True, strict=False, shards=("blake3", GROUP))
        found = hash_files(tree, changed, wanted, threads=threads)
        sampled = _sample(tree, known, sample)
    manifest = _merged(model, replace(previous, ignore=ignore), found, known)
    if version is not None or manifest != previous:
        manifest = replace(manifest, version=next_version(version, previous))
    write_atomic(path, sign_manifest(manifest, signer, *more))
    if signature is None:
        renew_openssf(model, manifest, signer, *more)
    cache.remember(model, found, known)
    return Resigned(path, manifest, previous, tuple(found), tuple(known), sampled)


def _algorithms(previous: ModelManifest) -> tuple[str, ...]:
    return ("sha256", "blake3") if any(item.sha256 for item in previous.files) else ("blake3",)


def _still_known(tree: Tree, previous: ModelManifest, memory: Mapping[str, Known]) -> dict[str, Known]:
    """Return the files for which the old manifest, the memory and the file as it lies there agree."""
    signed = {item.name: item for item in previous.files}
    result = {}
    for item in tree.files:
        entry, known = signed.get(_signed_name(tree, item)), memory.get(item.name)
        if entry is None or known is None or (entry.size, entry.blake3) != (known.stamp.size, known.blake3):
            continue
        with tree.open(item) as descriptor:
            if Stamp.of(descriptor) == known.stamp:
                result[item.name] = known
    return result


def _signed_name(tree: Tree, item: Found) -> str:
    return tree.root.name if item.name == "." else item.name


def _merged(
    model: Path | str, previous: ModelManifest, found: Mapping[str, Hashed], known: Mapping[str, Known]
) -> ModelManifest:
    """Return the manifest of hashed and known files, in all else like the previous one."""
    kept = {Path(model).name if name == "." else name for name in known}
    fresh = manifest_of(model, found) if found else replace(previous, files=(), tensors=())
    return ModelManifest.of(
        fresh.name,
        [*fresh.files, *(item for item in previous.files if item.name in kept)],
        [*fresh.tensors, *(item for item in previous.tensors if item.file in kept)],
        version=previous.version,
        base=previous.base,
        ignore=previous.ignore,
    )


def _sample(tree: Tree, known: Mapping[str, Known], part: float | None) -> int:
    """Read random groups of the known files again; return how many bytes that were.

    Raises:
        DigestMismatch: one differs, although size, times, inode and device say that it did not change.
    """
    groups = [(item, place, span) for item in tree.files if item.name in known for place, span in _groups(item, known)]
    total = sum(span[1] for _, _, span in groups)
    budget = min(total * SAMPLE, _MOST_SAMPLED) if part is None else total * part
    done, left = 0, list(groups)
    while left and (done < budget):
        chosen = _below(len(left))
        left[chosen], left[-1] = left[-1], left[chosen]
        item, place, span = left.pop()
        if _digest(tree, item, span) != known[item.name].groups[place]:
            start, stop = span[0], span[0] + span[1]
            raise DigestMismatch(
                f"bytes {start}:{stop} of {item.name} changed without a trace", hint="sign again with --full"
            )
        done += span[1]
    return done


def _groups(item: Found, known: Mapping[str, Known]) -> Sequence[tuple[int, tuple[int, int]]]:
    return list(enumerate(windows(known[item.name].stamp.size, GROUP)))


def _digest(tree: Tree, item: Found, span: tuple[int, int]) -> str:
    hasher, (place, stop) = blake3(), (span[0], span[0] + span[1])
    with tree.open(item) as descriptor:
        while place < stop and (data := os.pread(descriptor, min(1 << 20, stop - place), place)):
            hasher.update(data)
            place += len(data)
    return hasher.hexdigest()


def _below(count: int) -> int:
    """Return an unpredictable number below ``count``; the bias of 64 bits over any file list is below 2^-30."""
    return int.from_bytes(Entropy().bytes(8), "little") % count
