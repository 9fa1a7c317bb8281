"""What bounds belong to: the weights and the architecture that gave the values they were learnt from."""

from __future__ import annotations

from torch import nn

from holdfast.errors import DigestMismatch, InvalidConfig
from holdfast.evidence.manifest import Manifest
from holdfast.models import card, manifest_of

# what a model went through and which guards it has change no clean value
_NO_VALUES = {("fact", "lineage"), ("fact", "guards"), ("fact", "type")}


def values_digest(model: nn.Module) -> str:
    """Return the digest of what decides the clean values in ``model``: tensors, number formats, architecture."""
    leaves = manifest_of(model).leaves
    return Manifest.of(leaf for leaf in leaves if (leaf.kind, leaf.name) not in _NO_VALUES).digest


def require_same_values(model: nn.Module, digest: str) -> None:
    """Refuse bounds that were learnt from another model; an empty ``digest`` names none.

    Raises:
        DigestMismatch: the weights, formats or architecture differ.
    """
    if digest and (found := values_digest(model)) != digest:
        raise DigestMismatch(
            f"the bounds were profiled on another model ({digest[:12]}..., this one is {found[:12]}...)",
            hint="profile this model",
        )


def require_other_data(model: nn.Module, digest: str) -> None:
    """Refuse to judge guards on the data that they were calibrated on.

    Raises:
        InvalidConfig: a hardening step of ``model`` names data of this ``digest``.
    """
    if any(step.kind == "harden" and step.inputs.get("data") == digest for step in card(model).lineage):
        raise InvalidConfig(
            "the guards were calibrated on this very data, so what they do on it says nothing",
            hint="evaluate on another split, for example calibrate on train and evaluate on test",
        )
