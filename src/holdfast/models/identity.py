"""The identity of a model: its manifest and the subject that records speak about."""

from __future__ import annotations

from torch import nn

from holdfast.evidence.manifest import Leaf, Manifest, fact
from holdfast.evidence.statement import Subject
from holdfast.models.description import describe
from holdfast.models.tensors import stored_tensors, tensor_digest


def manifest_of(model: nn.Module) -> Manifest:
    """Return the manifest: one leaf per stored tensor, and one per fact of structure.

    Two models with equal weights but another architecture, format, lineage or guard have different manifests. What
    computes a model elsewhere, such as a session that offloads its layers, has a method ``plain_model`` that returns
    it, and is that model.
    """
    if (plain := getattr(type(model), "plain_model", None)) is not None:
        model = plain(model)
    facts = [fact(name, value) for name, value in describe(model).items()]
    return Manifest.of(
        [*facts, *(Leaf("tensor", name, tensor_digest(name, value)) for name, value in stored_tensors(model).items())]
    )


def model_subject(model: nn.Module, name: str = "model") -> Subject:
    """Return ``name`` with the digest of the manifest."""
    return Subject(name, {"blake3": manifest_of(model).digest})
