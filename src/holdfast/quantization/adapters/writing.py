"""Codes and parameters back into the files of other tools."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from holdfast.errors import InvalidConfig
from holdfast.numerics.formats import Encoded
from holdfast.quantization.adapters.field import Octets
from holdfast.quantization.adapters.gguf_file import TYPES, Header, write_gguf
from holdfast.quantization.adapters.layout import ELEMENTS, Extent, Layout
from holdfast.quantization.adapters.safetensors_file import write_safetensors


def write_packed(
    path: Path | str, tensors: Iterable[tuple[Layout, Encoded]], metadata: Mapping[str, Any] | Header | None = None
) -> None:
    """Write tensors as a file that the tools of their schemes read; the suffix, ``.gguf`` or not, says which container.

    Reading a file and writing its tensors gives back the stored bytes of each, except padding, which becomes zero.

    Args:
        path: complete on disk before it takes its name.
        tensors: a layout (``gptq``, ``awq``, ``compressed_tensors``, ``ggml``, ``floating``) and what it is to hold.
        metadata: text to text for safetensors; scalars, or the header of another file, for GGUF.

    Raises:
        InvalidConfig: a tensor twice, of the other container, or that does not fit its layout.
        StorageError: the disk refuses; a file that stood there still stands.
    """
    path, stored = Path(path), _stored(tensors)
    gguf = path.suffix == ".gguf"
    for name, (extent, _) in stored.items():
        if extent.dtype not in (TYPES if gguf else ELEMENTS):
            raise InvalidConfig(f"{name} is {extent.dtype}, which {path.name} does not take", hint="see its suffix")
    if gguf:
        write_gguf(path, stored, metadata)
    elif isinstance(metadata, Header):
        raise InvalidConfig("the header of a GGUF file is no metadata of a safetensors file")
    else:
        write_safetensors(path, stored, metadata)


def _stored(tensors: Iterable[tuple[Layout, Encoded]]) -> dict[str, tuple[Extent, Octets]]:
    found: dict[str, tuple[Extent, Octets]] = {}
    for layout, encoded in tensors:
        for name, octets in layout.pack(encoded).items():
            if name in found:
                raise InvalidConfig(f"{name} is to be written twice")
            found[name] = (layout.stored[name], octets)
    return found
