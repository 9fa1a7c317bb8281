"""Outboards beside a signed model: writing them, with their roots for the manifest, and checking ranges by them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from holdfast._files import write_atomic
from holdfast.errors import DigestMismatch, InvalidConfig
from holdfast.evidence.beside import outboard_path
from holdfast.evidence.model_manifest import FileEntry, ModelManifest
from holdfast.evidence.outboard import GROUP, outboard_and_digest
from holdfast.signing.bundle import Verified
from holdfast.signing.opened.model import open_verified
from holdfast.signing.opened.source import Folder, OpenFile, private_buffer
from holdfast.signing.trusts import Threshold, TrustSources

_PIECE = 1 << 20
LEAST = 4 << 20  # bytes; a file below is read whole faster than its outboard


def write_outboards(
    model: Path | str, manifest: ModelManifest, *, group: int = GROUP, least: int = LEAST
) -> ModelManifest:
    """Write an outboard for every file of at least ``least`` bytes; return the manifest with their roots, to be signed.

    Raises:
        DigestMismatch: a file is not the one in the manifest; its outboard is not written.
        StorageError: the disk refuses.
    """
    model = Path(model)
    folder = Folder(model if model.is_dir() else model.parent)
    try:
        files = tuple(_write(model, folder, item, group) if item.size >= least else item for item in manifest.files)
    finally:
        folder.close()
    return replace(manifest, files=files)


def _write(model: Path, folder: Folder, item: FileEntry, group: int) -> FileEntry:
    handle = folder.open(item.name)
    try:
        outboard, digest = outboard_and_digest(_pieces(handle, item.size), group=group)
    finally:
        handle.close()
    if handle.size != item.size or digest != item.blake3:
        raise DigestMismatch(f"{item.name} changed since its manifest was made")
    write_atomic(outboard_path(model, item.name), outboard.to_bytes())
    return replace(item, outboard=outboard.root)


def _pieces(handle: OpenFile, size: int) -> Iterator[memoryview]:
    buffer = private_buffer(min(_PIECE, size))
    for place in range(0, size, _PIECE):
        piece = buffer[: min(_PIECE, size - place)]
        handle.read_into(piece, place)
        yield piece


@dataclass(frozen=True, slots=True)
class VerifiedRange:
    """Proof that bytes ``start`` to ``stop`` of ``file`` are the signed ones; ``data`` are these bytes."""

    proof: Verified
    file: str
    start: int
    stop: int
    data: bytes
    bytes_read: int  # from the file and its outboard, to show it


def verify_range(
    model: Path | str, span: str, trust: TrustSources | Threshold, *, signature: Path | str | None = None
) -> VerifiedRange:
    """Verify ``FILE:START:STOP`` of a signed model, reading the groups it touches and no more.

    Raises:
        InvalidConfig: the range cannot be read, or is not inside the file.
        NoSuchSite: the signature does not name the file.
        DigestMismatch: the bytes differ; names file and group.
    """
    file, start, stop = parse_range(span)
    with open_verified(model, trust, signature=signature, strict=False) as opened:
        data = opened.range(file, start, stop)
        return VerifiedRange(opened.proof, file, start, stop, data, opened.memory.bytes_read)


def parse_range(span: str) -> tuple[str, int, int]:
    """Split ``FILE:START:STOP``; the name may hold colons."""
    file, *numbers = span.rsplit(":", 2)
    if len(numbers) != 2 or not file or not all(item.isascii() and item.isdigit() for item in numbers):
        raise InvalidConfig(f"cannot read the range {span!r}", hint="write FILE:START:STOP, in bytes")
    return file, int(numbers[0]), int(numbers[1])


def damaged_ranges(
    model: Path | str, file: str, trust: TrustSources | Threshold, *, signature: Path | str | None = None
) -> tuple[tuple[int, int], ...]:
    """Return the byte ranges of ``file`` that differ from the signed ones, found by its outboard; none if it is whole.

    Raises:
        InvalidConfig: the signature names no outboard for the file, so that only all of it can be checked.
        DigestMismatch: the file has another length, or the outboard was changed.
    """
    with open_verified(model, trust, signature=signature, strict=False) as opened:
        return tuple(opened.damaged(file))


__all__ = ["VerifiedRange", "damaged_ranges", "outboard_path", "parse_range", "verify_range", "write_outboards"]
