"""Collections as the tests want them: texts by prompt, and the first token's log-probabilities by prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sized

import numpy as np
import numpy.typing as npt

from holdfast.errors import InvalidConfig
from holdfast.identification.answers import Collection


def texts_of(collection: Collection) -> dict[int, list[tuple[str, ...]]]:
    """Return for each prompt the tokens of its completions, by name."""
    found: dict[int, list[tuple[str, ...]]] = {}
    for answer in collection.answers():
        found.setdefault(answer.prompt, []).append(tuple(token.name for token in answer.tokens))
    return found


def tops_of(collection: Collection) -> dict[int, list[dict[str, float]]]:
    """Return for each prompt the first token's top log-probabilities, an entry an answer; empty if there are none."""
    found: dict[int, list[dict[str, float]]] = {}
    for answer in collection.answers():
        if answer.tokens and answer.tokens[0].top:
            top = {name: float(text) for name, text in answer.tokens[0].top}
            found.setdefault(answer.prompt, []).append({k: v for k, v in top.items() if math.isfinite(v)})
    return found


def answered_twice(one: Mapping[int, Sized], other: Mapping[int, Sized], tested: str) -> list[int]:
    """Return the prompts with two answers or more on either side.

    Raises:
        InvalidConfig: there is none; ``tested`` says what needs them.
    """
    shared = sorted(prompt for prompt in one.keys() & other.keys() if min(len(one[prompt]), len(other[prompt])) > 1)
    if not shared:
        raise InvalidConfig(
            f"{tested} is tested on prompts that each side answered twice or more", hint="collect with --repeat 10"
        )
    return shared


def relabelled(total: int, first: int, permutations: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return which ``first`` of ``total`` answers each relabelling gives to the first side, (permutations, first)."""
    return generator.random((permutations, total)).argpartition(first - 1, axis=1)[:, :first]


def sides(total: int, first: int, permutations: int, generator: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return 1 where an answer is on the first side, (permutations + 1, total): as observed, then as relabelled."""
    side = np.zeros((permutations + 1, total))
    side[0, :first] = 1
    np.put_along_axis(side[1:], relabelled(total, first, permutations, generator), 1.0, axis=1)
    return side


def require_same_question(one: Collection, other: Collection) -> None:
    """Raise :class:`InvalidConfig` unless both collections asked the same prompts in the same way.

    Only what changes the answers is compared: not the address, nor the name that a server gives its model. Seeds of
    the sampling may differ, and should where answers are sampled: equal ones make answers that are not independent.
    """
    if one.digest != other.digest:
        raise InvalidConfig(
            f"{one.folder} and {other.folder} asked different prompts", hint="collect both with the same --probes"
        )
    for key in ("temperature", "tokens", "top"):
        mine, theirs = one.request.get(key), other.request.get(key)
        if mine != theirs:
            raise InvalidConfig(f"{one.folder} was asked with {key} {mine!r}, {other.folder} with {theirs!r}")


def shared_seeds(one: Collection, other: Collection) -> int:
    """Return how many seeds of the sampling two collections share; each repeat takes the next one.

    Answers sampled with one seed are copies of each other where the service is the same. The tests stay valid, but see
    less: copies look more alike than two draws.
    """
    if not float(one.request.get("temperature", 0.0)):
        return 0
    spans = []
    for side in (one, other):
        first = int(side.request.get("seed", 0))
        spans.append((first, first + int(side.request.get("repeat", 1))))
    return max(0, min(end for _, end in spans) - max(start for start, _ in spans))
