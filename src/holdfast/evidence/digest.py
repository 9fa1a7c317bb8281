"""Digests of bytes, files and tensors: BLAKE3 as the name of things, SHA-256 beside it for other tools."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from dataclasses import field as member
from pathlib import Path

from blake3 import blake3

from holdfast.errors import ArtifactError, InvalidConfig, UnreadableArtifact
from holdfast.evidence.containers import Slot, index_for
from holdfast.evidence.hashing import (
    ALGORITHMS,
    Recorder,
    Sink,
    Spans,
    Stamp,
    Whole,
    read_pass,
    usable_threads,
    windows,
)
from holdfast.evidence.tree import Exclude, Found, Links, Tree, open_tree

TENSOR_CONTEXT = "holdfast 2026 tensor v1"
_WORTH_THREADS = 4 << 20  # bytes of all files


@dataclass(frozen=True, slots=True)
class FileDigest:
    """The size and both digests (lower-case hex) of one byte string."""

    size: int  # bytes
    sha256: str
    blake3: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What one pass over each file computes.

    Attributes:
        algorithms: of whole files, from :data:`holdfast.evidence.hashing.ALGORITHMS`.
        tensors: whether also the BLAKE3 of every tensor in safetensors, GGUF and stored NPZ files.
        shards: (algorithm, bytes): also the digest of each so many bytes.
        listeners: called with a file's name and size, gives more to feed in the same pass (an outboard tree, progress).
    """

    algorithms: tuple[str, ...] = ("sha256", "blake3")
    tensors: bool = False
    shards: tuple[str, int] | None = None
    strict: bool = True  # refuse a malformed container, rather than say so in Hashed.note and list no tensors of it
    listeners: Callable[[str, int], Sequence[Sink]] | None = None

    def __post_init__(self) -> None:
        for name in (*self.algorithms, *(self.shards or ())[:1]):
            if name not in ALGORITHMS:
                raise InvalidConfig(f"unknown hash {name!r}", hint=f"choose {', '.join(ALGORITHMS)}")
        if self.shards is not None and self.shards[1] < 1:
            raise InvalidConfig(f"shards of {self.shards[1]} bytes hold nothing")


@dataclass(frozen=True, slots=True)
class Hashed:
    """What one pass over a file found; digests are lower-case hex."""

    stamp: Stamp
    digests: Mapping[str, str]  # by algorithm
    tensors: tuple[tuple[Slot, str], ...] = ()  # in the order of their bytes
    shards: tuple[str, ...] = ()
    note: str = ""  # why no tensors of this container are listed
    listeners: Sequence[Sink] = member(default=(), compare=False)  # those of Wanted.listeners, having seen everything

    @property
    def size(self) -> int:
        """Of the file, in bytes."""
        return self.stamp.size


BOTH = Wanted()


def digest_bytes(data: bytes | memoryview) -> str:
    """Return the BLAKE3 digest of ``data`` as 64 hex digits."""
    return blake3(data).hexdigest()


def digest_both(data: bytes | memoryview) -> FileDigest:
    """Return the size and both digests of bytes in memory."""
    return FileDigest(len(data), hashlib.sha256(data).hexdigest(), blake3(data).hexdigest())


def digest_file(path: Path | str, *, threads: int | None = None) -> FileDigest:
    """Return size, SHA-256 and BLAKE3 of a file from one read pass and constant memory.

    Raises:
        UnreadableArtifact: the file is missing or cannot be read, or changed meanwhile.
    """
    try:
        with Path(path).open("rb") as handle:
            return _both(hash_open(handle.fileno(), str(path), threads=threads or usable_threads()))
    except OSError as error:
        raise UnreadableArtifact(f"cannot read {path}: {error.strerror or error}") from error


def _both(item: Hashed) -> FileDigest:
    return FileDigest(item.size, item.digests["sha256"], item.digests["blake3"])


def digest_tensor(name: str, dtype: str, shape: Iterable[int], data: bytes | memoryview) -> str:
    """Return the BLAKE3 digest that binds a tensor's name, dtype, shape and little-endian row-major bytes.

    Every field is length-prefixed under a context of its own, so no two different tensors share an input.
    """
    hasher = blake3(tensor_prefix(name, dtype, shape), derive_key_context=TENSOR_CONTEXT)
    hasher.update(data)
    return hasher.hexdigest()


def tensor_prefix(name: str, dtype: str, shape: Iterable[int]) -> bytes:
    """Return what stands before a tensor's bytes where :func:`digest_tensor` digests them."""
    fields = name.encode(), dtype.encode(), b"".join(side.to_bytes(8, "little") for side in shape)
    return b"".join(len(field).to_bytes(8, "little") + field for field in fields)


