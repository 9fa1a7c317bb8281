"""What a search hands to the checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from holdfast.data import Dataset
    from holdfast.identification.border.oracle import Oracle
    from holdfast.seeds import Seed


@dataclass(frozen=True)
class Found:
    """One image that two platforms label differently, as the search saw it.

    Attributes:
        image: stored pixels, uint8 (c, h, w).
        labels: on the first and the second platform.
        margin: the smaller of the two, in units of the outputs.
        evaluations: images that both platforms were asked for on the way.
    """

    image: Tensor
    labels: tuple[int, int]
    margin: float
    evaluations: int


class Search(Protocol):
    """One way to look for border inputs."""

    def search(self, pair: tuple[Oracle, Oracle], model: nn.Module, data: Dataset, seed: Seed | int) -> Iterator[Found]:
        """Yield border inputs of a pair of platforms until there are no more."""
        ...
