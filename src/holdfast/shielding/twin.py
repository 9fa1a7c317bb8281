"""The way to the twin of int8 products: why it cannot be used, or what it computes."""

from __future__ import annotations

from torch import Tensor

from holdfast._kernels import device as devices
from holdfast._kernels.int8_windows import Windows

TILES = ("triton-64x128", "triton-32x64")  # by the names that the twin gives them


def by_twin(images: Tensor, weights: Tensor, windows: Windows, *, above: int = 0, tile: str = TILES[0]) -> Tensor:
    """Return what :func:`~holdfast._kernels.int8_layers.multiply` makes of its arguments.

    Raises:
        NotImplementedError: there is no twin for these; says why. Nothing was computed.
    """
    if (why := devices.obstacle(images) or devices.obstacle(weights)) is not None:
        raise NotImplementedError(why)
    from holdfast._kernels.int8_layers import TILES, fits, multiply

    if not fits(images, windows, weights):
        raise NotImplementedError(f"images of {tuple(images.shape[2:])} have more places than the kernel counts")
    try:
        made = devices.attempt(lambda: multiply(images, weights, windows, above=above, tile=TILES[tile]), images.device)
    except OSError as error:  # of the folder where Triton keeps what it compiled
        raise NotImplementedError(f"Triton cannot store what it compiles: {error}") from error
    if made is None:
        raise NotImplementedError(devices._refused[images.device])
    return made
