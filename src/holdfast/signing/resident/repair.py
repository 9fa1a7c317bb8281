"""Finding the bytes that changed, and putting the signed ones back: only those, and only from verified storage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from blake3 import blake3

from holdfast.errors import IntegrityError
from holdfast.signing.resident.incident import Incident
from holdfast.signing.resident.roots import Root, Source, octets

if TYPE_CHECKING:
    from torch import Tensor, nn

    from holdfast.models.lens import Lens

GRAIN = 4096  # bytes: a page, and the resolution of what an incident names


@dataclass(frozen=True, slots=True)
class DecodedView:
    """The parameter that a network computes with, and the lens whose codes it must stand for."""

    name: str
    lens: Lens
    parameter: Tensor


def decoded_view(model: nn.Module, root: Root) -> DecodedView | None:
    """Return what is decoded from ``root``'s codes or scales; None for a tensor that is used as it is stored."""
    from holdfast.models.card import card

    name = root.parameter
    lens = card(model).lenses.get(name) if name != root.name else None
    return None if lens is None else DecodedView(name, lens, model.get_parameter(name))


def mend(
    model: nn.Module, root: Root, parts: tuple[Root, ...], found: str, source: Source | None, latency: float
) -> Incident:
    """Compare a changed tensor with ``source``, restore the ranges that differ, and say what happened.

    Where the stored codes are whole and only the numbers decoded from them changed, the codes are the source.
    """
    view = decoded_view(model, root)
    if view is not None and found == root.blake3:
        return _decode_again(view, parts, latency)
    if source is None:
        return Incident(root.name, root.blake3, found, (), 0, latency, repaired=False)
    good = _signed(root, source)
    ranges, bits = _differences(octets(root.tensor), good)
    for start, stop in ranges:
        write(root.tensor, start, good[start:stop])
    if view is not None:
        view.lens.write(view.parameter)
    return Incident(root.name, root.blake3, found, ranges, bits, latency, digest_of(root.tensor) == root.blake3)


def _decode_again(view: DecodedView, parts: tuple[Root, ...], latency: float) -> Incident:
    expected = view.lens.decoded().to(view.parameter)
    found = digest_of(view.parameter)
    ranges, bits = _differences(octets(view.parameter), octets(expected).cpu())
    if any(digest_of(part.tensor) != part.blake3 for part in parts):  # changed meanwhile: the next sweep mends it first
        return Incident(view.name, digest_of(expected), found, ranges, bits, latency, repaired=False)
    view.lens.write(view.parameter)
    return Incident(view.name, digest_of(expected), found, ranges, bits, latency, view.lens.matches(view.parameter))


def digest_of(tensor: Tensor) -> str:
    """Return the BLAKE3 (hex) of a tensor's bytes in logical order."""
    return blake3(octets(tensor).cpu().numpy().data).hexdigest()


def _signed(root: Root, source: Source) -> Tensor:
    """Return the signed bytes; the source has verified them, and here they are held against the root once more."""
    import torch

    data = bytearray(source.read(root.name))
    if len(data) != root.length or blake3(data).hexdigest() != root.blake3:
        raise IntegrityError(f"the source returned other bytes of {root.name} than were signed")
    return torch.frombuffer(data, dtype=torch.uint8)


def _differences(live: Tensor, good: Tensor) -> tuple[tuple[tuple[int, int], ...], int]:
    """Return the ranges, in grains, that differ, neighbours joined, and the number of differing bits."""
    difference = live.cpu() ^ good
    places = difference.nonzero().flatten()
    if not len(places):
        return (), 0
    bits = sum(int((difference[places] >> shift & 1).sum()) for shift in range(8))
    ranges: list[tuple[int, int]] = []
    for grain in (places // GRAIN).unique().tolist():
        start, stop = grain * GRAIN, min((grain + 1) * GRAIN, len(good))
        if ranges and ranges[-1][1] == start:
            start = ranges.pop()[0]
        ranges.append((start, stop))
    return tuple(ranges), bits


def write(tensor: Tensor, start: int, good: Tensor) -> None:
    """Put the bytes ``good`` (uint8) at byte ``start`` of ``tensor`` in logical order, whatever its layout."""
    if tensor.is_contiguous():
        octets(tensor)[start : start + len(good)] = good.to(tensor.device)
        return
    whole = octets(tensor).clone()  # logical order, as the signature has it; the layout in memory is kept
    whole[start : start + len(good)] = good.to(tensor.device)
    tensor.detach().copy_(whole.view(tensor.dtype).reshape(tensor.shape))
