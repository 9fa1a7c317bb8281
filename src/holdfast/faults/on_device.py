"""The chips of :mod:`holdfast.faults.chip` on a CUDA device: the same errors, drawn and flipped where the memory is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor

from holdfast._kernels.device import attempt, obstacle
from holdfast.errors import MissingDevice
from holdfast.faults import chip as law
from holdfast.faults.chip import Chip
from holdfast.seeds import Seed, derive

if TYPE_CHECKING:
    import torch

    from holdfast._kernels.chips import Drawing

Result = TypeVar("Result")
_MAPPED = 2**30  # bits of the largest map that is drawn to be listed


def drawing_of(chip: Chip) -> Drawing:
    """Return what the kernels need to draw the errors of ``chip``; its rate lies strictly between 0 and 1."""
    from holdfast._kernels.chips import Drawing

    least, table = law._poisson()
    bands = tuple(_row(band, chip) for band in chip._bands())
    return Drawing(bands=bands, poisson=table, least=least, slot=law._SLOT, most=law._MOST)


def _row(band: law._Band, chip: Chip) -> tuple[int, ...]:
    """Return a band as the kernels read it; the bound on the marks is the reference's own, to the bit."""
    key = derive(chip.seed, "band", band.number)
    share = (chip._time - band.low) / band.width
    high, low = divmod(int(share * 2 ** (96 - band.address_bits)), 2**64) if share < 1 else (0, 0)
    return (*key.words()[:2], 0, band.address_bits, int(share < 1), high, low, *derive(key, "ties").words())


def xor_chip_on_device_(octets: Tensor, rate: float, seed: Seed, *, first: int = 0) -> int:
    """Flip the errors of a chip in memory on a CUDA device; :func:`~holdfast.faults.bit_errors.xor_chip_` there.

    Memory of packed codes of any width is memory like any other: code ``i`` of ``w`` bits has the bits from ``i * w``.

    Args:
        octets: uint8, shape (n,), contiguous; a part of a memory is enough.
        rate: per bit, 0..1.
        seed: of the chip and the site.
        first: bytes of the memory before this part.

    Returns:
        How many bits flipped; once more undoes it.

    Raises:
        MissingDevice: no kernel can do it there; the message says why.
        InvalidConfig: a rate outside 0 .. 1.
    """
    chip = Chip(rate, seed)
    require(octets)
    from holdfast._kernels import chips

    if rate == 1:
        octets.bitwise_not_()
    if rate in (0, 1):
        return 8 * octets.numel() * int(rate)
    if chip.dense:
        return _done(lambda: chips.flip_(octets, drawing_of(chip), 8 * first), octets)
    addresses = errors_on_device(chip, 8 * first, 8 * (first + octets.numel()), octets)
    return _done(lambda: chips.flip_listed_(octets, addresses, first=8 * first), octets)


def error_map_on_device(chip: Chip, size: int, like: Tensor) -> Tensor:
    """Return the errors of ``chip`` among ``8 * size`` addresses from 0 on, one bit each, on the device of ``like``.

    Nothing is waited for: the map is drawn behind what the device was given before.

    Returns:
        uint8, shape (size,); bit j of byte i has address ``8 * i + j``.

    Raises:
        MissingDevice: no kernel can do it there; the message says why.
    """
    require(like)
    return _done(lambda: drawn_map(chip, size, like.device), like)


def drawn_map(chip: Chip, size: int, device: torch.device) -> Tensor:
    """Return what :func:`error_map_on_device` does; the caller knows that kernels run there, and what if none does."""
    import torch

    from holdfast._kernels import chips

    if chip.rate in (0, 1):
        return torch.full((size,), 255 * int(chip.rate), dtype=torch.uint8, device=device)
    return chips.error_map(size, drawing_of(chip), 0, device)


def errors_on_device(chip: Chip, start: int, stop: int, like: Tensor) -> Tensor:
    """Return the errors of ``chip`` from ``start`` up to ``stop`` on the device of ``like``: int64, ascending, unique.

    Raises:
        MissingDevice: no kernel can do it there; the message says why.
    """
    require(like)
    import torch

    from holdfast._kernels import chips

    if chip.rate in (0, 1):
        return torch.arange(start, stop if chip.rate else start, dtype=torch.int64, device=like.device)
    return _done(lambda: chips.error_list(start, stop, drawing_of(chip), like.device), like)


def flips_on_device(chip: Chip, count: int, bits: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the elements among ``count`` of ``bits`` bits that the errors of ``chip`` hit, and their XOR masks.

    Returns:
        Elements, int64, ascending, each once, and masks, int64, both on the device of ``like``.

    Raises:
        MissingDevice: no kernel can do it there; the message says why.
    """
    import torch

    addresses = _listed(chip, count * bits, like)
    element, inverse = torch.unique_consecutive(addresses // bits, return_inverse=True)
    # no two addresses are the same bit, so that the sum of their masks is their union
    return element, torch.zeros_like(element).index_add_(0, inverse, torch.ones_like(addresses) << addresses % bits)


def _listed(chip: Chip, stop: int, like: Tensor) -> Tensor:
    """Return the errors up to address ``stop``, ascending: out of a map where that is drawn faster than a list."""
    import torch

    if not chip.dense or stop > _MAPPED:
        return errors_on_device(chip, 0, stop, like)
    octets = error_map_on_device(chip, -(-stop // 8), like)
    hit = octets.nonzero().flatten()
    places = torch.arange(8, device=like.device)
    flags = (octets[hit].unsqueeze(1) >> places) & 1
    found = (8 * hit.unsqueeze(1) + places)[flags.bool()]
    return found[found < stop]


def _done(call: Callable[[], Result], like: Tensor) -> Result:
    """Return what ``call`` does, or raise the reason for which it cannot be done there."""
    if (result := attempt(call, like.device)) is None:
        require(like)  # which now knows why
        raise MissingDevice("a kernel did not compile")
    return result


def require(tensor: Tensor) -> None:
    """Raise :class:`MissingDevice` unless kernels can read ``tensor`` where it lies."""
    if (why := obstacle(tensor)) is not None:
        raise MissingDevice(
            f"no kernel can work there: {why}", hint="move the tensor to the CPU, or make it contiguous"
        )
