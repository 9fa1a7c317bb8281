"""Artifacts: a model as a folder of ``model.safetensors`` (codes, scales, floats) and ``model.json`` (everything else).

A model whose structure is data has a third file, ``program.json``.

Bytes are read once into private memory, digested there, and parsed from that same memory, so nothing can change
between the check and the use. Nothing is unpickled except a ``state_dict``, by torch's ``weights_only`` reader.
"""

from __future__ import annotations

import io
import pickle
import struct
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from holdfast._files import read_bytes, replacing
from holdfast.errors import DigestMismatch, InvalidConfig, UnreadableArtifact, UnsafeArtifact
from holdfast.evidence import canonical
from holdfast.evidence.digest import digest_both
from holdfast.evidence.lineage import Step
from holdfast.models.card import card
from holdfast.models.catalogue import build_architecture, build_named_in_file
from holdfast.models.description import describe, read_description, restore
from holdfast.models.hugging_face import CONFIG, architecture_of, require_size
from holdfast.models.programs import PROGRAM, Programmed, build_program, is_program
from holdfast.models.size import no_larger_than
from holdfast.models.tensors import fill, stored_tensors, take_dtype

Expected = Mapping[str, str] | Callable[[Path], bytes]
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
_PICKLES = {".pt", ".pth", ".th"}
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # where training scripts keep the weights in a checkpoint
# what torch's reader raises on damaged bytes, beside its own refusals
_DAMAGE = (RuntimeError, EOFError, ValueError, OSError, LookupError, TypeError, AttributeError, AssertionError,
           ArithmeticError, MemoryError, struct.error)  # fmt: skip


def save(model: nn.Module, folder: Path | str) -> None:
    """Write ``model`` as an artifact; the same model always gives the same bytes.

    All files are complete on disk before the first takes its name.

    Raises:
        InvalidConfig: a parameter with stored codes was edited behind their back.
        StorageError: the disk refuses; an older artifact there stays whole.
    """
    folder = Path(folder)
    files = {WEIGHTS: safetensors_bytes(stored_tensors(model)), DESCRIPTION: canonical.dumps(describe(model))}
    if isinstance(model, Programmed):
        files[PROGRAM] = model.program()
    with ExitStack() as stack:
        for name, data in files.items():
            stack.enter_context(replacing(folder / name)).write_bytes(data)


def load(
    path: Path | str, *, arch: str | None = None, expected: Expected | None = None, own: bool = False
) -> nn.Module:
    """Load a model in evaluation mode.

    Args:
        path: an artifact folder, a LLaMA as transformers saves it, a ``.safetensors`` file, or a
            ``.pt``/``.pth``/``.th`` state dict.
        arch: architecture, needed when the file does not name one: ``cifar-resnet20``, ``package.module:factory``, ...
        expected: file name -> SHA-256 (hex) that the bytes must have, from a verified signature; or what reads a file
            and verifies it.
        own: this process, or one that started it, wrote the folder: it may name any code to build the model with.

    Raises:
        UnreadableArtifact: missing, truncated, or tensors that do not fit the architecture (the first is named).
        UnsafeArtifact: a pickle of anything but tensors, an unknown kind of file, or an artifact that names code which
            was neither imported nor named by ``arch``; see :func:`holdfast.models.catalogue.build_named_in_file`.
        DigestMismatch: bytes other than the expected ones, or than those that the artifact itself names.
    """
    path = Path(path)
    if path.is_dir():
        return _load_folder(path, arch, expected, own=own)
    data = _checked(path, expected)
    tensors = _parse(path, data)
    if arch is None:
        raise InvalidConfig(
            f"{path.name} does not say which architecture it is for",
            hint="pass --arch NAME, or --arch package.module:factory for a module of yours",
        )
    model = build_architecture(arch)
    fill(model, tensors, {})
    card(model).lineage.append(Step("import", {"file": path.name}, {"file": digest_both(data).blake3}))
    return model.eval()


