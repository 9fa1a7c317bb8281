"""Likelihoods of distances, fewest probes, and a sequential test that keeps its error bound."""

from __future__ import annotations

import itertools

import pytest
import torch

from holdfast.errors import InvalidConfig
from holdfast.execution import Proportion, Trace
from holdfast.identification.matching import LikelihoodMatcher
from holdfast.identification.matching_tree import probe_tree
from holdfast.identification.sequential import UNDECIDED, SequentialMatch, echo_of, run_sequential
from holdfast.seeds import derive

CLASSES, PROBES, WORDS = 6, 8, 10


def trace(outputs: torch.Tensor, probes: str = "p", model: str = "m") -> Trace:
    return Trace(outputs, probes, model, {"setting": "simulated"})


def stacks(seed: int, count: int = CLASSES) -> dict[str, Trace]:
    """Platforms that share about a third of their words and differ by a few ULP in the others, as fp32 stacks do."""
    generator = derive(seed, "stacks").torch()
    exact = torch.randn(PROBES, WORDS, generator=generator)
    found = {}
    for k in range(count):
        moves = torch.randint(-1, 2, exact.shape, generator=generator, dtype=torch.int32)
        found[f"stack-{k}"] = trace((exact.view(torch.int32) + moves).view(torch.float32))
    return found


def test_a_repeated_trace_is_named_and_a_left_out_class_is_unknown() -> None:
    right = refused = n = 0
    for seed in range(20):
        known = stacks(seed)
        matcher = LikelihoodMatcher().fit(list(known.items()))
        for name, seen in known.items():
            right += matcher.predict(seen).labels == (name,)
            others = [item for item in known.items() if item[0] != name]
            refused += LikelihoodMatcher().fit(others).predict(seen).labels == ("unknown",)
            n += 1
    assert Proportion.clopper_pearson(right, n).low > 0.95  # chance is 1/6
    assert Proportion.clopper_pearson(n - refused, n).high < 0.05


def test_a_few_struck_words_do_not_change_the_answer() -> None:
    known = stacks(1)
    outputs = known["stack-2"].outputs.clone()
    outputs[3, 4] += 0.5
    found = LikelihoodMatcher().fit(list(known.items())).predict(trace(outputs))
    assert found.labels == ("stack-2",)
    assert found.equal["stack-2"] == 1 - 1 / (PROBES * WORDS)


def test_rounding_merges_classes_and_the_answer_says_so() -> None:
    known = stacks(2)
    rounded = trace(((known["stack-1"].outputs.double() * 1e4).round() / 1e4).float())
    found = LikelihoodMatcher(decimals=4).fit(list(known.items())).predict(rounded)
    assert len(found.posterior) < 1 + CLASSES / 2  # most references round to the same words
    assert all(f"stack-{k}" in found.label for k in range(CLASSES))


def test_traces_that_do_not_fit_are_refused() -> None:
    matcher = LikelihoodMatcher().fit(list(stacks(0).items()))
    with pytest.raises(InvalidConfig, match="other probes"):
        matcher.predict(trace(torch.zeros(PROBES, WORDS), probes="q"))
    with pytest.raises(InvalidConfig, match="does not fit"):
        matcher.predict(trace(torch.zeros(PROBES, 3)))
    with pytest.raises(InvalidConfig, match="no references"):
        LikelihoodMatcher().predict(trace(torch.zeros(1, 1)))
    with pytest.raises(InvalidConfig, match="at least one"):
        LikelihoodMatcher().fit([])


