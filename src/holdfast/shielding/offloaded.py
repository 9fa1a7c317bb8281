"""What a session keeps for each layer that it offloads, and what stands in the layer's place."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from holdfast.seeds import Entropy
from holdfast.shielding.checking import Check, Verifier
from holdfast.shielding.integer import IntegerLayer
from holdfast.shielding.sealing import PadStore


class Offloaded:
    """Secrets and state of one layer during one session."""

    def __init__(self, name: str, layer: IntegerLayer, check: Check, entropy: Entropy) -> None:
        self.name, self.layer, self._check, self._entropy = name, layer, check, entropy
        self.store = PadStore(layer.codes, layer.geometry, entropy)
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

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's float output of ``x`` (batch, *sample)."""
        layer = self._local[0]
        return layer.epilogue(self._accumulate(layer.encode(x)))
