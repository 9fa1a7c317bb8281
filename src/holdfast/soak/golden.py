"""The golden file: what every batch must give, bit for bit, and everything that it is computed from.

``tensors.safetensors`` holds inputs, outputs and weights, ``golden.json`` their BLAKE3 digests, the platform that
computed them, and the digest of the first file. Nothing is pickled. Two processes make it independently, and only equal
bytes become the truth: a fault during its making does not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from holdfast._files import read_bytes, write_atomic
from holdfast.errors import DigestMismatch, InvalidConfig, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence import canonical
from holdfast.evidence.digest import digest_bytes
from holdfast.models.identity import manifest_of
from holdfast.models.subject import evaluating
from holdfast.models.tensor_file import TensorSpan, tensor_spans
from holdfast.models.tensors import resident_tensors
from holdfast.signing.resident.repair import digest_of
from holdfast.soak.benches import Bench

GOLDEN_TYPE = "holdfast.golden/v1"
TENSORS, DESCRIPTION = "tensors.safetensors", "golden.json"


@dataclass(frozen=True)
class Golden:
    """A golden file on disk; ``digests`` maps tensor names (``bench/model/...``, ``bench/input_0``) to BLAKE3 (hex)."""

    folder: Path
    platform: Mapping[str, Any]
    benches: Mapping[str, int]  # name -> batches
    manifests: Mapping[str, str]  # of each bench's module: structure, formats and guards, beside its tensors
    digests: Mapping[str, str]

    def source(self, prefix: str) -> StoredGolden:
        """Return what reads the tensors under ``prefix``, each verified."""
        return StoredGolden(self.folder / TENSORS, prefix, self.digests)


class StoredGolden:
    """Reads one tensor at a time, and nothing else of the file; every read is held against its digest."""

    def __init__(self, path: Path, prefix: str, digests: Mapping[str, str]) -> None:
        self._path, self._prefix, self._digests = path, prefix, digests
        self._spans = {span.name: span for span in tensor_spans(path)}

    def span(self, name: str) -> TensorSpan:
        """Return where a tensor lies."""
        return self._spans[self._prefix + name]

    def read(self, name: str) -> bytes:
        """Return the bytes of tensor ``name``.

        Raises:
            DigestMismatch: the file holds other bytes by now.
            UnreadableArtifact: the file is gone.
        """
        span = self.span(name)
        try:
            with self._path.open("rb", buffering=0) as file:
                data = os.pread(file.fileno(), span.stop - span.start, span.start)
        except OSError as error:
            raise UnreadableArtifact(f"cannot read {self._path}: {error.strerror or error}") from error
        if blake3(data).hexdigest() != self._digests[span.name]:
            raise DigestMismatch(f"{self._path.name} no longer holds the golden bytes of {name}")
        return data

    def tensor(self, name: str) -> Tensor:
        """Return tensor ``name`` in memory of its own."""
        span = self.span(name)
        if span.dtype is None:
            raise UnreadableArtifact(f"{name} has an element type that torch lacks")
        return torch.frombuffer(bytearray(self.read(name)), dtype=span.dtype).reshape(span.shape)


def golden_tensors(benches: Sequence[Bench]) -> dict[str, Tensor]:
    """Compute every batch once; return inputs, outputs and weights by name, on the CPU."""
    found: dict[str, Tensor] = {}
    for bench in benches:
        with torch.no_grad(), evaluating(bench.module):
            outputs = [_finite(bench, bench.run(batch)) for batch in range(len(bench.inputs))]
        found |= {f"{bench.name}/input_{k}": item for k, item in enumerate(bench.inputs)}
        found |= {f"{bench.name}/golden_{k}": item for k, item in enumerate(outputs)}
        found |= {f"{bench.name}/model/{name}": item for name, item in resident_tensors(bench.module).items()}
    return {name: item.detach().cpu().contiguous().clone() for name, item in found.items()}


def _finite(bench: Bench, output: Tensor) -> Tensor:
    if not torch.isfinite(output).all():
        raise InvalidConfig(
            f"{bench.name} gives NaN or infinity as it is", hint="soak a model whose answers are numbers"
        )
    return output


def golden_bytes(benches: Sequence[Bench]) -> bytes:
    """Return the tensor file that ``benches`` give here and now."""
    return safetensors_bytes(golden_tensors(benches))


def keep_golden(folder: Path, data: bytes, benches: Sequence[Bench], platform: Mapping[str, Any]) -> Golden:
    """Write a golden file whose making was repeated with equal bytes."""
    write_atomic(folder / TENSORS, data)
    digests = {
        span.name: digest_bytes(memoryview(data)[span.start : span.stop]) for span in tensor_spans(folder / TENSORS)
    }
    value = {
        "type": GOLDEN_TYPE,
        "tensors": digest_bytes(data),
        "platform": dict(platform),
        "platform_digest": digest_bytes(canonical.dumps(platform)),
        "benches": {bench.name: len(bench.inputs) for bench in benches},
        "manifests": _manifests(benches),
        "digests": digests,
    }
    write_atomic(folder / DESCRIPTION, canonical.dumps(value))
    return open_golden(folder)


def open_golden(folder: Path) -> Golden:
    """Open a golden file and check every byte of it.

    Raises:
        UnsupportedVersion: another type.
        DigestMismatch: the tensors are not the ones it was written with.
        UnreadableArtifact: missing or malformed.
    """
    value = canonical.loads(read_bytes(folder / DESCRIPTION, "golden file"), what=DESCRIPTION)
    if not isinstance(value, dict) or value.get("type") != GOLDEN_TYPE:
        raise UnsupportedVersion(f"{folder} holds no {GOLDEN_TYPE}")
    data = read_bytes(folder / TENSORS, "golden tensors")
    if digest_bytes(data) != value.get("tensors"):
        raise DigestMismatch(f"{TENSORS} in {folder} is not the file that {DESCRIPTION} was written for")
    try:
        return Golden(folder, value["platform"], value["benches"], value["manifests"], value["digests"])
    except KeyError as error:
        raise UnreadableArtifact(f"{DESCRIPTION} in {folder} lacks {error}") from error


def require_same(golden: Golden, benches: Sequence[Bench], platform: Mapping[str, Any]) -> None:
    """Refuse a golden file of another platform, of other benches, or of another model or data.

    Raises:
        InvalidConfig: what differs is named.
    """
    hint = "give this run another folder (-o), and it makes its own golden file"
    differs = [key for key in platform if golden.platform.get(key) != platform[key]]
    if differs:
        raise InvalidConfig(f"{golden.folder} was made on another platform: {', '.join(differs)} differ", hint=hint)
    if dict(golden.benches) != {bench.name: len(bench.inputs) for bench in benches}:
        raise InvalidConfig(f"{golden.folder} is for {', '.join(golden.benches)} in other batches", hint=hint)
    for name, tensor in _computed_from(benches).items():
        if golden.digests.get(name) != digest_of(tensor):
            raise InvalidConfig(f"{golden.folder} was made with another {name}", hint=hint)
    changed = [name for name, digest in _manifests(benches).items() if golden.manifests.get(name) != digest]
    if changed:  # the same weights, but in another structure, or behind guards
        raise InvalidConfig(f"{golden.folder} was made with another model than this {changed[0]}", hint=hint)


def _manifests(benches: Sequence[Bench]) -> dict[str, str]:
    return {bench.name: manifest_of(bench.module).digest for bench in benches}


def _computed_from(benches: Sequence[Bench]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for bench in benches:
        found |= {f"{bench.name}/input_{k}": item for k, item in enumerate(bench.inputs)}
        found |= {f"{bench.name}/model/{name}": item for name, item in resident_tensors(bench.module).items()}
    return found


class Resident(nn.Module):
    """Inputs and golden outputs of one bench as buffers, so that the audit of weights audits them, too."""

    def __init__(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        super().__init__()
        for kind, items in (("input", inputs), ("golden", outputs)):
            for place, item in enumerate(items):
                self.register_buffer(f"{kind}_{place}", item)