def digest_tree(
    root: Path | str,
    *,
    exclude: Exclude = (),
    links: Links = Links.REFUSE,
    threads: int | None = None,
) -> dict[str, FileDigest]:
    """Return the digest of every regular file below ``root`` by POSIX path, sorted; a file gives one entry ``"."``.

    Args:
        root: folder or file.
        exclude: relative POSIX paths to leave out, or what tells them; that of a folder leaves out everything in it.
        links: which symbolic links to follow; none by default.
        threads: how many to use; as many as there are cores by default.

    Raises:
        UnreadableArtifact: ``root`` is missing, or holds a link, device, socket or a name that is not UTF-8; or a file
            changed while it was read.
    """
    found = hash_tree(root, BOTH, exclude=exclude, links=links, threads=threads)
    return {name: _both(item) for name, item in found.items()}


def hash_tree(
    root: Path | str,
    wanted: Wanted = BOTH,
    *,
    exclude: Exclude = (),
    links: Links = Links.REFUSE,
    threads: int | None = None,
) -> dict[str, Hashed]:
    """Return what ``wanted`` asks for of every file below ``root``, each from one pass; as :func:`digest_tree` else.

    Raises:
        ArtifactError: see :func:`digest_tree`; or, where tensors are wanted, a container that is malformed.
    """
    with open_tree(root, exclude=exclude, links=links) as tree:
        return hash_files(tree, tree.files, wanted, threads=threads)


def hash_files(tree: Tree, files: Sequence[Found], wanted: Wanted, *, threads: int | None = None) -> dict[str, Hashed]:
    """Return what ``wanted`` asks for of these files of an open tree, by name in the order given.

    Files go side by side; a file so large that the other threads would wait for it gets several itself.
    """
    threads, total = threads or usable_threads(), sum(item.size for item in files)
    if total < _WORTH_THREADS:
        threads = 1
    if threads == 1 or total - max(item.size for item in files) < _WORTH_THREADS:
        return {item.name: _hash_one(tree, item, wanted, threads) for item in files}
    large = sum(item.size * threads >= total for item in files)
    inner = max(1, threads // max(large, 1))

    def work(item: Found) -> Hashed:
        return _hash_one(tree, item, wanted, inner if item.size * threads >= total else 1)

    ordered = sorted(files, key=lambda item: -item.size)
    found = _side_by_side(work, ordered, threads)
    return {item.name: found[item.name] for item in files}


def _side_by_side(work: Callable[[Found], Hashed], items: Sequence[Found], threads: int) -> dict[str, Hashed]:
    """Do all items on ``threads`` threads, each taking the next one left; the first error ends them all."""
    from concurrent.futures import ThreadPoolExecutor

    ahead, done = deque(items), dict[str, Hashed]()

    def take() -> Found | None:
        with suppress(IndexError):  # another thread took the last one
            return ahead.popleft()
        return None

    def drain() -> None:
        try:
            while (item := take()) is not None:
                done[item.name] = work(item)
        except BaseException:
            ahead.clear()
            raise

    with ThreadPoolExecutor(min(threads, len(items))) as pool:
        for task in [pool.submit(drain) for _ in range(min(threads, len(items)))]:
            task.result()
    return done


def _hash_one(tree: Tree, item: Found, wanted: Wanted, threads: int) -> Hashed:
    name = tree.root.name if item.name == "." else item.name
    with tree.open(item) as descriptor:
        return hash_open(descriptor, name, wanted, threads=threads)


def hash_open(descriptor: int, name: str, wanted: Wanted = BOTH, *, threads: int = 1) -> Hashed:
    """Return what ``wanted`` asks for of one open file; ``name`` says what container it is, and is in messages.

    Raises:
        ArtifactError: it changed while it was read, or is a malformed container.
    """
    stamp = Stamp.of(descriptor)
    size = stamp.size
    recorder = Recorder(descriptor, size)
    slots, note = _slots(name, recorder, size, wanted)
    index = recorder.sink()
    whole = [Whole(algorithm) for algorithm in wanted.algorithms]
    tensors = Spans([(slot.offset, slot.length) for slot in slots]) if slots else None
    shards = Spans(tuple(windows(size, wanted.shards[1])), wanted.shards[0]) if wanted.shards else None
    listeners = tuple(wanted.listeners(name, size)) if wanted.listeners else ()
    sinks: list[Sink] = [*whole, *([index, tensors] if tensors else []), *([shards] if shards else []), *listeners]
    read_pass(descriptor, sinks, threads=threads, name=name, before=stamp)
    if tensors:
        recorder.confirm(index)
    digests = {item.algorithm: item.digest() for item in whole}
    found = tuple(zip(slots, tensors.digests(), strict=True)) if tensors else ()
    return Hashed(stamp, digests, found, shards.digests() if shards else (), note, listeners)


def _slots(name: str, recorder: Recorder, size: int, wanted: Wanted) -> tuple[tuple[Slot, ...], str]:
    """Return the tensors of a container, or why there are none that can be listed."""
    index = index_for(name) if wanted.tensors else None
    try:
        return (index(recorder.read, size) if index else ()), ""
    except ArtifactError as error:
        if wanted.strict:
            raise
        return (), str(error)
