"""The door: a packed file, opened by memory map, as named tensors of codes and parameters with an address for each bit.

::

    with open_packed("model-Q4_K.gguf") as file:
        tensor = file["blk.0.ffn_up.weight"]
        tensor.scheme, tensor.shape, tensor.encoded().codes, tensor.decode()
        byte, bit = tensor.address("scale", torch.tensor([17]), torch.tensor([3]))
        file.locate(int(byte), int(bit))  # Place(name="blk.0.ffn_up.weight", part="scale", element=17, bit=3)

A file opened for writing takes faults in place, a flip costing a flip whatever the size of the file.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holdfast.errors import HoldfastError, NoSuchSite, UnreadableArtifact, UnsupportedFormat
from holdfast.execution import Flips, Population
from holdfast.models import Site
from holdfast.models.sites import chosen
from holdfast.numerics import bits
from holdfast.quantization.adapters import gguf_file, safetensors_file, schemes
from holdfast.quantization.adapters.field import Octets
from holdfast.quantization.adapters.ggml import ggml
from holdfast.quantization.adapters.layout import CODES, Extent, Layout
from holdfast.quantization.adapters.packed_tensor import PackedTensor, Place


class PackedFile(Mapping[str, PackedTensor]):
    """The tensors of a packed file by name, in the order of their names.

    Attributes:
        path: of the file.
        container: ``safetensors`` or ``gguf``.
        metadata: of the container.
        header: of a GGUF file, for :func:`write_packed` to keep its metadata as they are; None for safetensors.
        unread: stored tensors that no layout takes, and why.
    """

    def __init__(self, path: Path, octets: Octets, config: Mapping[str, Any]) -> None:
        self.path = path
        self.unread: dict[str, HoldfastError] = {}
        self.header: gguf_file.Header | None = None
        self._octets = octets
        self.container, self.metadata, extents, found = self._read(config)
        memory = self._memory(extents)
        self._tensors = {name: PackedTensor(found[name], memory, extents) for name in sorted(found)}
        taken = [(extents[stored], tensor) for tensor in self.values() for stored in tensor.layout.stored]
        starts = [(item.start, tensor) for item, tensor in taken if item.nbytes]
        self._starts = sorted(starts, key=lambda item: item[0])

    def _read(self, config: Mapping[str, Any]) -> tuple[str, Any, Mapping[str, Extent], dict[str, Layout]]:
        if self._octets[:4].tobytes() == gguf_file.MAGIC:
            self.header = header = gguf_file.read_header(self._octets)
            found: dict[str, Layout] = {}
            for name, item in header.tensors.items():
                try:
                    found[name] = ggml(name, item.dtype, item.shape)
                except UnsupportedFormat as error:
                    self.unread[name] = error
            return "gguf", header.metadata, header.tensors, found
        extents, metadata = safetensors_file.read_header(self._octets)
        config = config or schemes.config_beside(self.path)
        layouts, self.unread = schemes.layouts_of(extents, self._memory(extents), config)
        return "safetensors", metadata, extents, layouts

    def _memory(self, extents: Mapping[str, Extent]) -> dict[str, Octets]:
        return {name: self._octets[item.start : item.start + item.nbytes] for name, item in extents.items()}

    def __getitem__(self, name: str) -> PackedTensor:
        if name in self._tensors:
            return self._tensors[name]
        if name in self.unread:
            raise self.unread[name]
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def locate(self, byte: int, bit: int) -> Place | None:
        """Return what one bit of the file is; None for headers, padding and stored tensors that are not read."""
        candidates = bisect_right([start for start, _ in self._starts], byte)
        for _, tensor in reversed(self._starts[:candidates][-1:]):
            for part, (element, place) in tensor.locate(torch.tensor([byte]), torch.tensor([bit])).items():
                if int(element) >= 0:
                    return Place(tensor.name, part, int(element), int(place))
        return None

    def population(self, at: str | None = None) -> Population:
        """Return the bits that ``at`` selects: comma-separated ``kind:glob``, a bare kind being all of it; or all bits.

        The kinds are ``weights`` and ``qparams``; a site is as much a site as a model's, so every law of faults draws
        from it.

        Raises:
            NoSuchSite: a part matches nothing.
        """
        sites = tuple(site for tensor in self.values() for site in tensor.sites())
        return Population(sites if at is None else chosen(sites, at), self._codes)

    @contextmanager
    def applied(self, flips: Sequence[Flips]) -> Iterator[None]:
        """Have drawn ``flips`` in the file for the length of the block; afterwards every byte is what it was.

        Raises:
            InvalidConfig: the file is open for reading only.
        """
        done: list[Flips] = []
        try:
            for item in flips:
                masked = self.as_flips(item)
                self.xor_(masked)
                done.append(masked)
            yield
        finally:
            for item in reversed(done):
                self.xor_(item)

    def xor_(self, flips: Flips) -> None:
        """Flip the bits ``mask`` of the elements ``index`` of one site, in the file; once more undoes it."""
        tensor, part = self._split(flips.site)
        tensor.require_writable()
        field = tensor.layout.parts[part].field
        field.xor_(tensor.memory[field.tensor], flips.index, flips.mask)

    def as_flips(self, item: Flips) -> Flips:
        """Return changes as flips alone: what rises or falls depends on what is stored now."""
        tensor, part = self._split(item.site)
        field = tensor.layout.parts[part].field
        held = field.take(tensor.memory[field.tensor], item.index)
        return replace(item, mask=item.against(held), rise=None, fall=None, rewrite=None)

    def _codes(self, site: Site) -> Tensor:
        tensor, part = self._split(site)
        field = tensor.layout.parts[part].field
        return bits.int_view(field.unpack(tensor.memory[field.tensor])).flatten()

    def _split(self, site: Site) -> tuple[PackedTensor, str]:
        name, _, part = site.name.rpartition("/") if site.kind == "qparams" else (site.name, "", CODES)
        if site.kind not in ("weights", "qparams") or name not in self or part not in self[name].layout.parts:
            raise NoSuchSite(f"{self.path.name} has no site {site.address}")
        return self[name], part

    def close(self) -> None:
        """Write what has changed to the disk."""
        if isinstance(self._octets, np.memmap):
            self._octets.flush()

    def __enter__(self) -> PackedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_packed(path: Path | str, *, writable: bool = False, config: Mapping[str, Any] | None = None) -> PackedFile:
    """Open a packed file: GGUF, or safetensors with GPTQ, AWQ, compressed-tensors, NF4 or floating-point weights.

    Args:
        path: of the file; it is mapped, never read as a whole.
        writable: map it for writing, so that faults and codes go into the file itself. Work on a copy.
        config: what the producing tool says (``quant_method``, ``bits``, ``group_size``, ``checkpoint_format``);
            without it, ``quantize_config.json`` or ``config.json`` beside the file is asked. A GPTQ file that says
            nothing of its zeros is taken to be of the first convention.

    Raises:
        UnreadableArtifact: missing, truncated, malformed, or tensors that do not fit together.
        UnsupportedFormat, UnsupportedVersion: well-formed, but of a kind that is not read.
    """
    path = Path(path)
    try:
        octets = np.memmap(path, np.uint8, "r+" if writable else "r")
    except (OSError, ValueError) as error:
        raise UnreadableArtifact(f"cannot open {path}: {error}") from error
    return PackedFile(path, octets, config or {})


def is_packed(path: Path | str) -> bool:
    """Say whether ``path`` is a file of packed weights: GGUF, or safetensors that holds a packed scheme.

    Raises:
        UnreadableArtifact: a safetensors or GGUF file that is damaged.
    """
    path = Path(path)
    if not path.is_file() or path.suffix not in (".gguf", ".safetensors"):
        return False
    with open_packed(path) as file:
        return file.container == "gguf" or any(tensor.scheme != "float" for tensor in file.values())
