"""What a session keeps for each layer that it offloads, and what stands in the layer's place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

from torch import Tensor, nn

from holdfast.errors import InvalidConfig, NoSuchSite
from holdfast.seeds import Entropy
from holdfast.shielding.checking import Check, Verifier
from holdfast.shielding.integer import IntegerLayer, integer_layers
from holdfast.shielding.sealing import PadStore

Where = Literal["trusted", "verified", "blinded"]
Placements = Mapping[str, Where] | Where


def agreed(model: nn.Module, placements: Placements | None) -> dict[str, Where]:
    """Return where each integer layer runs: ``blinded`` unless ``placements`` says otherwise, for one layer or for all.

    Raises:
        NoSuchSite: a name that is not an integer layer.
        InvalidConfig: no integer layer, another word than ``trusted``, ``verified`` and ``blinded``, or nothing left to
            offload.
    """
    if not (names := list(integer_layers(model))):
        raise InvalidConfig("the model has no integer layer to offload", hint="make it with int8_model() first")
    if isinstance(placements, str):
        placements = dict.fromkeys(names, placements)
    given = dict(placements or {})
    if unknown := sorted(given.keys() - set(names)):
        raise NoSuchSite(f"{unknown[0]!r} is no integer layer", hint=f"they are: {', '.join(names)}")
    if wrong := sorted(str(word) for word in given.values() if word not in get_args(Where)):
        raise InvalidConfig(f"a layer is {', '.join(get_args(Where))}, not {wrong[0]!r}")
    result: dict[str, Where] = {name: given.get(name, "blinded") for name in names}
    if all(word == "trusted" for word in result.values()):
        raise InvalidConfig("every layer is trusted, so there is nothing to offload", hint="call the model itself")
    return result


class Offloaded:
    """Secrets and state of one layer during one session.

    Args:
        store: where its pads come from; None sends int8 codes in the clear.
    """

    def __init__(self, name: str, layer: IntegerLayer, check: Check, entropy: Entropy, store: PadStore | None) -> None:
        self.name, self.layer, self.store = name, layer, store
        self._check, self._entropy = check, entropy
        self.verifier: Verifier = check.prepare(layer.codes, layer.geometry, entropy)

    def renew(self) -> None:
        """Draw a new challenge, so that a worker cannot narrow the old one down by lying on."""
        self.verifier = self._check.prepare(self.layer.codes, self.layer.geometry, self._entropy)


class RemoteLayer(nn.Module):
    """Stands where an integer layer stood; its product comes from the worker."""

    def __init__(self, layer: IntegerLayer, accumulate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._local = [layer]  # in a list, so that it is no submodule: this module stays a leaf
        self._accumulate = accumulate

    @property
    def weight(self) -> Tensor:
        """The float32 weights of the layer, for models that ask for their dtype."""
        return self._local[0].weight

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's float output of ``x`` (batch, *sample)."""
        layer = self._local[0]
        return layer.epilogue(self._accumulate(layer.encode(x)))
