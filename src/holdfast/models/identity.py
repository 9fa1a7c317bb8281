"""The identity of a model: its manifest and the subject that records speak about."""

from __future__ import annotations

from torch import Tensor, nn

from holdfast._kernels.dispatch import digests
from holdfast.evidence.digest import TENSOR_CONTEXT, tensor_prefix
from holdfast.evidence.manifest import Leaf, Manifest, fact
from holdfast.evidence.statement import Subject
from holdfast.models.description import describe
from holdfast.models.tensors import dtype_name, require_codes, resident_tensors, tensor_digest


def manifest_of(model: nn.Module) -> Manifest:
    """Return the manifest: one leaf per stored tensor, and one per fact of structure.

    Two models with equal weights but another architecture, format, lineage or guard have different manifests. What
    computes a model elsewhere, such as a session that offloads its layers, has a method ``plain_model`` that returns
    it, and is that model. Tensors on a CUDA device are digested there and not copied; where that cannot be, a warning
    is logged with the reason.

    Raises:
        InvalidConfig: a parameter with stored codes was edited behind their back.
        MissingDevice: a device failed.
    """
    if (plain := getattr(type(model), "plain_model", None)) is not None:
        model = plain(model)
    require_codes(model)
    facts = [fact(name, value) for name, value in describe(model).items()]
    return Manifest.of([*facts, *_leaves(resident_tensors(model))])


def _leaves(tensors: dict[str, Tensor]) -> list[Leaf]:
    prefixes = [tensor_prefix(name, dtype_name(item), item.shape) for name, item in tensors.items()]
    made = digests([item.detach() for item in tensors.values()], prefixes, context=TENSOR_CONTEXT)
    return [
        Leaf("tensor", name, tensor_digest(name, item) if digest is None else digest.hex())
        for (name, item), digest in zip(tensors.items(), made, strict=True)
    ]


def model_subject(model: nn.Module, name: str = "model") -> Subject:
    """Return ``name`` with the digest of the manifest."""
    return Subject(name, {"blake3": manifest_of(model).digest})
