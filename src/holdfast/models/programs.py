"""Models whose structure is data: a program in canonical JSON beside the tensors, named by its digest.

The architecture of such a model is ``KIND:program=BLAKE3``, so ``model.json``, the manifest and every signature over
them bind each operation. A kind registers what builds a model from its program and its tensors.
"""

from __future__ import annotations

import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

from torch import Tensor, nn

from holdfast._registry import Registry
from holdfast.errors import DigestMismatch, UnknownName
from holdfast.evidence.digest import digest_bytes
from holdfast.models.card import card

PROGRAM = "program.json"
programs: Registry[nn.Module] = Registry("kind of program", "holdfast.programs")
_BUILT_IN = "holdfast.shielding.graph"  # registers the kind that comes with Holdfast; it lies on a floor above this one
_SPEC = re.compile(r"(?P<kind>[a-z0-9-]+):program=(?P<digest>[0-9a-f]{64})")

Builder = Callable[[bytes, Mapping[str, Tensor], str], nn.Module]


class Programmed(nn.Module, ABC):
    """A model whose structure is a program.

    Attributes:
        kind: the name under which what builds it from a program is registered.
    """

    kind: ClassVar[str]

    @abstractmethod
    def program(self) -> bytes:
        """Return the program in canonical JSON; the same model always gives the same bytes."""


def architecture_of(model: nn.Module) -> str | None:
    """Return the specification that rebuilds ``model``, if it has one; that of a program names its digest."""
    if isinstance(model, Programmed):
        return f"{model.kind}:program={digest_bytes(model.program())}"
    return card(model).architecture


def is_program(spec: str | None) -> bool:
    """Say whether an architecture is a program, which lies beside the tensors."""
    return spec is not None and _SPEC.fullmatch(spec) is not None


def build_program(spec: str, data: bytes, tensors: Mapping[str, Tensor], what: str) -> nn.Module:
    """Return the model of a program.

    Args:
        spec: architecture, as :func:`architecture_of` gives it.
        data: the program.
        tensors: what is stored beside it, by name.
        what: name of the program's file, for messages.

    Raises:
        DigestMismatch: another program than the specification names, or other tensors than the program names.
        UnknownName: no such kind of program is installed.
        UnreadableArtifact, UnsupportedVersion: the program is malformed, or of another version.
    """
    found = _SPEC.fullmatch(spec)
    if found is None or digest_bytes(data) != found["digest"]:
        hint = "the folder was put together of two models, or changed: export again, or restore a copy"
        raise DigestMismatch(f"{what} is not the program that model.json names", hint=hint)
    build: Builder = _builder(found["kind"])
    return build(data, tensors, what)


def _builder(kind: str) -> Builder:
    try:
        return programs.get(kind)
    except UnknownName:  # a saved model opens in a process that has not imported what builds it
        importlib.import_module(_BUILT_IN)
        return programs.get(kind)
