"""Labels alone name platforms: votes, transfer, the fewest inputs, and the tree that asks fewer."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

from holdfast.errors import InvalidConfig
from holdfast.evidence import canonical
from holdfast.identification.border import (
    BorderInput,
    Standing,
    probe_set,
    transfer,
    vote,
)
from holdfast.identification.border.probe_sets import named_right
from holdfast.identification.matching_tree import probe_tree
from holdfast.seeds import derive


def made(one: str, two: str, labels: tuple[int, int]) -> BorderInput:
    standings = tuple(
        Standing(name, 1, label, 1.0, 0.0, {}, {}) for name, label in zip((one, two), labels, strict=True)
    )
    return BorderInput(torch.zeros(1, 8, 8, dtype=torch.uint8), standings)


INPUTS = [made("a", "b", (0, 1)), made("a", "c", (2, 3)), made("b", "c", (4, 5))]


def test_votes_name_the_platform_and_a_tie_names_nobody() -> None:
    assert vote(INPUTS, [0, 2, 4]).platform == "a"
    assert vote(INPUTS, [0, 2, 4]).votes == {"a": 2, "b": 1}
    assert vote(INPUTS, [0, 3, 4]).platform == "unknown"  # one vote each
    assert vote(INPUTS, [9, 9, 9]) == vote(INPUTS, [8, 8, 8])
    assert (vote(INPUTS, [9, 9, 5]).platform, vote(INPUTS, [9, 9, 5]).dropped) == ("c", 2)
    with pytest.raises(InvalidConfig, match="2 labels"):
        vote(INPUTS, [0, 1])


def test_transfer_states_what_was_published_and_chance() -> None:
    answers = {("n", "a"): [0, 2, 4], ("n", "b"): [1, 2, 4], ("m", "a"): [1, 9, 4], ("m", "c"): [0, 3, 5]}
    found = transfer(INPUTS, answers)
    assert found.predicted == ("a", "b", "b", "c")
    assert found.ratio == 0.75
    said = json.loads(canonical.dumps(found.to_json()))
    assert said["by_class_acc"] == {"a": 0.5, "b": 1, "c": 1}
    assert said["by_model_accuracy"] == {"m": 0.5, "n": 1}
    assert said["overall_accuracy"] == 0.75
    assert said["chance"] == pytest.approx(1 / 3)
    assert said["matthews_corr"] == pytest.approx(0.7)  # (3 * 4 - 5) / sqrt((16 - 6) * (16 - 6))
    assert said["classification_report"]["a"]["recall"] == 0.5


def test_transfer_without_answers_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="answers"):
        transfer(INPUTS, {})


def separated(table, columns) -> set[tuple[str, str]]:
    pairs = itertools.combinations(sorted(table), 2)
    return {(a, b) for a, b in pairs if any(table[a][column] != table[b][column] for column in columns)}


@pytest.mark.parametrize("seed", range(8))
def test_the_smallest_set_separates_what_all_inputs_do_and_no_smaller_one_does(seed: int) -> None:
    drawn = derive(seed, "table").numpy().integers(0, 2, (6, 7))
    table = {f"p{row}": drawn[row].tolist() for row in range(6)}
    found = probe_set(table)
    everything = separated(table, range(7))
    assert found.smallest
    assert separated(table, found.inputs) == everything
    for fewer in itertools.combinations(range(7), len(found.inputs) - 1):
        assert separated(table, fewer) != everything


def test_equal_platforms_are_one_class() -> None:
    table = {"a": [0, 1], "b": [0, 1], "c": [1, 1]}
    assert probe_set(table).classes == (("a", "b"), ("c",))
    assert probe_set(table).inputs == (0,)


def test_a_label_that_is_not_kept_separates_nobody() -> None:
    table = {"a": [0, 1], "b": [None, 2], "c": [1, 1]}
    assert probe_set(table).classes == (("a",), ("b",), ("c",))
    assert probe_set(table).inputs == (0, 1)
    assert probe_set({"a": [0], "b": [None], "c": [1]}).classes == (("a", "b", "c"),)  # b may be either


def test_many_inputs_are_chosen_greedily_and_say_so() -> None:
    drawn = derive(0, "table").numpy().integers(0, 2, (40, 60))
    table = {f"p{row}": drawn[row].tolist() for row in range(40)}
    found = probe_set(table)
    assert not found.smallest
    assert separated(table, found.inputs) == separated(table, range(60))
    assert len(found.inputs) <= 14  # 40 rows need at least 6 binary questions


@pytest.mark.parametrize("seed", range(4))
def test_the_tree_names_every_platform_with_few_questions(seed: int) -> None:
    drawn = derive(seed, "table").numpy().integers(0, 3, (8, 12))
    table = {f"p{row}": drawn[row].tolist() for row in range(8)}
    tree = probe_tree(table)
    classes = {name: group for group in probe_set(table).classes for name in group}
    for name, row in table.items():
        platforms, asked = tree.follow(row)
        assert platforms == classes[name]
        assert len(asked) <= tree.worst <= 5
    assert tree.follow([7] * 12)[0] == ()  # labels that no known platform gives


def test_the_tree_keeps_those_who_give_any_label() -> None:
    tree = probe_tree({"a": [0], "b": [None], "c": [1]})
    assert tree.follow([0])[0] == ("a", "b")
    assert tree.follow([1])[0] == ("b", "c")


def test_a_platform_is_named_right_by_its_own_class_alone() -> None:
    table = {"a": [0, 5], "b": [0, None], "c": [1, 6]}
    tree, chosen = probe_tree(table), probe_set(table)
    assert chosen.classes == (("a", "b"), ("c",))
    assert named_right(tree, chosen, "c", [1, 6])
    assert named_right(tree, chosen, "a", [0, 5])
    assert not named_right(tree, chosen, "c", [0, 5])
    assert not named_right(tree, chosen, "c", [None, None])


def test_a_table_of_one_platform_or_of_ragged_rows_is_refused() -> None:
    for table in ({"a": [0]}, {"a": [0], "b": [0, 1]}):
        with pytest.raises(InvalidConfig, match="two platforms"):
            probe_set(table)
