"""When two answers disagree, and by how much: margins of the label and the gap between two classes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


def margins(logits: Tensor) -> Tensor:
    """Return the distance (n,) from the top output of (n, classes) to the next; 0 is a tie.

    Any library may break a tie its own way. Outputs may have more dimensions before the last.
    """
    top = logits.float().topk(2, dim=-1).values
    return top[..., 0] - top[..., 1]


@dataclass(frozen=True)
class Answers:
    """What two platforms say of the same images.

    Attributes:
        first: float32 logits (n, classes) of one platform.
        second: of the other.
    """

    first: Tensor
    second: Tensor

    @property
    def labels(self) -> tuple[Tensor, Tensor]:
        """The label (n,) on each platform."""
        return self.first.argmax(1), self.second.argmax(1)

    @property
    def margin(self) -> Tensor:
        """The smaller of the two margins (n,): how much may change before the weaker answer does."""
        return margins(self.first).minimum(margins(self.second))

    def is_border(self, least: float = 0.0) -> Tensor:
        """Say which images (n,) get two labels, each by a margin above ``least``; a tie is no border input."""
        one, two = self.labels
        return (one != two) & (self.margin > least)

    def gap(self, above: int, below: int) -> Tensor:
        """Return the mean over both platforms of output ``above`` less output ``below`` (n,), in double."""
        both = self.first.double() + self.second.double()
        return (both[:, above] - both[:, below]) / 2
