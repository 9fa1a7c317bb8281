"""Which tensors of a model lie in the same memory, and what a model held before something was read into it.

Tensors are compared by where their elements lie, not by who they are: parameters that share ``.data`` and buffers that
are views of one tensor are different objects, and writing one of them writes the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig

Place = tuple[int, int, tuple[int, ...], tuple[int, ...]]  # first byte, bytes of an element, shape, strides


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return what the state dict of ``model`` holds and all of its buffers, by name; one may come twice.

    Raises:
        InvalidConfig: a state that is no tensor, or one without values in memory.
    """
    found = dict(model.state_dict(keep_vars=True)) | dict(model.named_buffers(remove_duplicate=False))
    for name, value in found.items():
        if not isinstance(value, Tensor):
            raise InvalidConfig(f"the state {name!r} is a {type(value).__name__}, and only tensors are sealed")
        if nn.parameter.is_lazy(value) or value.layout != torch.strided or value.is_meta:
            raise InvalidConfig(
                f"{name!r} is a tensor without values in memory", hint="initialise it, and make it dense"
            )
    return found


def is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor is its numbers and nothing else: no class of its own, and no attributes."""
    return type(tensor) in (Tensor, nn.Parameter) and not vars(tensor)


def sharing(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return which of ``tensors`` lie in the memory of another one, by ``NAME.(same as)`` and ``NAME.(overlaps)``.

    Raises:
        InvalidConfig: elements of one tensor share their memory, so that nothing can be read into it.
    """
    storages = defaultdict[tuple[str, int], dict[str, Place]](dict)
    for name, tensor in tensors.items():
        if tensor.numel():
            place = _place(tensor)
            if len(_bytes(place, place[0])) < tensor.numel() * tensor.element_size():
                raise InvalidConfig(
                    f"elements of {name!r} share their memory, so nothing can be read into it",
                    hint="make it a tensor of its own: value.clone(memory_format=torch.contiguous_format)",
                )
            storages[str(tensor.device), tensor.untyped_storage().data_ptr()][name] = place
    return {name: text for places in storages.values() for name, text in _overlaps(places).items()}


def _overlaps(places: Mapping[str, Place]) -> dict[str, str]:
    """Return how each of the tensors of one storage lies in the memory of those before it."""
    told: dict[str, str] = {}
    before: list[tuple[str, Place]] = []
    for name, place in places.items():
        same = next((other for other, taken in before if taken == place), None)
        if same is not None:
            told[f"{name}.(same as)"] = same
            continue
        if shared := [
            f"{other} {place[0] - taken[0]:+d} {place[1:]}" for other, taken in before if _meet(place, taken)
        ]:
            told[f"{name}.(overlaps)"] = ", ".join(shared)
        before.append((name, place))
    return told


def _place(tensor: Tensor) -> Place:
    size = tensor.element_size()
    return (
        int(tensor.storage_offset()) * size,
        size,
        tuple(tensor.shape),
        tuple(size * step for step in tensor.stride()),
    )


def _end(place: Place) -> int:
    first, size, shape, strides = place
    return first + size + sum((length - 1) * step for length, step in zip(shape, strides, strict=True))


def _is_dense(place: Place) -> bool:
    _, size, shape, strides = place
    for step, length in sorted(zip(strides, shape, strict=True)):
        if length > 1 and step != size:
            return False
        size *= length
    return True


def _meet(one: Place, other: Place) -> bool:
    if one[0] >= _end(other) or other[0] >= _end(one):
        return False
    if _is_dense(one) and _is_dense(other):
        return True
    origin = min(one[0], other[0])
    return bool(set(_bytes(one, origin)) & set(_bytes(other, origin)))


def _bytes(place: Place, origin: int) -> range | set[int]:
    """Return the bytes that the elements lie in, counted from ``origin``."""
    first, size, shape, strides = place
    if _is_dense(place):
        return range(first - origin, _end(place) - origin)
    starts = torch.tensor([first - origin])
    for length, step in zip(shape, strides, strict=True):
        starts = (starts[:, None] + torch.arange(length) * step).flatten()
    return set((starts[:, None] + torch.arange(size)).flatten().tolist())


class Before:
    """The parameters and buffers of a model as they are now.

    Args:
        model: to be brought back to this by :meth:`restore`.
    """

    def __init__(self, model: nn.Module) -> None:
        self._held = [(part, dict(part._parameters), dict(part._buffers)) for part in model.modules()]
        self._values = [(value, value.detach().clone()) for value in (*model.parameters(), *model.buffers())]

    def restore(self) -> None:
        """Bring the model back: the same tensors with the same values."""
        for part, parameters, buffers in self._held:
            part._parameters.update(parameters)
            part._buffers.update(buffers)
        with torch.no_grad():
            for value, before in self._values:
                if not same_bits(value, before):
                    value.copy_(before)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have one dtype, one shape and the same bits."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(*(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for value in (one, other)))
