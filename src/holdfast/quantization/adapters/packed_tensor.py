"""One tensor of a packed file: its codes and parameters, and where each of their bits lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.models import Site
from holdfast.numerics.formats import Encoded, Format
from holdfast.quantization.adapters.field import Octets
from holdfast.quantization.adapters.layout import CODES, Extent, Layout, require_finite_parameters


@dataclass(frozen=True, slots=True)
class Place:
    """What one bit of a packed file is."""

    name: str  # of the tensor
    part: str  # codes, or a parameter
    element: int  # flat
    bit: int


@dataclass(frozen=True, slots=True)
class PackedTensor:
    """One tensor of a packed file; nothing is read before it is asked for."""

    layout: Layout
    memory: Mapping[str, Octets]  # stored tensor -> its bytes, mapped
    extents: Mapping[str, Extent]

    @property
    def name(self) -> str:
        """Name of the tensor."""
        return self.layout.name

    @property
    def scheme(self) -> str:
        """How it is packed, see :class:`Layout`."""
        return self.layout.scheme

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight that the codes stand for."""
        return self.layout.shape

    @property
    def format(self) -> Format:
        """What codes and parameters mean."""
        return self.layout.format

    def encoded(self, *, damaged: bool = False) -> Encoded:
        """Return codes and parameters, copied out of the file.

        Raises:
            UnreadableArtifact: a parameter is NaN or infinite, unless ``damaged`` files are wanted.
        """
        found = self.layout.unpack(self.memory)
        if not damaged:
            require_finite_parameters(self.layout, found)
        return found

    def decode(self, *, damaged: bool = False) -> Tensor:
        """Return the numbers, of the tensor's shape."""
        return self.format.decode(self.encoded(damaged=damaged))

    def store(self, encoded: Encoded) -> None:
        """Write codes and parameters into the file; it must be open for writing."""
        self.require_writable()
        self.layout.pack_(self.memory, encoded)

    def address(self, part: str, element: Tensor, bit: Tensor) -> tuple[Tensor, Tensor]:
        """Return the byte of the file and the bit in it that hold ``bit`` of flat ``element`` of ``part``; all int64.

        Raises:
            InvalidConfig: a part, an element or a bit that the tensor does not have.
        """
        if part not in self.layout.parts:
            raise InvalidConfig(f"{self.name} has no {part!r}", hint=f"it has {', '.join(self.layout.parts)}")
        field = self.layout.parts[part].field
        offset = field.offset(element, bit) + 8 * self.extents[field.tensor].start
        return offset // 8, offset % 8

    def locate(self, byte: Tensor, bit: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Return, for every part, (element, bit) of each bit of the file; -1 and -1 where it is not that part's."""
        found = {}
        for key, part in self.layout.parts.items():
            place = self.extents[part.field.tensor]
            offset = 8 * (byte - place.start) + bit
            inside = (byte >= place.start) & (byte < place.start + place.nbytes) & (bit >= 0) & (bit < 8)
            found[key] = part.field.locate(torch.where(inside, offset, -1))
        return found

    def sites(self) -> tuple[Site, ...]:
        """Return the population of its bits: codes are ``weights:NAME``, parameter k is ``qparams:NAME/k``."""
        return tuple(
            Site(*self._address(key), part.shape, part.format, part.field.bits)
            for key, part in self.layout.parts.items()
        )

    def _address(self, key: str) -> tuple[str, str]:
        return ("weights", self.name) if key == CODES else ("qparams", f"{self.name}/{key}")

    def require_writable(self) -> None:
        """Raise :class:`InvalidConfig` when the file is open for reading only."""
        if not all(self.memory[name].flags.writeable for name in self.layout.stored):
            raise InvalidConfig(f"the file of {self.name} is open for reading", hint="open_packed(path, writable=True)")
