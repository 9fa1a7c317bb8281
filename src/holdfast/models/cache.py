"""The keys and values that a decoder keeps from token to token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


class KeyValueCache:
    """What attention needs of the tokens before: one pair of tensors per layer, (batch, heads, tokens, width) each.

    Attributes:
        keys: rotated keys, by layer.
        values: values, by layer.
    """

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def length(self, layer: int) -> int:
        """Return how many tokens ``layer`` has seen."""
        return self.keys[layer].shape[2] if layer < len(self.keys) else 0

    def extended(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values of new tokens, and return those of all."""
        if layer == len(self.keys):
            self.keys.append(keys)
            self.values.append(values)
        else:
            self.keys[layer] = torch.cat((self.keys[layer], keys), 2)
            self.values[layer] = torch.cat((self.values[layer], values), 2)
        return self.keys[layer], self.values[layer]


def cached_tensors(arguments: Iterable[object]) -> dict[str, Tensor]:
    """Return the cached tensors among the arguments of a forward pass, as ``layers.0.keys``, ``layers.0.values``, ...

    Knows :class:`KeyValueCache` and the caches of transformers, whose layers have ``keys`` and ``values`` too. Empty
    where there is no cache, or nothing in it yet.
    """
    found: dict[str, Tensor] = {}
    for argument in arguments:
        for number, (keys, values) in enumerate(_layers(argument)):
            for name, tensor in (("keys", keys), ("values", values)):
                if isinstance(tensor, Tensor) and tensor.numel():
                    found[f"layers.{number}.{name}"] = tensor
    return found


def _layers(argument: object) -> Sequence[tuple[object, object]]:
    if isinstance(argument, KeyValueCache):
        return list(zip(argument.keys, argument.values, strict=True))
    layers = getattr(argument, "layers", None)
    if not isinstance(layers, list) or not all(hasattr(layer, "keys") and hasattr(layer, "values") for layer in layers):
        return []
    return [(layer.keys, layer.values) for layer in layers]