@pytest.mark.parametrize("seed", range(10))
def test_the_tree_is_as_shallow_as_any(seed: int) -> None:
    generator = derive(seed, "answers").numpy()
    answers = {f"c{k}": tuple(generator.integers(0, 2, 6).tolist()) for k in range(7)}
    tree = probe_tree(answers)
    assert tree.optimal
    distinct = len(set(answers.values()))

    def best(names: frozenset[str]) -> int:  # every tree there is
        if len({answers[name] for name in names}) == 1:
            return 0
        depths = []
        for probe in range(6):
            parts = [frozenset(n for n in names if answers[n][probe] == bit) for bit in (0, 1)]
            if all(parts):
                depths.append(1 + max(map(best, parts)))
        return min(depths)

    assert tree.worst == best(frozenset(answers))
    leaves, todo = [], [tree]
    while todo:
        node = todo.pop()
        todo.extend(node.branches.values())
        leaves += [] if node.branches else [node.classes]
    assert len(leaves) == distinct
    assert all(len({answers[name] for name in leaf}) == 1 for leaf in leaves)


def test_even_splits_beat_the_greedy_count_of_pairs() -> None:
    names = list(itertools.product((0, 1), repeat=3))
    answers = {str(bits): (*bits, *(int(bits == one) for one in names)) for bits in names}
    tree = probe_tree(answers)
    assert tree.worst == 3
    assert tree.asked == (0, 1, 2)
    with pytest.raises(InvalidConfig):
        probe_tree({})


def simulated(seed: int, classes: int, probes: int, answers: int) -> dict[str, tuple[int, ...]]:
    generator = derive(seed, "sequence").numpy()
    return {f"c{k}": tuple(generator.integers(0, answers, probes).tolist()) for k in range(classes)}


def test_the_error_bound_holds_under_the_worst_unknown_platform() -> None:
    error, echo, n, wrong = 0.05, 0.4, 400, 0
    generator = derive(7, "worst").numpy()
    for seed in range(n):
        known = simulated(seed, 5, 40, 6)
        # an adversary that repeats one class's answer as often as the bound allows
        target = [known["c0"][k] if generator.random() < echo else 99 for k in range(40)]
        decision = run_sequential(SequentialMatch(known, error=error, echo=echo), target)
        wrong += decision.labels[0] not in ("unknown", UNDECIDED)
    assert Proportion.clopper_pearson(wrong, n).low <= error
    assert wrong / n < error


def test_known_platforms_are_named_in_few_probes_despite_flaws() -> None:
    generator = derive(8, "flaws").numpy()
    right, asked, n = 0, 0, 200
    for seed in range(n):
        known = simulated(seed, 8, 40, 30)
        target = [known["c3"][k] if generator.random() > 1e-3 else 99 for k in range(40)]
        decision = run_sequential(SequentialMatch(known, echo=0.2), target)
        right += decision.labels == ("c3",)
        asked += decision.asked
    assert Proportion.clopper_pearson(right, n).low > 0.95
    assert asked / n < 6


def test_classes_that_answer_alike_stay_together() -> None:
    known = {"a": (1, 2, 3, 4, 5, 6), "b": (1, 2, 3, 4, 5, 6), "c": (7, 8, 9, 10, 11, 12)}
    decision = run_sequential(SequentialMatch(known, echo=0.1), (1, 2, 3, 4, 5, 6))
    assert decision.label == "one of {a, b}"
    assert decision.confidence > 0.99
    assert decision.runner_up in ("unknown", "c")


def test_a_repeated_probe_is_no_new_evidence() -> None:
    test = SequentialMatch({"a": (1, 2), "b": (1, 3)})
    test.answer(0, 1)
    with pytest.raises(InvalidConfig, match="not a new one"):
        test.answer(0, 1)
    with pytest.raises(InvalidConfig, match="echo"):
        SequentialMatch({"a": (1,)}, flaw=0.1, echo=0.05)
    assert test.decision().labels == (UNDECIDED,)


def test_an_echo_is_bounded_from_the_references() -> None:
    apart = {f"c{k}": tuple(range(100 * k, 100 * k + 64)) for k in range(4)}
    assert echo_of(apart) < 0.06
    near = apart | {"near": (*apart["c0"][:32], *range(900, 932))}
    assert 0.5 < echo_of(near) < 0.65
    with pytest.raises(InvalidConfig, match="two distinct"):
        echo_of({"a": (1,)})
