"""A border input must be one however it is asked: again, elsewhere in the batch, among others, in a fresh process.

The published method keeps an image once it has been seen to differ, from the batch that it was made in, and later asks
about it at another place among other images. Here each of these is tried before an input counts, and what was tried is
kept beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig, UnreadableArtifact
from holdfast.identification.border.asking import Oracle
from holdfast.identification.border.gap import margins
from holdfast.seeds import Seed, derive


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """What a border input must withstand.

    Args:
        repeats: passes of the same batch in the same process.
        neighbours: batches of other images around it, each with it in another place: zeros, then noise. Every place
            is tried besides, in a batch of copies of itself.
        fresh: further processes, for platforms of this machine.
        margin: that each platform's top output must keep over its next, at least; above 0, as a tie is no label.
    """

    repeats: int = 3
    neighbours: int = 2
    fresh: int = 0
    margin: float = 0.0

    def __post_init__(self) -> None:
        if self.repeats < 1 or min(self.neighbours, self.fresh) < 0 or not self.margin >= 0:
            raise InvalidConfig("a check asks at least once", hint="neighbours, fresh and margin may be 0")


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

    @classmethod
    def from_json(cls, value: object) -> Standing:
        """Read the JSON form.

        Raises:
            UnreadableArtifact: a field of another kind, which is named; or a name that does not print.
        """
        if not isinstance(value, dict) or set(value) != {field.name for field in fields(cls)}:
            raise UnreadableArtifact(f"{value!r:.100} says not what a platform answered")
        for name, is_one in _KINDS.items():
            if not is_one(value[name]):
                raise UnreadableArtifact(f"{name} of a platform is {value[name]!r:.100}")
        if value["asked"].keys() != value["agreed"].keys():
            raise UnreadableArtifact(f"{value['platform']} was asked in other ways than it agreed in")
        return cls(**value)

    @property
    def complaint(self) -> str:
        """Why the label is no good, or nothing."""
        if self.label is not None:
            return ""
        split = [f"{way} {self.agreed[way]} of {self.asked[way]}" for way in self.asked]
        return f"{self.platform} does not keep its label ({', '.join(split)} agree, smallest margin {self.margin:g})"


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_size(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _is_line(value: object) -> bool:
    return isinstance(value, str) and value.isprintable()


def _are_counts(value: object) -> bool:
    return isinstance(value, dict) and all(_is_line(way) and _is_count(count) for way, count in value.items())


_KINDS: dict[str, Callable[[Any], bool]] = {
    "platform": lambda value: _is_line(value) and bool(value),
    "batch": lambda value: _is_count(value) and value > 0,
    "label": lambda value: value is None or _is_count(value),
    "margin": _is_size,
    "spread": _is_size,
    "asked": _are_counts,
    "agreed": _are_counts,
}


class Space(Protocol):
    """Where inputs come from: the lattice of images, or prompts of one length."""

    def noise(self, count: int, seed: Seed | int) -> Tensor:
        """Return ``count`` inputs that mean nothing."""
        ...


def standing(oracle: Oracle, image: Tensor, space: Space, demands: Demands, seed: Seed | int) -> Standing:
    """Ask one platform about one input, an image (c, h, w) or tokens (t,), in all ways that ``demands`` name."""
    return standings(oracle, [image], space, demands, seed)[0]


def standings(
    oracle: Oracle, images: Sequence[Tensor], space: Space, demands: Demands, seed: Seed | int
) -> list[Standing]:
    """Ask one platform about several inputs of one shape; a fresh process is started once for all of them."""
    arranged = [_arranged(image, oracle.batch, space, demands, seed) for image in images]
    batches = torch.cat([item[0] for item in arranged])
    rounds = [("here", oracle.logits(batches)) for _ in range(demands.repeats)]
    answers = [oracle.fresh(batches) for _ in range(demands.fresh)]
    rounds += [("fresh process", answer) for answer in answers if answer is not None]
    found, start = list[Standing](), 0
    for part, rows, ways in arranged:
        seen = [(name, values[start : start + len(part)][rows]) for name, values in rounds]
        found.append(_judged(oracle, seen, ways, demands.margin))
        start += len(part)
    return found


def _arranged(
    image: Tensor, batch: int, space: Space, demands: Demands, seed: Seed | int
) -> tuple[Tensor, list[int], list[str]]:
    """Return batches (k * batch, ...), the rows in which the image stands, and what each of them varies."""
    batches, rows, ways = [image.expand(batch, *image.shape)], list(range(batch)), ["positions"] * batch
    for number in range(demands.neighbours if batch > 1 else 0):
        others = space.noise(batch, derive(seed, "neighbours", number)) if number else torch.zeros_like(batches[0])
        place = (number + 1) * (batch - 1) // demands.neighbours
        others[place] = image
        batches.append(others)
        rows.append((number + 1) * batch + place)
        ways.append("neighbours")
    return torch.cat(batches), rows, ways


def _judged(oracle: Oracle, seen: list[tuple[str, Tensor]], ways: list[str], least: float) -> Standing:
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
