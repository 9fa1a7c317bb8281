"""The identity of a model: its manifest and the subject that records speak about."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from holdfast.evidence.digest import digest_tensor
from holdfast.evidence.manifest import Leaf, Manifest, fact
from holdfast.evidence.statement import Subject
from holdfast.models.description import describe
from holdfast.models.tensors import stored_tensors


def manifest_of(model: nn.Module) -> Manifest:
    """Return the manifest: one leaf per stored tensor, and one per fact of structure.

    Two models with equal weights but another architecture, format, lineage or guard have different manifests.
    """
    facts = [fact(name, value) for name, value in describe(model).items()]
    return Manifest.of([*facts, *(_leaf(name, value) for name, value in stored_tensors(model).items())])


def _leaf(name: str, tensor: Tensor) -> Leaf:
    dtype = str(tensor.dtype).removeprefix("torch.")
    octets = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
    return Leaf("tensor", name, digest_tensor(name, dtype, tensor.shape, octets))


def model_subject(model: nn.Module, name: str = "model") -> Subject:
    """Return ``name`` with the digest of the manifest."""
    return Subject(name, {"blake3": manifest_of(model).digest})
