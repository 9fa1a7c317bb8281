"""The axes of a site: which one counts channels, which one rows, which one columns."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from holdfast.models.site import Site

_MATRICES = ("weights", "buffers", "qparams", "gradients", "moments")  # stored: the first axis is the output channel


@dataclass(frozen=True, slots=True)
class Geometry:
    """The shape of a site, padded to two axes or more, and what its axes mean.

    A *row* runs along the last axis, a *column* along the one before it. *Channels* are counted by the first axis of
    maps (channels, height, width), of attention (heads, queries, keys) and of weights (out, in, ...), and by the last
    axis of what flows as (tokens, dim).
    """

    shape: tuple[int, ...]
    channel: int  # axis

    @classmethod
    def of(cls, site: Site) -> Geometry:
        """Return the geometry of a site; a vector is one row, or one column of channels where it is stored."""
        shape = site.shape or (1,)
        stored = site.kind in _MATRICES
        if len(shape) == 1:
            return cls((1, *shape), 1)
        return cls(shape, 0 if stored or len(shape) > 2 else 1)

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.shape[self.channel]

    def place(self, element: int) -> list[int]:
        """Return the coordinates of a flat element."""
        return [int(axis) for axis in np.unravel_index(element, self.shape)]

    def flat(self, *axes: np.ndarray) -> np.ndarray:
        """Return the flat elements at coordinates that broadcast against each other: int64, ascending."""
        mixed = np.ravel_multi_index(np.broadcast_arrays(*axes), self.shape)
        return np.unique(mixed.astype(np.int64))

    def slab(self, element: int, **ranges: range | None) -> np.ndarray:
        """Return the elements that share the coordinates of ``element``, but for the named axes.

        ``row``, ``column`` and ``channel`` vary the index of a row, of a column, of a channel; None means the whole
        axis.
        """
        axes: list[np.ndarray] = [np.array([axis]) for axis in self.place(element)]
        numbers = {"row": len(self.shape) - 2, "column": len(self.shape) - 1, "channel": self.channel}
        for name, span in ranges.items():
            axis = numbers[name]
            axes[axis] = np.arange(self.shape[axis]) if span is None else np.arange(span.start, span.stop, span.step)
        return self.flat(*np.ix_(*axes))

    def of_channel(self, element: int) -> np.ndarray:
        """Return all elements of the channel that ``element`` lies in."""
        axes = [np.arange(side) for side in self.shape]
        axes[self.channel] = np.array([self.place(element)[self.channel]])
        return self.flat(*np.ix_(*axes))

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns of the matrix product that computes the site: channels first, or tokens by features."""
        if self.channel == 0:
            return self.shape[0], math.prod(self.shape[1:])
        return math.prod(self.shape[:-1]), self.shape[-1]
