"""What a search hands to the checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    from holdfast.data import Dataset
    from holdfast.identification.border.asking import Oracle
    from holdfast.seeds import Seed


@dataclass(frozen=True)
class Found:
    """One image that two platforms label differently, as the search saw it.

    Attributes:
        image: stored pixels, uint8 (c, h, w).
        labels: on the first and the second platform.
        margin: the smaller of the two, in units of the outputs.
        evaluations: images that both platforms were asked for on the way.
        against: platforms after the first that it separates from the first.
    """

    image: Tensor
    labels: tuple[int, int]
    margin: float
    evaluations: int
    against: int = 1


class Search(Protocol):
    """One way to look for border inputs."""

    def search(self, oracles: Sequence[Oracle], model: nn.Module, data: Dataset, seed: Seed | int) -> Iterator[Found]:
        """Yield border inputs of the first platform and the second, or of as many as each of them says."""
        ...
