"""A border input must be one however it is asked: again, elsewhere in the batch, among others, in a fresh process.

The published method keeps an image once it has been seen to differ, from the batch that it was made in, and later asks
about it at another place among other images. Here each of these is tried before an input counts, and what was tried is
kept beside it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.identification.border.gap import margins
from holdfast.seeds import Seed, derive


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """What a border input must withstand.

    Args:
        repeats: passes of the same batch in the same process.
        positions: places in the batch, evenly spread; fewer where the batch is smaller.
        neighbours: sets of other images in the batch: copies of itself, zeros, then noise.
        fresh: further processes, for platforms of this machine.
        margin: that each platform's top output must keep over its next, at least; above 0, as a tie is no label.
    """

    repeats: int = 3
    positions: int = 3
    neighbours: int = 3
    fresh: int = 0
    margin: float = 0.0

    def __post_init__(self) -> None:
        if min(self.repeats, self.positions, self.neighbours) < 1 or self.fresh < 0 or not self.margin >= 0:
            raise InvalidConfig("a check asks at least once", hint="fresh and margin may be 0")


@dataclass(frozen=True)
class Standing:
    """How one platform answered all ways of asking about one image.

    Attributes:
        platform: its name.
        batch: images in one pass.
        label: the answer, or None where answers differ or one was a tie.
        margin: the smallest seen, in units of the outputs.
        spread: largest difference between two values of one output; 0 where every pass gave the same bits.
        asked: answers seen, by the way of asking.
        agreed: of them, those with the label of the first.
    """

    platform: str
    batch: int
    label: int | None
    margin: float
    spread: float
    asked: dict[str, int]
    agreed: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)

    @property
    def complaint(self) -> str:
        """Why the label is no good, or nothing."""
        if self.label is not None:
            return ""
        split = [f"{way} {self.agreed[way]} of {self.asked[way]}" for way in self.asked]
        return f"{self.platform} does not keep its label ({', '.join(split)} agree, smallest margin {self.margin:g})"


class Space(Protocol):
    """Where inputs come from: the lattice of images, or prompts of one length."""

    def noise(self, count: int, seed: Seed | int) -> Tensor:
        """Return ``count`` inputs that mean nothing."""
        ...


class Asked(Protocol):
    """What is asked: an oracle of images, or one of prompts."""

    @property
    def name(self) -> str:
        """Name of the platform."""
        ...

    @property
    def batch(self) -> int:
        """Inputs in one pass."""
        ...

    def logits(self, inputs: Tensor, /) -> Tensor:
        """Return (n, classes) of full batches."""
        ...

    def fresh(self, inputs: Tensor, /) -> Tensor | None:
        """Return the same from a process of its own, or None."""
        ...


def standing(oracle: Asked, image: Tensor, space: Space, demands: Demands, seed: Seed | int) -> Standing:
    """Ask one platform about one input, an image (c, h, w) or tokens (t,), in all ways that ``demands`` name."""
    batches, places, ways = _arranged(image, oracle.batch, space, demands, seed)
    rounds = [("here", oracle.logits(batches)) for _ in range(demands.repeats)]
    for _ in range(demands.fresh):
        answered = oracle.fresh(batches)
        if answered is not None:
            rounds.append(("fresh process", answered))
    seen = [(way, values.view(-1, oracle.batch, values.shape[1])[range(len(places)), places]) for way, values in rounds]
    return _judged(oracle, seen, ways, demands.margin)


def _arranged(
    image: Tensor, batch: int, space: Space, demands: Demands, seed: Seed | int
) -> tuple[Tensor, list[int], list[str]]:
    """Return batches (k * batch, c, h, w), the place of the image in each, and what each batch varies."""
    sets = [image.expand(batch, *image.shape), torch.zeros_like(image).expand(batch, *image.shape)]
    extra = range(max(0, demands.neighbours - 2))
    sets += [space.noise(batch, derive(seed, "neighbours", number)) for number in extra]
    spread = torch.linspace(0, batch - 1, min(batch, demands.positions)).round().int().tolist()
    batches, places, ways = list[Tensor](), list[int](), list[str]()
    for place in sorted(set(spread)):
        for number, others in enumerate(sets[: demands.neighbours] if batch > 1 else sets[:1]):
            filled = others.clone()
            filled[place] = image
            batches.append(filled)
            places.append(place)
            ways.append("neighbours" if number else "positions")
    return torch.cat(batches), places, ways


def _judged(oracle: Asked, seen: list[tuple[str, Tensor]], ways: list[str], least: float) -> Standing:
    first = int(seen[0][1][0].argmax())
    asked, agreed = dict[str, int](), dict[str, int]()
    for number, (round_, values) in enumerate(seen):
        for way, label in zip(ways, values.argmax(1).tolist(), strict=True):
            name = round_ if round_ != "here" else "repeats" if number else way
            asked[name] = asked.get(name, 0) + 1
            agreed[name] = agreed.get(name, 0) + (label == first)
    everything = torch.cat([values for _, values in seen])
    smallest = float(margins(everything).min()) if bool(torch.isfinite(everything).all()) else 0.0
    spread = float((everything.max(0).values - everything.min(0).values).max()) if smallest else 0.0
    kept = asked == agreed and smallest > least
    return Standing(oracle.name, oracle.batch, first if kept else None, smallest, spread, asked, agreed)
