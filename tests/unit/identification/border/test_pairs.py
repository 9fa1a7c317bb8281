"""All pairs of some platforms: as few searches and labels as do, and platforms named by a fresh process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.nets import trained_digits

from holdfast.data import Dataset, Preprocessing, dataset
from holdfast.errors import InvalidConfig
from holdfast.identification.border import BorderSet, border_pairs


@pytest.mark.slow
def test_every_platform_is_named_from_labels_of_a_fresh_process(tmp_path: Path) -> None:
    digits = dataset("digits")
    data = Dataset("digits", digits.raw * 15, digits.labels, digits.classes, Preprocessing(1 / 240, (0.5,), (0.5,)))
    names = ["default", "bf16", "fp16", "gradients"]
    found = border_pairs(trained_digits(), data, platforms=names, folder=tmp_path)
    assert list(found.alike) == [("default", "gradients")]  # the same bits
    assert "one class here" in found.alike["default", "gradients"]
    assert sorted(map(sorted, found.chosen.classes)) == [["bf16"], ["default", "gradients"], ["fp16"]]
    assert 1 < len(found.inputs) < 5  # six pairs: some inputs part several
    assert found.right == dict.fromkeys(names, True)
    written = json.loads((tmp_path / "pairs.json").read_text())
    assert [item["labels"] for item in written["inputs"]] == [item.labels for item in found.inputs]
    for item in written["inputs"]:
        assert BorderSet.load(tmp_path / item["folder"]).inputs[0].labels == item["labels"]


def test_pairs_want_two_platforms() -> None:
    for names in (["default"], ["default", "default", "bf16"]):
        with pytest.raises(InvalidConfig, match="two platforms or more"):
            border_pairs(trained_digits(steps=1), dataset("digits"), platforms=names)
