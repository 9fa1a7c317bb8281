"""A lens reads a parameter as the integer codes that are really stored.

The codes and their quantisation parameters are the truth; the ordinary ``nn.Parameter`` stays where it is and holds
their decoded view, so every module, hook and compiler works unchanged and a forward pass costs nothing extra. A
fault flips codes and decodes again only the elements it touched.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.models.card import card
from holdfast.numerics import bits
from holdfast.numerics.formats import Encoded, Format
from holdfast.numerics.formats.on_device import flip_on_device


class Lens:
    """The stored codes of one parameter.

    Attributes:
        codes: integer tensor of the parameter's shape.
        qparams: scales and offsets of the format, by name.
        format: how a code becomes a number.
    """

    def __init__(self, codes: Tensor, qparams: dict[str, Tensor], format: Format) -> None:
        self.codes = codes
        self.qparams = qparams
        self.format = format

    def decoded(self) -> Tensor:
        """Return the float values of all codes."""
        return self.format.decode(Encoded(self.codes, self.qparams))

    def stored_qparams(self) -> dict[str, Tensor]:
        """Return the quantisation parameters that differ from tensor to tensor, and so are stored beside the codes.

        A format that fixes some of them, such as the zero ``low`` of a symmetric range, names the others in
        ``stored_qparams``.
        """
        keys = getattr(self.format, "stored_qparams", tuple(self.qparams))
        return {key: self.qparams[key] for key in keys}

    def write(self, parameter: Tensor) -> None:
        """Decode every code into ``parameter``."""
        with torch.no_grad():
            parameter.copy_(self.decoded())

    def xor_(self, parameter: Tensor, index: Tensor, mask: Tensor) -> None:
        """Flip bits of the codes at flat ``index`` (int64, shape (n,)) and decode just those elements."""
        if flip_on_device(self.format, self.codes, self.qparams, parameter.detach(), index, mask):
            return
        width = self.format.bits
        bits.xor_(self.codes, index, mask if width == 64 else mask & (2**width - 1))
        if self.codes.dtype == torch.int8 and width < 8:  # the flipped sign bit goes into the bits above it
            flat, spare = self.codes.view(-1), 8 - width
            flat[index] = flat[index] << spare >> spare
        with torch.no_grad():
            parameter.put_(
                index.to(parameter.device),
                self.format.decode_at(Encoded(self.codes, self.qparams), index).to(parameter),
            )

    def matches(self, parameter: Tensor) -> bool:
        """Say whether ``parameter`` still holds exactly the decoded codes."""
        return bits.bit_equal(self.decoded().to(parameter), parameter.detach())


def attach_lens(model: nn.Module, name: str, format: Format, encoded: Encoded) -> None:
    """Store parameter ``name`` of ``model`` as ``encoded`` codes from now on.

    Raises:
        InvalidConfig: the parameter has codes already (re-quantising would move the weights).
    """
    lenses = card(model).lenses
    if name in lenses:
        raise InvalidConfig(f"{name} is already stored as {lenses[name].format.name}", hint="quantise the float model")
    qparams = {key: value.contiguous() for key, value in encoded.qparams.items()}
    lens = Lens(encoded.codes.contiguous(), qparams, format)
    lens.write(model.get_parameter(name))
    lenses[name] = lens
