"""The solvers against every possible choice."""

from __future__ import annotations

import itertools
import random

import pytest

from holdfast.errors import InvalidConfig
from holdfast.shielding.planner.solve import Option, fastest, least_exposed


@pytest.mark.parametrize("seed", range(40))
def test_fastest_is_the_best_of_all_choices(seed: int) -> None:
    draw = random.Random(seed)
    options = [
        [Option(word, draw.random(), draw.randrange(100)) for word in "abc"[: draw.randint(1, 3)]]
        for _ in range(draw.randint(1, 7))
    ]
    memory = draw.randrange(400)
    every = [ways for ways in itertools.product(*options) if sum(way.memory for way in ways) <= memory]
    if not every:
        with pytest.raises(InvalidConfig, match=f"may use {memory}"):
            fastest(options, memory)
        return
    best = min(sum(way.seconds for way in ways) for ways in every)
    words = fastest(options, memory)
    chosen = [next(way for way in ways if way.word == word) for ways, word in zip(options, words, strict=True)]
    assert sum(way.memory for way in chosen) <= memory
    assert sum(way.seconds for way in chosen) == pytest.approx(best, abs=1e-12)


def test_without_a_budget_every_node_is_at_its_fastest() -> None:
    options = [[Option("slow", 2.0, 0), Option("fast", 1.0, 10**12)]] * 3
    assert fastest(options, None) == ("fast",) * 3
    assert fastest(options, 2 * 10**12) == ("slow", "fast", "fast") or fastest(options, 2 * 10**12).count("fast") == 2


def test_many_nodes_stay_quick() -> None:
    draw = random.Random(0)
    options = [[Option("in", draw.random(), draw.randrange(10**6)), Option("out", 2.0, 0)] for _ in range(60)]
    words = fastest(options, 10**6)
    assert len(words) == 60


@pytest.mark.parametrize("seed", range(40))
def test_the_deadline_program_is_the_best_of_all_choices(seed: int) -> None:
    draw = random.Random(seed)
    count = draw.randint(1, 8)
    seconds = [(draw.random(), draw.random() * 3) for _ in range(count)]
    risks, moves = [draw.random() for _ in range(count)], [draw.random() * 0.3 for _ in range(count + 1)]
    deadline = draw.uniform(0.5, 2.5) * count / 2

    def time(inside: tuple[bool, ...]) -> float:
        worlds = (True, *inside, True)
        changes = [move for move, (a, b) in zip(moves, itertools.pairwise(worlds), strict=True) if a != b]
        return sum(pair[flag] for pair, flag in zip(seconds, inside, strict=True)) + sum(changes)

    def risk(inside: tuple[bool, ...]) -> float:
        return sum(part for part, flag in zip(risks, inside, strict=True) if not flag)

    every = [inside for inside in itertools.product((False, True), repeat=count) if time(inside) <= deadline]
    if not every:
        with pytest.raises(InvalidConfig, match="no placement meets a deadline"):
            least_exposed(seconds, risks, moves, deadline)
        return
    got = least_exposed(seconds, risks, moves, deadline)
    assert time(got) <= deadline + 1e-12
    assert risk(got) == pytest.approx(min(map(risk, every)), abs=1e-12)
