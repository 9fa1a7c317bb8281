"""The stored tensors of a model, out of it and back in: every name, shape, dtype and value is checked on the way in."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig, UnreadableArtifact
from holdfast.evidence.digest import digest_tensor
from holdfast.models.card import card
from holdfast.models.lens import attach_lens
from holdfast.models.subject import require_values
from holdfast.numerics.formats import Encoded, Format, formats


def resident_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the live tensors that hold what is stored, by name and uncopied: what a fault in memory would touch.

    Raises:
        InvalidConfig: the model stores something else than tensors, as torch's quantised modules do, or its tensors
            have no values.
    """
    require_values(model)
    result: dict[str, Tensor] = {}
    lenses = card(model).lenses
    for name, value in model.state_dict().items():
        lens = lenses.get(name)
        if not isinstance(value, Tensor):
            raise InvalidConfig(
                f"{name} is stored as {type(value).__name__}, not as a tensor",
                hint="torch's own quantised modules pack their weights: quantise with holdfast.quantize instead",
            )
        if lens is None:
            result[name] = value
        else:
            result[f"{name}#codes"] = lens.codes
            result |= {f"{name}#{key}": item for key, item in lens.qparams.items()}
    return dict(sorted(result.items()))


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return what is really stored, by name: codes and scales behind a lens, floats and buffers elsewhere.

    Raises:
        InvalidConfig: a parameter with stored codes was edited behind their back.
    """
    require_codes(model)
    return {name: value.detach().cpu().contiguous().clone() for name, value in resident_tensors(model).items()}


def require_codes(model: nn.Module) -> None:
    """Raise :class:`InvalidConfig` if a parameter with stored codes was edited behind their back."""
    for name, lens in card(model).lenses.items():
        if not lens.matches(model.get_parameter(name)):
            raise InvalidConfig(f"{name} no longer holds its {lens.format.name} codes", hint="quantise after editing")


def tensor_digest(name: str, tensor: Tensor) -> str:
    """Return the BLAKE3 (hex) that binds a tensor's name, dtype, shape and bytes."""
    octets = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    return digest_tensor(name, dtype_name(tensor), tensor.shape, octets)


def dtype_name(tensor: Tensor) -> str:
    """Return what digests call a tensor's dtype."""
    return str(tensor.dtype).removeprefix("torch.")


def take_dtype(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Convert ``model`` to the one floating-point dtype of ``tensors``, if they agree on one."""
    dtypes = {item.dtype for name, item in tensors.items() if "#" not in name and item.is_floating_point()}
    if len(dtypes) == 1:
        model.to(dtypes.pop())


def fill(model: nn.Module, tensors: Mapping[str, Tensor], stored_as: Mapping[str, str]) -> None:
    """Put ``tensors`` into ``model``; the parameters in ``stored_as`` (name -> format) come as codes.

    Raises:
        UnreadableArtifact: a tensor is missing, unknown, of another shape or dtype, or holds NaN; it is named.
        UnknownName: a format that does not exist.
    """
    wanted = model.state_dict(keep_vars=True)
    plain = {name: item for name, item in wanted.items() if name not in stored_as}
    # a counter torch added in 2018 and no inference reads: older files lack it
    plain = {name: item for name, item in plain.items() if name in tensors or not name.endswith("num_batches_tracked")}
    parts = {name: _reference(model, name, formats.build(spec)) for name, spec in stored_as.items()}
    expected = dict(plain) | {key: item for part in parts.values() for key, item in part.items()}
    _same_names(expected, tensors)
    masks = {name for name, _ in model.named_buffers()}
    for name, target in expected.items():
        _require_fit(name, tensors[name], target)
        _require_numbers(name, tensors[name], mask=name in masks)
    with torch.no_grad():
        for name, target in plain.items():
            target.copy_(tensors[name])
    for name, spec in stored_as.items():
        qparams = {key.partition("#")[2]: tensors[key] for key in parts[name] if key != f"{name}#codes"}
        _fill_codes(model, name, formats.build(spec), Encoded(tensors[f"{name}#codes"], qparams))


def _reference(model: nn.Module, name: str, format: Format) -> dict[str, Tensor]:
    """Return tensors of the dtypes and shapes that ``name`` has when stored in ``format``."""
    if name not in dict(model.named_parameters()):
        raise UnreadableArtifact(f"{name} is stored as codes, but the architecture has no such parameter")
    encoded = format.encode(model.get_parameter(name).detach())
    return {f"{name}#codes": encoded.codes} | {f"{name}#{key}": item for key, item in encoded.qparams.items()}


def _fill_codes(model: nn.Module, name: str, format: Format, encoded: Encoded) -> None:
    if encoded.codes.dtype in (torch.int8, torch.uint8) and format.bits < 8:
        low = -(2 ** (format.bits - 1)) if encoded.codes.dtype == torch.int8 else 0
        if (
            encoded.codes.numel()
            and not low <= int(encoded.codes.min()) <= int(encoded.codes.max()) < low + 2**format.bits
        ):
            raise UnreadableArtifact(f"{name}#codes holds values beyond {format.bits} bits")
    attach_lens(model, name, format, encoded)
    _require_numbers(name, model.get_parameter(name))


def _same_names(wanted: Mapping[str, object], found: Mapping[str, object]) -> None:
    if missing := sorted(wanted.keys() - found.keys()):
        raise UnreadableArtifact(f"the file lacks {_first(missing)}", hint="does --arch name its architecture?")
    if extra := sorted(found.keys() - wanted.keys()):
        raise UnreadableArtifact(f"the architecture has no {_first(extra)}", hint="does --arch name its architecture?")


def _first(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _require_fit(name: str, found: Tensor, target: Tensor) -> None:
    if found.shape != target.shape:
        raise UnreadableArtifact(f"{name} has shape {list(found.shape)}, the architecture wants {list(target.shape)}")
    if found.dtype != target.dtype:
        have, want = (str(item.dtype).removeprefix("torch.") for item in (found, target))
        raise UnreadableArtifact(f"{name} is {have}, the architecture wants {want}", hint=f"convert it to {want}")


def _require_numbers(name: str, tensor: Tensor, *, mask: bool = False) -> None:
    """Refuse NaN and infinities; minus infinity is legitimate in a buffer, where it masks attention."""
    if not tensor.is_floating_point():
        return
    wide = tensor.float()
    good = ~torch.isnan(wide) & (wide != torch.inf) if mask else torch.isfinite(wide)
    if not good.all():
        raise UnreadableArtifact(f"{name} holds NaN or infinite values", hint="restore it from a good copy")