def _load_folder(folder: Path, arch: str | None, expected: Expected | None, *, own: bool) -> nn.Module:
    if not (folder / DESCRIPTION).exists() and (folder / CONFIG).is_file():
        return _load_hugging_face(folder, arch, expected)
    value = read_description(_checked(folder / DESCRIPTION, expected), str(folder / DESCRIPTION))
    tensors = _parse(folder / WEIGHTS, _checked(folder / WEIGHTS, expected))
    spec = arch or value["architecture"]
    if spec is None:
        raise InvalidConfig(
            f"{folder} does not name its architecture",
            hint="pass --arch NAME, or --arch package.module:factory for a module of yours",
        )
    if is_program(spec):
        model = _programmed(folder, spec, tensors, value, expected)
    else:
        named = arch is None and not own
        model = _built(spec, tensors, signed=expected is not None) if named else build_architecture(spec)
        take_dtype(model, tensors)
        fill(model, tensors, value["formats"])
    restore(model, value)
    return model.eval()


def _built(spec: str, tensors: Mapping[str, Tensor], *, signed: bool) -> nn.Module:
    with no_larger_than(tensors, DESCRIPTION):
        return build_named_in_file(spec, DESCRIPTION, signed=signed)


def _programmed(
    folder: Path, spec: str, tensors: Mapping[str, Tensor], value: Mapping[str, Any], expected: Expected | None
) -> nn.Module:
    if value["formats"]:
        raise UnreadableArtifact(f"{folder / DESCRIPTION} has formats, which a program has not")
    return build_program(spec, _checked(folder / PROGRAM, expected), tensors, str(folder / PROGRAM))


def _load_hugging_face(folder: Path, arch: str | None, expected: Expected | None) -> nn.Module:
    config, data = (_checked(folder / name, expected) for name in (CONFIG, WEIGHTS))
    tensors = _parse(folder / WEIGHTS, data)
    if arch is None:
        arch = architecture_of(config, str(folder / CONFIG))
        require_size(arch, sum(item.numel() for item in tensors.values()), str(folder / CONFIG))
    model = build_architecture(arch)
    take_dtype(model, tensors)
    fill(model, tensors, {})
    card(model).lineage.append(Step("import", {"file": WEIGHTS}, {"file": digest_both(data).blake3}))
    return model.eval()


def _checked(path: Path, expected: Expected | None) -> bytes:
    if callable(expected):
        return expected(path)
    data = read_bytes(path, "model file")
    if expected is not None and expected.get(path.name) != digest_both(data).sha256:
        raise DigestMismatch(f"{path.name} differs from its signed digest")
    return data


def _parse(path: Path, data: bytes) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return parse_safetensors(data)
        except SafetensorError as error:
            raise UnreadableArtifact(f"{path} is not a whole safetensors file: {error}") from error
    if path.suffix in _PICKLES:
        return _state_dict(path, data)
    raise UnsafeArtifact(
        f"{path.name} is no format that can be read safely", hint="use .safetensors or a state dict in .pt"
    )


def _state_dict(path: Path, data: bytes) -> dict[str, Tensor]:
    value = _unpickled_tensors(path, data)
    for key in _WRAPPERS:
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
            break
    if not isinstance(value, dict) or not all(
        isinstance(name, str) and isinstance(item, Tensor) for name, item in value.items()
    ):
        raise UnsafeArtifact(f"{path.name} is not a state dict", hint="save model.state_dict()")
    return {name.removeprefix("module."): item for name, item in value.items()}


def _unpickled_tensors(path: Path, data: bytes) -> object:
    hint = "save model.state_dict(), or better a .safetensors file"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about its own internals on the way to refusing a file
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        message = f"{path.name} holds more than tensors and would run code when opened"
        raise UnsafeArtifact(message, hint=hint) from error
    except _DAMAGE as error:
        if "TorchScript" in str(error):
            raise UnsafeArtifact(f"{path.name} is a TorchScript archive, which holds code", hint=hint) from error
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UnreadableArtifact(f"{path} is not a whole state dict: {reason}") from error
