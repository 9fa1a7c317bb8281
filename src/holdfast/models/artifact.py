"""Artifacts: a model as a folder of ``model.safetensors`` (codes, scales, floats) and ``model.json`` (everything else).

Bytes are read once into private memory, digested there, and parsed from that same memory, so nothing can change
between the check and the use. Nothing is unpickled except a ``state_dict``, by torch's ``weights_only`` reader.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from holdfast._files import read_bytes, write_atomic
from holdfast.errors import (
    DigestMismatch,
    InvalidConfig,
    UnreadableArtifact,
    UnsafeArtifact,
    UnsupportedVersion,
)
from holdfast.evidence import canonical
from holdfast.evidence.digest import digest_both
from holdfast.evidence.lineage import Step
from holdfast.models.card import card
from holdfast.models.catalogue import build_architecture
from holdfast.models.guard import attach_guard, guard_from_json
from holdfast.models.lens import attach_lens
from holdfast.numerics.formats import Encoded, formats

MODEL_TYPE = "holdfast.model/v1"
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


def save(model: nn.Module, folder: Path | str) -> None:
    """Write ``model`` as an artifact; the same model always gives the same bytes.

    Raises:
        InvalidConfig: a parameter with stored codes was edited behind their back.
        StorageError: the disk refuses; an older artifact there stays whole.
    """
    folder = Path(folder)
    write_atomic(folder / WEIGHTS, safetensors_bytes(stored_tensors(model)))
    write_atomic(folder / DESCRIPTION, canonical.dumps(describe(model)))


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return what is really stored, by name: codes and scales behind a lens, floats and buffers elsewhere."""
    result: dict[str, Tensor] = {}
    lenses = card(model).lenses
    for name, value in model.state_dict().items():
        lens = lenses.get(name)
        if lens is None:
            result[name] = value.detach().cpu().contiguous().clone()
            continue
        if not lens.matches(value):
            raise InvalidConfig(f"{name} no longer holds its {lens.format.name} codes", hint="quantise after editing")
        result[f"{name}#codes"] = lens.codes.cpu().contiguous()
        result |= {f"{name}#{key}": item.cpu().contiguous().clone() for key, item in lens.qparams.items()}
    return dict(sorted(result.items()))


def describe(model: nn.Module) -> dict[str, Any]:
    """Return the JSON description of a model: architecture, formats, lineage, guards, input and classes."""
    known = card(model)
    return {
        "type": MODEL_TYPE,
        "architecture": known.architecture,
        "formats": {name: lens.format.name for name, lens in sorted(known.lenses.items())},
        "lineage": [step.to_json() for step in known.lineage],
        "guards": [guard.to_json() for guard in known.guards],
        "input_shape": None if known.input_shape is None else list(known.input_shape),
        "classes": list(known.classes),
        "preprocessing": dict(known.preprocessing),
    }


def load(path: Path | str, *, arch: str | None = None, expected: Mapping[str, str] | None = None) -> nn.Module:
    """Load a model in evaluation mode.

    Args:
        path: an artifact folder, a ``.safetensors`` file, or a ``.pt``/``.pth``/``.th`` state dict.
        arch: architecture, needed when the file does not name one: ``cifar-resnet20``, ``package.module:factory``, ...
        expected: file name -> SHA-256 (hex) that the bytes must have, from a verified signature.

    Raises:
        UnreadableArtifact: missing, truncated, or tensors that do not fit the architecture (the first is named).
        UnsafeArtifact: a pickle of anything but tensors, or an unknown kind of file.
        DigestMismatch: bytes other than the expected ones.
    """
    path = Path(path)
    if path.is_dir():
        return _load_folder(path, arch, expected)
    data = _checked(path, expected)
    tensors = _parse(path, data)
    if arch is None:
        raise InvalidConfig(f"{path.name} does not say which architecture it is for", hint="pass --arch NAME")
    model = build_architecture(arch)
    _fill(model, tensors, {})
    card(model).lineage.append(Step("import", {"file": path.name}, {"file": digest_both(data).blake3}))
    return model.eval()


