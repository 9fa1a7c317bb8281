"""The faults that a campaign over trials saves are those that it met, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn

from holdfast.assessment.campaign_facts import faults_of
from holdfast.data import Dataset
from holdfast.errors import InvalidConfig, UnreadableArtifact
from holdfast.execution import campaign, faults
from holdfast.execution.fault_list import ListedFaults, ListedTrial


@pytest.mark.parametrize("spec", ["corruption:what=(stuck:at=1)", "corruption:what=(stuck:at=random)", "bit-flip"])
def test_saved_faults_give_the_table_they_came_from(trained: nn.Module, digits: Dataset, spec: str) -> None:
    """A bit that is stuck at what is stored there changes nothing; as a flip it would."""
    fault = faults.build(spec)
    report = campaign(trained, digits, fault, at="weights:fc.*", trials=60, seed=2)
    listed = ListedFaults(listed=faults_of(trained, digits, report, fault))
    again = campaign(trained, digits, listed, at="weights:fc.*", trials=60)
    assert [replace(row, site="") for row in again.rows] == [replace(row, site="") for row in report.rows]


def test_faults_by_strata_are_those_of_their_places(trained: nn.Module, digits: Dataset) -> None:
    fault = faults.build("bit-flip")
    report = campaign(trained, digits, fault, at="weights:fc.*", trials=64, seed=2, stratify="class")
    listed = ListedFaults(listed=faults_of(trained, digits, report, fault))
    assert campaign(trained, digits, listed, at="weights:fc.*", trials=64).digest == report.digest


def test_what_cannot_be_drawn_again_is_refused(trained: nn.Module, digits: Dataset) -> None:
    fault = faults.build("corruption:what=(stuck:at=1)")
    report = campaign(trained, digits, fault, at="weights", trials=30, seed=2)
    report = replace(report, plan={**report.plan, "seed": 3})
    with pytest.raises(InvalidConfig, match="drawn again"):
        faults_of(trained, digits, report, fault)


def test_a_bit_is_told_one_thing_only() -> None:
    """A bit that flips and becomes one has no meaning, nor has a code wider than its element."""
    site = {"kind": "weights", "name": "w", "format": "int8", "bits": 8, "shape": [4]}

    def line(**change: object) -> dict[str, object]:
        return {"trial": 0, "input": 0, "changes": [{"site": site, "element": [1], **change}]}

    ListedTrial.from_json(line(flip=["0x1"], rise=["0x2"], fall=["0x4"]))
    for change in ({"flip": ["0x3"], "rise": ["0x2"]}, {"rise": ["0x3"], "fall": ["0x2"]}):
        with pytest.raises(UnreadableArtifact, match="two of"):
            ListedTrial.from_json(line(**change))
    with pytest.raises(UnreadableArtifact, match="8 bits"):
        ListedTrial.from_json(line(rule=[{"rule": "becomes", "rows": ["0x1ff"]}]))
    with pytest.raises(UnreadableArtifact):
        ListedTrial.from_json(line(rule=[{"rule": "becomes", "rows": ["0xff"], "limits": []}]))
    with pytest.raises(UnreadableArtifact):
        ListedTrial.from_json(line(rule=[{"rule": "scaled", "rows": [[1.0, 2.0]], "limits": ["nan"]}]))
