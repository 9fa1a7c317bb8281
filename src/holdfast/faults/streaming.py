"""Faults in the stored file of a model that is never loaded: memory-mapped, tensor by tensor.

The errors are those that :func:`holdfast.inject` puts into the loaded model under the same seed, because a law keys
its draws by the site and not by the file; so a model of any size can be broken, shipped and run elsewhere, sharded or
not, and the experiment stays the same.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch

from holdfast._files import make_folder, read_bytes, replacing
from holdfast.errors import InvalidConfig, UnreadableArtifact
from holdfast.execution import Progress
from holdfast.execution.condition import Fault, Flips, Population
from holdfast.models.artifact import DESCRIPTION
from holdfast.models.census import stored_format
from holdfast.models.description import read_description
from holdfast.models.site import Site
from holdfast.models.sites import chosen
from holdfast.models.tensor_file import INDEX_SUFFIX, TensorSpan, tensor_spans, weight_files
from holdfast.numerics import bits
from holdfast.numerics.formats import Format, formats
from holdfast.seeds import Seed, derive


@runtime_checkable
class InPlace(Protocol):
    """A law that can flip a site's raw memory without listing its flips first."""

    def flip_memory_(self, octets: np.ndarray, site: Site, seed: Seed) -> int:
        """Flip ``octets`` (uint8, writable) in place and return how many bits changed."""
        ...


@dataclass(frozen=True, slots=True)
class FileInjection:
    """What became of a file: ``flipped`` bits by site address, of ``population`` bits that might have."""

    flipped: Mapping[str, int]
    population: int

    @property
    def total(self) -> int:
        """Number of bits that flipped."""
        return sum(self.flipped.values())


def inject_file(
    source: Path | str,
    out: Path | str,
    fault: Fault,
    *,
    at: str = "weights",
    seed: int = 0,
    progress: Progress | None = None,
) -> FileInjection:
    """Write a copy of a stored model with ``fault`` in it, reading and changing only what the fault touches.

    Bits of tensor ``name`` fail as the site ``weights:name`` of the loaded model fails under the same ``seed``; a law
    that counts through the whole population, such as ``bit-flip``, counts through the tensors by name, since a file
    does not know the model's own order. Nor does it say which tensors are buffers: all floating-point tensors are
    weights here, and integers that are no codes of a format are left alone. Each file of the copy takes its name when
    it is complete.

    Args:
        source: a ``.safetensors`` file, a folder of such shards, or an artifact folder, whose codes then fail as
            codes and whose scales are ``qparams``.
        out: the copy, a file or a folder like ``source``; the folder's other files are copied as they are.
        fault: the law.
        at: selection, such as ``weights:model.layers.*``.
        seed: the chip, or the realisation.
        progress: called with (files done, files).

    Raises:
        NoSuchSite: nothing matches ``at``.
        UnreadableArtifact: a missing or damaged file, or one tensor in two shards.
        UnsafeArtifact: a file of another kind.
        InvalidConfig: ``out`` is ``source`` or holds weights of another model, or the fault is of each read, which no
            file can hold.
        StorageError: the disk refuses; a file that stood there before stays whole.
    """
    source, out = Path(source), Path(out)
    _require_possible(source, out, fault)
    spans = _sites(source)
    _require_no_others(source, out)
    population = Population(chosen(tuple(spans), at), lambda site: torch.from_numpy(_elements(spans[site])))
    breaks = _breaking(fault, population, derive(seed, "inject"))
    flipped: dict[str, int] = {}
    files = _copied(source, out)
    for done, (file, copy) in enumerate(files, start=1):
        own = {site: spans[site] for site in population.sites if spans[site].file == file}
        with replacing(copy) as temporary:
            shutil.copyfile(file, temporary)
            for site, span in own.items():
                flipped[site.address] = breaks(_octets(replace(span, file=temporary), "r+"), site, span)
        if progress is not None:
            progress(done, len(files))
    return FileInjection(flipped, population.bits)


def _require_possible(source: Path, out: Path, fault: Fault) -> None:
    if getattr(fault, "each_read", False):
        raise InvalidConfig("a fault of each read leaves no trace in a file", hint="use inject() on the loaded model")
    if out.resolve() == source.resolve():
        raise InvalidConfig(f"{out} would overwrite the model it comes from", hint="give the copy another name")
    if out.exists() and out.is_dir() != source.is_dir():
        raise InvalidConfig(f"{out} is a {'folder' if out.is_dir() else 'file'}, unlike {source}")


