"""The weights of one training step as real codes, side by side in one memory, and what bit errors make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from holdfast.execution.condition import Flips, Population
from holdfast.faults import BitErrors
from holdfast.faults.chip import Chip
from holdfast.models.site import Site
from holdfast.numerics import bits
from holdfast.numerics.formats import Encoded, Format, formats
from holdfast.seeds import Seed, derive
from holdfast.training.recipes.resident import ResidentCodes


@dataclass(frozen=True, slots=True)
class Memory:
    """Codes of several tensors in one flat integer tensor.

    Drawing errors costs per site, and small nets have many small tensors; so training draws them over all at once.

    Attributes:
        format: of every tensor.
        flat: all codes, shape (n,).
        encoded: name -> codes (a view of ``flat``, in the tensor's shape) and their qparams.
        clean: name -> decoded values, in the tensor's own dtype.
        resident: what draws errors and decodes in one pass on a CUDA device; None where the reference does.
    """

    format: Format
    flat: Tensor
    encoded: Mapping[str, Encoded]
    clean: Mapping[str, Tensor]
    resident: ResidentCodes | None = None

    @classmethod
    def of(cls, format: str, weights: Mapping[str, Tensor]) -> Memory:
        """Quantise ``weights`` afresh, each with its own range: with kernels where they lie on a CUDA device."""
        chosen = _format(format)
        if (resident := ResidentCodes.of(chosen, weights)) is not None:
            return cls(chosen, resident.codes.memory, resident.encoded, resident.clean, resident)
        found = [chosen.encode(value.detach()) for value in weights.values()]
        flat = torch.cat([item.codes.reshape(-1) for item in found])
        parts = flat.split([item.codes.numel() for item in found])
        encoded = {
            name: Encoded(part.view(item.codes.shape), item.qparams)
            for name, part, item in zip(weights, parts, found, strict=True)
        }
        clean = {name: chosen.decode(item).to(weights[name]) for name, item in encoded.items()}
        return cls(chosen, flat, encoded, clean)

    def with_errors(self, rate: float, seed: Seed) -> dict[str, Tensor]:
        """Return the values after bit errors at ``rate`` of a fresh chip, drawn over the whole memory."""
        site = Site("weights", "all", tuple(self.flat.shape), self.format.name, self.format.bits)
        if self.resident is not None:
            found = self.resident.under(Chip(rate, derive(seed, site.address)))
            if found is not None:
                return found
        return self.flipped(BitErrors(rate=rate).flips(Population((site,)), seed))

    def with_pattern(self, rate: float, chip: int) -> dict[str, Tensor]:
        """Return the values after the errors that ``inject(model, BitErrors(rate=rate), seed=chip)`` makes."""
        shapes = tuple((name, tuple(item.codes.shape)) for name, item in self.encoded.items())
        return self.flipped(_pattern(shapes, self.format.name, self.format.bits, rate, chip, self.flat.device))

    def flipped(self, flips: Sequence[Flips]) -> dict[str, Tensor]:
        """Return the values after ``flips`` of flat elements; the codes stay, and only what is hit is decoded."""
        done = [self._apply(item) for item in flips]
        result = self.resident.values() if self.resident is not None and done else None
        if result is None:
            result = dict(self.clean) | self._decoded([index for index, _ in done])
        for index, mask in reversed(done):
            bits.xor_(self.flat, index, mask)
        return result

    def _decoded(self, hit: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the tensors that have flat elements among those ``hit``, which alone are decoded."""
        result = {}
        for name, inner in self._by_tensor(torch.cat([index.cpu() for index in hit])) if hit else []:
            values = self.format.decode_at(self.encoded[name], inner)
            result[name] = self.clean[name].clone().put_(inner, values.to(self.clean[name]))
        return result

    def _apply(self, item: Flips) -> tuple[Tensor, Tensor]:
        """Flip bits of the codes in place; return what undoes it."""
        index = item.index.to(self.flat.device)
        mask = item.against(self.flat[index])
        bits.xor_(self.flat, index, mask)
        return index, mask

    def _by_tensor(self, index: Tensor) -> list[tuple[str, Tensor]]:
        """Split flat positions into (name, positions within the tensor), leaving out what has none."""
        if bool((index[1:] < index[:-1]).any()):  # a law of errors may draw them in any order
            index = index.sort().values
        sizes = torch.tensor([item.codes.numel() for item in self.encoded.values()])
        ends = sizes.cumsum(0)
        cuts = torch.searchsorted(index, ends)
        parts = index.tensor_split(cuts[:-1])
        starts = (ends - sizes).tolist()
        device = self.flat.device
        return [
            (name, (part - start).to(device))
            for name, part, start in zip(self.encoded, parts, starts, strict=True)
            if len(part)
        ]


@lru_cache(maxsize=16)
def _format(spec: str) -> Format:
    return formats.build(spec)


@lru_cache(maxsize=4)
def _pattern(
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    format: str,
    width: int,
    rate: float,
    chip: int,
    device: torch.device,
) -> list[Flips]:
    """Return the flips of one chip as positions in the flat memory, ascending; the same for a whole training."""
    sites = tuple(Site("weights", name, shape, format, width) for name, shape in shapes)
    found = {item.site.name: item for item in BitErrors(rate=rate).flips(Population(sites), derive(chip, "inject"))}
    start, result = 0, []
    whole = Site("weights", "all", (sum(site.numel for site in sites),), format, width)
    for site in sites:
        if (item := found.get(site.name)) is not None:
            result.append(Flips(whole, (item.index + start).to(device), item.mask.to(device)))
        start += site.numel
    return result
