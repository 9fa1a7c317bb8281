"""The memory of a training on a CUDA device: quantised, hit by errors and decoded there, by kernels, in few passes.

The codes never leave the device and are never changed: errors are drawn as a map, and one pass reads codes and map and
writes the weights that the network computes with. Chips, codes and values are those of the reference, to the bit.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from holdfast._kernels import device as devices
from holdfast.faults.chip import Chip
from holdfast.faults.on_device import drawn_map
from holdfast.numerics.formats import Encoded, FixedPoint, Format
from holdfast.numerics.formats.on_device import encode_again, encode_all, objection

if TYPE_CHECKING:
    from holdfast._kernels.codes import Codes

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class ResidentCodes:
    """Codes of several tensors on one CUDA device.

    Attributes:
        format: of all of them.
        codes: as the kernels read them.
        shapes: of the tensors, by name, in order.
        encoded: name -> codes, as a view, and their qparams.
        clean: name -> decoded values.
    """

    format: FixedPoint
    codes: Codes
    shapes: Mapping[str, Sequence[int]]
    encoded: Mapping[str, Encoded]
    clean: dict[str, Tensor]

    @classmethod
    def of(cls, form: Format, weights: Mapping[str, Tensor]) -> ResidentCodes | None:
        """Quantise ``weights`` where they lie; None where the reference has to, and once a log says why."""
        tensors = [value.detach() for value in weights.values()]
        if not tensors or tensors[0].device.type not in devices.KINDS:
            return None
        device = str(tensors[0].device)
        if (why := objection(form, tensors)) is not None or not isinstance(form, FixedPoint):
            _say(logging.WARNING, f"weights on {device} are quantised by the reference: {why}")
            return None
        if (found := encode_all(form, tensors)) is None:
            return None
        _say(logging.INFO, f"weights on {device} are quantised, hit by errors and decoded there by kernels")
        shapes = {name: value.shape for name, value in weights.items()}
        return cls(form, found[0], shapes, _encoded(form, found[0], shapes), _views(found[0], found[1], shapes))

    def under(self, chip: Chip) -> dict[str, Tensor] | None:
        """Return the values under the errors of a chip; None where a kernel does not compile."""
        size, device = -(-self.codes.parts.codes * self.codes.law.bits // 8), self.codes.memory.device
        return devices.attempt(lambda: self._decoded(drawn_map(chip, size, device)), device)

    def values(self) -> dict[str, Tensor] | None:
        """Return the values that the codes stand for now; None where a kernel does not compile."""
        return devices.attempt(lambda: self._decoded(None), self.codes.memory.device)

    def recoded(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Return the codes of other values of some of the tensors, in the ranges that these have.

        None where the reference has to say what is right.
        """
        tensors, ranges = list(weights.values()), [self.encoded[name].qparams for name in weights]
        if objection(self.format, tensors) is not None:
            return None
        if (found := encode_again(self.format, tensors, ranges)) is None:
            return None
        places = zip(weights.items(), found.parts.places, strict=True)
        return {name: found.memory[at : at + value.numel()].view(value.shape) for (name, value), (at, _) in places}

    def _decoded(self, flags: Tensor | None) -> dict[str, Tensor]:
        return _views(self.codes, self.codes.values(flags), self.shapes)


def _encoded(form: FixedPoint, codes: Codes, shapes: Mapping[str, Sequence[int]]) -> dict[str, Encoded]:
    found, part = {}, 0
    for (name, shape), (first, _) in zip(shapes.items(), codes.parts.places, strict=True):
        own = form.sharing.shape(shape)
        stop = part + math.prod(own)
        qparams = {"scale": codes.scales[part:stop].view(own), "low": codes.lows[part:stop].view(own)}
        found[name] = Encoded(codes.memory[first : first + math.prod(shape)].view(tuple(shape)), qparams)
        part = stop
    return found


def _views(codes: Codes, values: Tensor, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    places = zip(shapes.items(), codes.parts.places, strict=True)
    return {name: values[first : first + math.prod(shape)].view(tuple(shape)) for (name, shape), (_, first) in places}


@functools.cache
def _say(level: int, text: str) -> None:
    """Log once in the life of the process."""
    _log.log(level, text)