def _load_folder(folder: Path, arch: str | None, expected: Mapping[str, str] | None) -> nn.Module:
    value = canonical.loads(_checked(folder / DESCRIPTION, expected), what=DESCRIPTION)
    if not isinstance(value, dict) or value.get("type") != MODEL_TYPE:
        raise UnsupportedVersion(f"{folder / DESCRIPTION} is not a {MODEL_TYPE} description")
    tensors = _parse(folder / WEIGHTS, _checked(folder / WEIGHTS, expected))
    spec = arch or value["architecture"]
    if spec is None:
        raise InvalidConfig(f"{folder} does not name its architecture", hint="pass --arch NAME")
    model = build_architecture(spec)
    _fill(model, tensors, value["formats"])
    _restore_card(model, value)
    return model.eval()


def _restore_card(model: nn.Module, value: Mapping[str, Any]) -> None:
    known = card(model)
    known.lineage = [Step.from_json(item) for item in value["lineage"]]
    known.input_shape = None if value["input_shape"] is None else tuple(value["input_shape"])
    known.classes, known.preprocessing = tuple(value["classes"]), value["preprocessing"]
    for item in value["guards"]:
        attach_guard(model, guard_from_json(item))


def _checked(path: Path, expected: Mapping[str, str] | None) -> bytes:
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
    if path.suffix in {".pt", ".pth", ".th"}:
        return _state_dict(path, data)
    raise UnsafeArtifact(
        f"{path.name} is no format that can be read safely", hint="use .safetensors or a state dict in .pt"
    )


def _state_dict(path: Path, data: bytes) -> dict[str, Tensor]:
    try:
        value = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        hint = "save model.state_dict(), or better a .safetensors file"
        raise UnsafeArtifact(
            f"{path.name} holds more than tensors and would run code when opened", hint=hint
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise UnreadableArtifact(f"{path} is not a whole state dict: {error}") from error
    value = value.get("state_dict", value) if isinstance(value, dict) else value
    if not isinstance(value, dict) or not all(isinstance(item, Tensor) for item in value.values()):
        raise UnsafeArtifact(f"{path.name} is not a state dict", hint="save model.state_dict()")
    return {name.removeprefix("module."): item for name, item in value.items()}


def _fill(model: nn.Module, tensors: dict[str, Tensor], stored_as: Mapping[str, str]) -> None:
    for name, spec in stored_as.items():
        _fill_lens(model, name, formats.build(spec), tensors)
    wanted = {name: item for name, item in model.state_dict(keep_vars=True).items() if name not in stored_as}
    plain = {name: item for name, item in tensors.items() if "#" not in name}
    # a counter torch added in 2018 and no inference reads: older files lack it
    wanted = {name: item for name, item in wanted.items() if name in plain or not name.endswith("num_batches_tracked")}
    _same_names(wanted, plain)
    with torch.no_grad():
        for name, target in wanted.items():
            target.copy_(_fitting(name, plain[name], target))


def _fill_lens(model: nn.Module, name: str, format: Any, tensors: Mapping[str, Tensor]) -> None:
    prefix = f"{name}#"
    parts = {key.removeprefix(prefix): item for key, item in tensors.items() if key.startswith(prefix)}
    if "codes" not in parts or name not in dict(model.named_parameters()):
        raise UnreadableArtifact(f"the codes of {name} are missing or belong to no parameter")
    codes, parameter = parts.pop("codes"), model.get_parameter(name)
    if codes.shape != parameter.shape:
        raise UnreadableArtifact(f"the codes of {name} have shape {list(codes.shape)}, not {list(parameter.shape)}")
    attach_lens(model, name, format, Encoded(codes, parts))


def _same_names(wanted: Mapping[str, object], found: Mapping[str, object]) -> None:
    if missing := sorted(wanted.keys() - found.keys()):
        raise UnreadableArtifact(f"the file lacks {missing[0]} and {len(missing) - 1} more", hint="is --arch right?")
    if extra := sorted(found.keys() - wanted.keys()):
        raise UnreadableArtifact(
            f"the architecture has no {extra[0]} (and {len(extra) - 1} more)", hint="is --arch right?"
        )


def _fitting(name: str, found: Tensor, target: Tensor) -> Tensor:
    if found.shape != target.shape:
        raise UnreadableArtifact(f"{name} has shape {list(found.shape)}, the architecture wants {list(target.shape)}")
    if found.is_floating_point() != target.is_floating_point():
        raise UnreadableArtifact(f"{name} is {found.dtype}, the architecture wants {target.dtype}")
    if found.is_floating_point() and not torch.isfinite(found).all():
        raise UnreadableArtifact(f"{name} holds NaN or infinite values")
    return found
