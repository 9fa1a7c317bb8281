"""Ways to a device and back: one lane where the host computes, three streams of a CUDA device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class Lanes(Protocol):
    """The ways in, through and out of a device."""

    def room(self, shape: tuple[int, ...]) -> Tensor:
        """Return memory of the host for an answer, int32 of ``shape``, that the device can write to by itself."""
        ...

    def bring(self, part: Tensor) -> Tensor:
        """Send a part of a question to the device; what is computed later waits for it."""
        ...

    def compute(self, product: Callable[[Tensor], Tensor], part: Tensor) -> Tensor:
        """Compute on the device what is brought by now."""
        ...

    def fetch(self, made: Tensor, room: Tensor | None) -> Tensor:
        """Bring what was computed to the host, without waiting for it: to ``room``, or to wherever is best."""
        ...

    def finish(self) -> None:
        """Wait until everything has arrived."""
        ...


class OneLane:
    """One thing after the other, where the host computes."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def room(self, shape: tuple[int, ...]) -> Tensor:
        """Return ordinary memory."""
        return torch.empty(shape, dtype=torch.int32)

    def bring(self, part: Tensor) -> Tensor:
        """Return ``part`` where it is computed with."""
        return part.to(self._device)

    def compute(self, product: Callable[[Tensor], Tensor], part: Tensor) -> Tensor:
        """Return the product."""
        return product(part)

    def fetch(self, made: Tensor, room: Tensor | None) -> Tensor:
        """Copy, if it has to go elsewhere."""
        return made.cpu() if room is None else room.copy_(made)

    def finish(self) -> None:
        """Do nothing: it is done."""


class ThreeLanes:
    """A stream of a CUDA device for each direction and one between; pinned memory comes from torch's cache of it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._inward, self._work, self._outward = (torch.cuda.Stream(device) for _ in range(3))

    def room(self, shape: tuple[int, ...]) -> Tensor:
        """Return pinned memory; it is not used again before the caller forgets it."""
        return torch.empty(shape, dtype=torch.int32, pin_memory=True)

    def bring(self, part: Tensor) -> Tensor:
        """Copy ``part`` to pinned memory and send it from there while the host goes on to the next."""
        pinned = torch.empty(part.shape, dtype=part.dtype, pin_memory=True).copy_(part)
        with torch.cuda.stream(self._inward):
            there = pinned.to(self._device, non_blocking=True)
        there.record_stream(self._work)
        self._work.wait_stream(self._inward)
        return there

    def compute(self, product: Callable[[Tensor], Tensor], part: Tensor) -> Tensor:
        """Return the product, which may be on its way still."""
        with torch.cuda.stream(self._work):
            return product(part)

    def fetch(self, made: Tensor, room: Tensor | None) -> Tensor:
        """Send the product to pinned memory once it is there."""
        room = self.room(tuple(made.shape)) if room is None else room
        self._outward.wait_stream(self._work)
        with torch.cuda.stream(self._outward):
            room.copy_(made, non_blocking=True)
        made.record_stream(self._outward)
        return room

    def finish(self) -> None:
        """Wait for the last stream, and with it for all."""
        self._outward.synchronize()
