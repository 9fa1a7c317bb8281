"""Snapshots of a training: one safetensors file whose header says, as JSON, what the tensors belong to.

Nothing is pickled. The header names the training (recipe, seed, digests of data and starting model), the epoch, the
last batch's losses to the bit, and the digest of the tensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from holdfast._files import read_bytes
from holdfast.errors import UnreadableArtifact, UnsupportedVersion
from holdfast.evidence.digest import digest_bytes
from holdfast.training.recipes.protocol import Loss
from holdfast.training.state import State

TYPE = "holdfast.training-snapshot/v1"
_KEY = "holdfast"
_HEADER_LENGTH = 8  # bytes that a safetensors file begins with: the length of its header


@dataclass(frozen=True)
class Snapshot:
    """A snapshot as read: the tensors by name, the epochs done, the last batch's loss, the training it is of.

    ``digest`` is the BLAKE3 (hex) of the very bytes that were parsed.
    """

    tensors: dict[str, Tensor]
    epoch: int
    loss: float
    training: Mapping[str, Any]
    digest: str


def snapshot_bytes(state: State, training: Mapping[str, Any]) -> bytes:
    """Return the file that keeps ``state``."""
    tensors = {name: value.cpu().contiguous().clone() for name, value in state.tensors().items()}
    header = {
        "type": TYPE,
        "epoch": state.epoch,
        "loss": [_hex(value) for value in (state.loss, *(getattr(state.loss, key, None) for key in _EXTRAS))],
        "training": training,
        "tensors": digest_bytes(safetensors_bytes(tensors)),
    }
    return safetensors_bytes(tensors, {_KEY: json.dumps(header)})


def read_snapshot(path: Path) -> Snapshot:
    """Read a snapshot back.

    Raises:
        UnreadableArtifact: truncated or damaged.
        UnsupportedVersion: not a snapshot of this version.
    """
    data = read_bytes(path, "snapshot")
    hint = "delete it to go on from the one before, or from the start"
    try:
        tensors, header = parse_safetensors(data), _header(data)
        if header["type"] != TYPE:
            raise UnsupportedVersion(f"{path} is no {TYPE}", hint=hint)
        if digest_bytes(safetensors_bytes(tensors)) != header["tensors"]:
            raise UnreadableArtifact(f"{path} is damaged: its tensors are not those it was written with", hint=hint)
        clean, *extras = (None if value is None else float.fromhex(value) for value in header["loss"])
        loss = Loss(math.nan if clean is None else clean, *extras)
        return Snapshot(tensors, header["epoch"], loss, header["training"], digest_bytes(data))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UnreadableArtifact(f"{path} is not a whole snapshot: {error}", hint=hint) from error


_EXTRAS = ("perturbed", "error")


def _header(data: bytes) -> dict[str, Any]:
    length = int.from_bytes(data[:_HEADER_LENGTH], "little")
    found = json.loads(data[_HEADER_LENGTH : _HEADER_LENGTH + length])["__metadata__"][_KEY]
    return dict(json.loads(found))


def _hex(value: float | None) -> str | None:
    return None if value is None else float(value).hex()
