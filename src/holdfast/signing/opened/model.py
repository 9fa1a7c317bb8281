"""A signed model, opened: tensors and files come out one by one, each verified in the very memory that is handed out.

    with open_verified("model/", trust="author.pub") as model:
        weight = model.get_tensor("layer.weight")
        rows = model.get_slice("layer.weight")[: weight.shape[0] // 2]

Signature and policy are judged first, in milliseconds and without touching the weights. Offsets, types and shapes come
from the signed manifest, so no header is believed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from holdfast.errors import InvalidConfig, NoSuchSite, UnreadableArtifact
from holdfast.evidence.containers import index_for
from holdfast.evidence.model_manifest import ModelManifest, TensorEntry
from holdfast.signing.bundle import Verified
from holdfast.signing.opened.content import Content, Listed, read_content
from holdfast.signing.opened.memory import Memory
from holdfast.signing.opened.slices import VerifiedSlice
from holdfast.signing.opened.source import Folder
from holdfast.signing.opened.strict import require_nothing_unsigned
from holdfast.signing.opened.views import as_array, as_tensor, layout
from holdfast.signing.trusts import Threshold, TrustSources

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

T = TypeVar("T")
Policy = Callable[[Verified, ModelManifest | None], object]


def open_verified(
    model: Path | str,
    trust: TrustSources | Threshold,
    *,
    policy: Policy | None = None,
    signature: bytes | Path | str | None = None,
    strict: bool = True,
) -> VerifiedModel:
    """Open a signed model folder or file for reading.

    Args:
        model: folder, or a single container file.
        trust: who must have signed, as for :func:`holdfast.verify`.
        policy: called with the proof and the manifest (None for a plain OpenSSF signature) before anything is read; it
            raises to refuse, for example an older version than the last one seen.
        signature: bundle; by default ``model.sig2`` (the manifest), else ``model.sig``, which knows no tensors: then
            the first tensor of a file reads, hashes and keeps the whole file (``granularity`` says ``"file"``).
        strict: also refuse files of code, pickles or weights that are not signed, and containers whose own index does
            not agree with the signed tensors. What is not signed is never read, strict or not.

    Raises:
        RecordMissing: no signature.
        SignatureInvalid, SignerUntrusted: see :func:`holdfast.signing.verify_bundle`.
        DigestMismatch: strict, and something unsigned is there, or an index disagrees.
    """
    path = Path(model)
    if not path.exists():
        raise UnreadableArtifact(f"{path} does not exist")
    content = read_content(path, trust, signature)
    if policy is not None:
        policy(content.proof, content.manifest)
    opened = VerifiedModel(path, content)
    if strict:
        with closing_on_error(opened):
            require_nothing_unsigned(path, content, opened.memory)
    return opened


@contextmanager
def closing_on_error(opened: VerifiedModel) -> Iterator[None]:
    """Close ``opened`` when the block fails."""
    try:
        yield
    except BaseException:
        opened.close()
        raise


class VerifiedModel:
    """What :func:`open_verified` returns; safe to read from several threads, and a context manager.

    Tensors, slices and files own private memory and outlive :meth:`close`.
    """

    def __init__(self, path: Path, content: Content) -> None:
        single = not path.is_dir()
        self.path, self.content = path, content
        self.memory = Memory(Folder(path.parent if single else path), single=single)
        self._whole: dict[str, memoryview] = {}  # verified containers without signed tensors
        self._entries: dict[str, dict[str, TensorEntry]] = {name: dict(item) for name, item in content.tensors.items()}

    @property
    def proof(self) -> Verified:
        """The statement and who signed it."""
        return self.content.proof

    @property
    def manifest(self) -> ModelManifest | None:
        """The signed manifest; None when only an OpenSSF signature was there."""
        return self.content.manifest

    @property
    def granularity(self) -> str:
        """``"tensor"`` where tensors are signed one by one, ``"file"`` where whole files are read to verify one."""
        return "tensor" if self.content.tensors else "file"

    def containers(self) -> tuple[str, ...]:
        """Return the signed files that hold tensors."""
        return tuple(name for name in self.content.files if index_for(name) is not None)

    def entries(self, file: str) -> Mapping[str, TensorEntry]:
        """Return the tensors of one signed container, in the order of their bytes."""
        if file not in self._entries:
            self._entries[file] = self._entries_of_verified(self._listed(file))
        return self._entries[file]

    def keys(self, file: str | None = None) -> list[str]:
        """Return the names of all tensors, or of those of one file; sorted, each once."""
        return sorted({name for item in self._some(file) for name in self.entries(item)})

    def get_tensor(self, name: str, *, file: str | None = None) -> Tensor:
        """Return one tensor on the CPU, in memory of its own; a block format such as ``q4_k`` as rows of bytes (uint8).

        Raises:
            DigestMismatch: its bytes are not the signed ones; names file, tensor and bytes.
            NoSuchSite: no signed tensor of that name.
        """
        return self._tensor(self.entry(name, file))

    def get_array(self, name: str, *, file: str | None = None) -> np.ndarray[Any, Any]:
        """Return one tensor as a numpy array; as :meth:`get_tensor`, without torch."""
        entry = self.entry(name, file)
        sides, _ = layout(entry.dtype, entry.shape, entry.length)
        return as_array(self._bytes(entry), entry.dtype, sides)

    def get_slice(self, name: str, *, file: str | None = None) -> VerifiedSlice:
        """Return one tensor to index: ``[start:stop, ...]`` reads and verifies what it needs, given an outboard."""
        entry = self.entry(name, file)
        return VerifiedSlice(entry, lambda: self._bytes(entry), lambda start, stop: self._part(entry, start, stop))

    def get_tensors(
        self, names: Iterable[str] | None = None, *, file: str | None = None, threads: int = 1
    ) -> dict[str, Tensor]:
        """Return several tensors (all by default); all of them verify, or none is returned.

        Args:
            names: which, in the order of the result.
            file: of which file; needed where two files hold tensors of one name.
            threads: how many read and hash at a time: at most so many cores are kept busy.
        """
        wanted = self.keys(file) if names is None else list(names)
        entries = [self.entry(name, file) for name in wanted]
        tensors = self._map(self._tensor, entries, threads)
        return dict(zip(wanted, tensors, strict=True))

    def files(self) -> Mapping[str, bytes]:
        """Return the signed files as a mapping from name to verified bytes, read when they are asked for."""
        return VerifiedFiles(self)

    def file(self, name: str) -> memoryview:
        """Return the verified bytes of one file, read-only.

        Raises:
            DigestMismatch: other bytes than the signed ones.
            NoSuchSite: the signature does not name that file.
        """
        return self._whole[name] if name in self._whole else self.memory.file(self._listed(name))

    def size(self, file: str) -> int:
        """Return the length of a signed file in bytes, as signed, or as its verified bytes have it."""
        size = self._listed(file).size
        return len(self.file(file)) if size is None else size

    def range(self, file: str, start: int, stop: int) -> bytes:
        """Return bytes ``start`` to ``stop`` (exclusive) of a signed file, reading no more than the groups they touch.

        Without an outboard the whole file is read.

        Raises:
            DigestMismatch: names file and group.
            InvalidConfig: the range is not inside the file.
        """
        listed = self._listed(file)
        part = self.memory.outboard_check(listed, start, stop)
        if part is not None:
            return bytes(part)
        whole = self.file(file)
        if not 0 <= start <= stop <= len(whole):
            raise InvalidConfig(f"bytes {start}:{stop} are not inside {file}, which has {len(whole)}")
        return bytes(whole[start:stop])

    def damaged(self, file: str) -> Iterator[tuple[int, int]]:
        """Yield the byte range of every group of a file that differs from the signed one.

        Raises:
            InvalidConfig: the file has no signed outboard.
            DigestMismatch: it has another length, or its outboard is not the signed one.
        """
        return self.memory.damaged(self._listed(file))

    def entry(self, name: str, file: str | None = None) -> TensorEntry:
        """Return where one tensor lies and what it is, as signed.

        Raises:
            NoSuchSite: none has that name.
            InvalidConfig: tensors of several files do.
        """
        found = [self.entries(item)[name] for item in self._some(file) if name in self.entries(item)]
        if not found:
            raise NoSuchSite(f"the signature names no tensor {name!r}", hint="keys() lists them")
        if len(found) > 1:
            raise InvalidConfig(f"{' and '.join(e.file for e in found)} both hold {name!r}", hint="pass file=")
        return found[0]

    def _some(self, file: str | None) -> tuple[str, ...]:
        return self.containers() if file is None else (self._listed(file).name,)

    def _listed(self, name: str) -> Listed:
        if name not in self.content.files:
            raise NoSuchSite(f"the signature names no file {name!r}")
        return self.content.files[name]

    def _tensor(self, entry: TensorEntry) -> Tensor:
        sides, _ = layout(entry.dtype, entry.shape, entry.length)
        return as_tensor(self._bytes(entry), entry.dtype, sides)

    def _bytes(self, entry: TensorEntry) -> memoryview:
        if entry.file in self._whole:
            whole = self._whole[entry.file][entry.offset : entry.offset + entry.length]
            return memoryview(bytearray(whole))  # tensors are writable, and one must not reach into the next
        return self.memory.tensor(self._listed(entry.file), entry)

    def _part(self, entry: TensorEntry, start: int, stop: int) -> memoryview | None:
        return None if entry.file in self._whole else self.memory.part(self._listed(entry.file), entry, start, stop)

    def _entries_of_verified(self, listed: Listed) -> dict[str, TensorEntry]:
        """Read, verify and keep a whole container, and take its index from the verified memory."""
        index = index_for(listed.name)
        if index is None:
            raise InvalidConfig(f"{listed.name} is no container of tensors")
        whole = self.memory.file(listed)
        slots = index(lambda offset, length: bytes(whole[offset : offset + length]), len(whole))
        self._whole[listed.name] = whole
        return {s.name: TensorEntry(listed.name, s.name, s.dtype, s.shape, s.offset, s.length, "") for s in slots}

    @staticmethod
    def _map(call: Callable[[TensorEntry], T], entries: list[TensorEntry], threads: int) -> list[T]:
        if threads < 1:
            raise InvalidConfig(f"{threads} threads read nothing")
        if threads == 1:
            return [call(entry) for entry in entries]
        with ThreadPoolExecutor(threads) as pool:
            pending = [pool.submit(call, entry) for entry in entries]
            try:
                return [item.result() for item in pending]
            finally:
                pool.shutdown(cancel_futures=True)  # after a refusal nothing more is read

    def close(self) -> None:
        """Close the files; what was handed out stays valid."""
        self.memory.close()

    def __enter__(self) -> VerifiedModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class VerifiedFiles(Mapping[str, bytes]):
    """The signed files of a model: names to verified bytes."""

    def __init__(self, model: VerifiedModel) -> None:
        self._model = model

    def __getitem__(self, name: str) -> bytes:
        if name not in self._model.content.files:
            raise KeyError(name)
        return bytes(self._model.file(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._model.content.files)

    def __len__(self) -> int:
        return len(self._model.content.files)
