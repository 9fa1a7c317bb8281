"""A packed file as the stored weights of a model: its codes stand behind lenses, so every verb sees them as sites."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig, UnreadableArtifact
from holdfast.evidence.digest import digest_file
from holdfast.evidence.lineage import Step
from holdfast.models import attach_lens, card, manifest_of
from holdfast.numerics.formats import FloatingPoint
from holdfast.quantization.adapters.packed import PackedFile
from holdfast.quantization.adapters.packed_tensor import PackedTensor


def load_packed(model: nn.Module, file: PackedFile, *, rename: Callable[[str], str] | None = None) -> nn.Module:
    """Return a copy of ``model`` with the weights of ``file``: codes as they are stored, floats as values.

    A quantised weight is ``weights:NAME`` from then on, with its format, and a fault flips the bits of its codes; the
    same law under the same seed flips the same bits in the model as in the file.

    Args:
        model: of the same architecture, in floating point; unchanged.
        file: from :func:`open_packed`; its tensors and those of the model must be the same ones.
        rename: from a name in the file to a name in the model; GGUF has names of its own.

    Raises:
        InvalidConfig: two names become one, or a parameter of the model is quantised already.
        UnreadableArtifact: names or shapes that do not agree, damaged parameters, a tensor of a kind that is not read,
            or values that the model's dtype cannot hold.
    """
    result = copy.deepcopy(model)
    targets = result.state_dict(keep_vars=True)
    chosen = _agreed(file, targets, rename or (lambda name: name))
    for name, tensor in chosen.items():
        if tensor.shape != tuple(targets[name].shape):
            want = list(targets[name].shape)
            raise UnreadableArtifact(f"{tensor.name} has shape {list(tensor.shape)}, the model's {name} has {want}")
        if isinstance(tensor.format, FloatingPoint):
            _copy_exactly(name, targets[name], tensor.decode())
        elif not isinstance(targets[name], nn.Parameter):
            raise UnreadableArtifact(f"{tensor.name} is quantised, but {name} is a buffer, which has no codes")
        else:
            attach_lens(result, name, tensor.format, tensor.encoded())
    inputs = {"file": digest_file(file.path).blake3, "model": manifest_of(model).digest}
    card(result).lineage.append(Step("import", {"file": file.path.name, "schemes": _schemes(file)}, inputs))
    return result.eval()


def _agreed(file: PackedFile, targets: dict[str, Tensor], rename: Callable[[str], str]) -> dict[str, PackedTensor]:
    found = {rename(name): tensor for name, tensor in file.items()}
    if len(found) != len(file):
        raise InvalidConfig("two tensors of the file get one name in the model", hint="check rename=")
    if extra := sorted(found.keys() - targets.keys()):
        raise UnreadableArtifact(f"the model has no {extra[0]}", hint="GGUF files need rename=")
    # tensors that share memory are one weight; a counter of batches is read by no inference
    held = {targets[name].data_ptr() for name in found}
    absent = [name for name, item in targets.items() if name not in found and item.data_ptr() not in held]
    if missing := sorted(name for name in absent if not name.endswith("num_batches_tracked")):
        raise UnreadableArtifact(f"the file lacks {missing[0]}", hint=_unread(file))
    return found


def _unread(file: PackedFile) -> str:
    return "; ".join(f"not read: {error}" for error in list(file.unread.values())[:3])


def _copy_exactly(name: str, target: Tensor, values: Tensor) -> None:
    narrow = values.to(target.dtype)
    if not torch.equal(narrow.to(values.dtype), values):
        raise UnreadableArtifact(
            f"{name} does not fit {target.dtype}", hint=f"convert the model to {values.dtype} first"
        )
    with torch.no_grad():
        target.copy_(narrow)


def _schemes(file: PackedFile) -> str:
    return ",".join(sorted({tensor.scheme for tensor in file.values()}))