def _require_no_others(source: Path, out: Path) -> None:
    """Refuse a folder whose own weights a reader would take for a part of the copy."""
    if not out.is_dir():
        return
    kept = sorted(
        item.name
        for suffix in (".safetensors", INDEX_SUFFIX)
        for item in out.glob(f"*{suffix}")
        if not (source / item.name).exists()
    )
    if kept:
        raise InvalidConfig(f"{out} holds weights that are not of {source}: {', '.join(kept)}", hint="a new folder")


def _copied(source: Path, out: Path) -> list[tuple[Path, Path]]:
    """Copy what holds no tensors and return (file, its copy) for what does."""
    if source.is_file():
        return [(source, out)]
    files = weight_files(source)
    make_folder(out)
    for other in sorted(item for item in source.iterdir() if item.is_file() and item not in files):
        with replacing(out / other.name) as temporary:
            shutil.copyfile(other, temporary)
    return [(file, out / file.name) for file in files]


def _sites(source: Path) -> dict[Site, TensorSpan]:
    known = _formats(source)
    result: dict[Site, TensorSpan] = {}
    seen: dict[str, Path] = {}
    for span in (span for file in weight_files(source) for span in tensor_spans(file)):
        if (other := seen.setdefault(span.name, span.file)) != span.file:
            raise UnreadableArtifact(f"{span.name} is in {other.name} and in {span.file.name}")
        if (site := _site(span, known)) is not None:
            result[site] = span
    return dict(sorted(result.items(), key=lambda item: item[0].name))  # the same however the file is sharded


def _formats(source: Path) -> dict[str, Format]:
    """Return parameter name -> format of the codes that an artifact holds."""
    path = source / DESCRIPTION
    if not source.is_dir() or not path.exists():
        return {}
    known = read_description(read_bytes(path, "model file"), str(path))["formats"]
    return {name: formats.build(spec) for name, spec in known.items()}


def _site(span: TensorSpan, known: Mapping[str, Format]) -> Site | None:
    """Return the site that ``span`` holds the bits of, or None where bits are none of a model's weights."""
    name, _, part = span.name.partition("#")
    if span.dtype is None or not (part or span.dtype.is_floating_point) or (part and name not in known):
        return None
    if part == "codes":
        return Site("weights", name, span.shape, known[name].name, known[name].bits)
    if part and part not in getattr(known[name], "stored_qparams", (part,)):
        return None  # the format fixes it
    kind, name = ("qparams", f"{name}/{part}") if part else ("weights", name)
    return Site(kind, name, span.shape, stored_format(span.dtype), bits.bit_width(span.dtype))


def _octets(span: TensorSpan, mode: Literal["c", "r+"] = "c") -> np.ndarray:
    """Map the bytes of ``span``; what is written goes into the file with mode r+ and nowhere with mode c."""
    if span.start == span.stop:
        return np.empty(0, np.uint8)
    return np.memmap(span.file, np.uint8, mode, span.start, (span.stop - span.start,))


def _elements(span: TensorSpan, octets: np.ndarray | None = None) -> np.ndarray:
    """Return the elements of ``span`` as flat little-endian integers, signed unless they are stored as uint8."""
    kind = "u1" if span.dtype == torch.uint8 else f"i{(span.dtype or torch.uint8).itemsize}"
    return (_octets(span) if octets is None else octets).view(f"<{kind}")


def _breaking(fault: Fault, population: Population, seed: Seed) -> Callable[[np.ndarray, Site, TensorSpan], int]:
    """Return what breaks the bytes of one site and says how many bits flipped."""
    if isinstance(fault, InPlace) and all(site.bits % 8 == 0 for site in population.sites):
        return lambda octets, site, _: fault.flip_memory_(octets, site, seed)
    drawn = {item.site: item for item in fault.flips(population, seed)}
    return lambda octets, site, span: _flip(_elements(span, octets), drawn[site]) if site in drawn else 0


def _flip(codes: np.ndarray, flips: Flips) -> int:
    index, width = flips.index.numpy(), flips.site.bits
    mask = flips.against(torch.from_numpy(codes[index])).numpy() & (-1 if width == 64 else 2**width - 1)
    changed = codes[index] ^ mask.astype(codes.dtype)
    spare = 8 * codes.itemsize - width
    codes[index] = changed << spare >> spare  # a flipped sign bit goes into the bits above it
    return int(np.bitwise_count(mask.view(np.uint64)).sum())
