"""A list of flips: exact on the way to a file and back, replayed by inject and campaign, refused where it is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from holdfast.data import Dataset
from holdfast.errors import DigestMismatch, InvalidConfig, NoSuchSite, UnreadableArtifact, UnsupportedVersion
from holdfast.execution import Flips, campaign, describe_fault, inject, predict
from holdfast.execution.condition import faults
from holdfast.execution.injection import population_of
from holdfast.execution.plan import draw_trials
from holdfast.faults import FixedFlips
from holdfast.faults.adversarial import FlipList
from holdfast.faults.adversarial.changes import bits_of, flips_of, places_of, united
from holdfast.models import manifest_of
from holdfast.models.site import Site
from holdfast.quantization import codes

CONV = Site("weights", "conv1.weight", (8, 1, 3, 3), "fixed-point", 8)
WORD = Site("weights", "word", (3,), "fp64", 64)


def site_of(model: nn.Module, name: str) -> Site:
    from holdfast.models import select

    return select(model, f"weights:{name}")[0]


def test_bits_of_a_site_and_flips_are_two_forms_of_one_thing() -> None:
    places = [(2, 63), (0, 5), (2, 0), (1, 7)]
    flips = flips_of(WORD, places)
    assert flips.index.tolist() == [0, 1, 2]
    assert flips.mask.tolist() == [1 << 5, 1 << 7, 1 - 2**63]
    element, bit = places_of(flips)
    assert sorted(zip(element.tolist(), bit.tolist(), strict=True)) == sorted(places)
    assert bits_of([flips]) == 4


def test_uniting_flips_is_their_exclusive_or() -> None:
    one, other = flips_of(CONV, [(1, 0), (4, 7), (4, 6)]), flips_of(CONV, [(0, 3), (1, 0), (4, 6), (4, 1)])
    both = united(one, other)
    assert both.index.tolist() == [0, 4]
    assert both.mask.tolist() == [8, 128 + 2]


def test_a_file_gives_back_the_same_flips_and_the_same_digest(int8: nn.Module, tmp_path: Path) -> None:
    site = site_of(int8, "conv1.weight")
    fault = FixedFlips(listed=FlipList.of([flips_of(site, [(3, 7), (3, 1), (70, 6)])]))
    fault.save(tmp_path / "attack.json", method="by hand")
    read = faults.build(f"fixed-flips:path={tmp_path / 'attack.json'}")
    assert isinstance(read, FixedFlips)
    assert read.flip_list == fault.flip_list
    assert read.digest == fault.digest == describe_fault(read)["digest"]
    assert json.loads((tmp_path / "attack.json").read_text())["method"] == "by hand"


def test_injecting_it_flips_exactly_the_listed_bits_and_undoes_them(int8: nn.Module, digits: Dataset) -> None:
    site = site_of(int8, "conv1.weight")
    fault = FixedFlips(listed=FlipList.of([flips_of(site, [(3, 7), (70, 6)])]))
    digest, before = manifest_of(int8).digest, codes(int8, "conv1.weight").clone().view(-1)
    for seed in (0, 1):
        with inject(int8, fault, at="weights", seed=seed):
            now = codes(int8, "conv1.weight").view(-1)
            changed = (before ^ now).view(torch.uint8)
            assert {k: int(changed[k]) for k in changed.nonzero().view(-1).tolist()} == {3: 128, 70: 64}
    assert manifest_of(int8).digest == digest


def test_a_campaign_replays_it_in_every_trial(int8: nn.Module, digits: Dataset) -> None:
    """Trials differ in their image alone: exactly those are critical whose answer the listed flips change."""
    site = site_of(int8, "fc.weight")
    worst = codes(int8, "fc.weight").view(-1).int().abs().topk(40).indices
    fault = FixedFlips(listed=FlipList.of([flips_of(site, [(e, 7) for e in worst.tolist()])]))
    with inject(int8, fault, at="weights"):
        faulty = predict(int8, digits).argmax(1)
    changed = faulty != predict(int8, digits).argmax(1)
    population = population_of(int8, "weights", None)
    images = [trial.input for trial in draw_trials(fault, population, len(digits), 60, seed=0)]
    report = campaign(int8, digits, fault, at="weights", trials=60, seed=0)
    assert 0 < report["critical"].successes == int(changed[images].sum()) < 60


def test_another_selection_or_another_model_is_refused(int8: nn.Module, trained: nn.Module) -> None:
    fault = FixedFlips(listed=FlipList.of([flips_of(site_of(int8, "conv1.weight"), [(3, 7)])]))
    with pytest.raises(NoSuchSite, match="outside the selection"), inject(int8, fault, at="weights:fc*"):
        pass
    with pytest.raises(NoSuchSite, match="was fixed-point"), inject(trained, fault, at="weights"):
        pass


@pytest.mark.parametrize("places", [[(72, 0)], [(-1, 0)], [(0, 8)], [(0, -1)], [(0, 1), (0, 1)], []])
def test_flips_outside_a_site_or_twice_are_refused(places: list[tuple[int, int]]) -> None:
    with pytest.raises(InvalidConfig):
        FlipList(((CONV, tuple(places)),))


def test_changes_that_depend_on_the_stored_value_are_no_flips() -> None:
    stuck = Flips(CONV, torch.tensor([0]), torch.tensor([0]), rise=torch.tensor([1]))
    with pytest.raises(InvalidConfig, match="set or cleared"):
        FlipList.of([stuck])


def good() -> dict[str, object]:
    site = {"kind": "weights", "name": "a", "format": "int8", "bits": 8, "shape": [4], "flips": [[0, 7]]}
    return {"type": "holdfast.flips/v1", "sites": [site]}


BAD = {
    "type": (lambda v: v | {"type": "holdfast.flips/v2"}, UnsupportedVersion),
    "no list": (lambda v: v | {"sites": {}}, UnreadableArtifact),
    "no sites": (lambda v: {"type": v["type"]}, UnsupportedVersion),
    "extra field": (lambda v: v | {"sites": [v["sites"][0] | {"more": 1}]}, UnreadableArtifact),
    "text bit": (lambda v: v | {"sites": [v["sites"][0] | {"flips": [[0, "7"]]}]}, UnreadableArtifact),
    "true bit": (lambda v: v | {"sites": [v["sites"][0] | {"flips": [[0, True]]}]}, UnreadableArtifact),
    "three": (lambda v: v | {"sites": [v["sites"][0] | {"flips": [[0, 7, 1]]}]}, UnreadableArtifact),
    "outside": (lambda v: v | {"sites": [v["sites"][0] | {"flips": [[4, 7]]}]}, UnreadableArtifact),
    "wide": (lambda v: v | {"sites": [v["sites"][0] | {"bits": 65}]}, UnreadableArtifact),
    "negative shape": (lambda v: v | {"sites": [v["sites"][0] | {"shape": [-4]}]}, UnreadableArtifact),
    "site twice": (lambda v: v | {"sites": v["sites"] * 2}, UnreadableArtifact),
    "edited": (lambda v: v | {"digest": "0" * 64}, DigestMismatch),
}


@pytest.mark.parametrize("case", list(BAD))
def test_a_malformed_file_is_one_clear_error(case: str, tmp_path: Path) -> None:
    change, error = BAD[case]
    path = tmp_path / "flips.json"
    path.write_text(json.dumps(good()))
    assert FixedFlips(path=str(path)).flip_list.bits == 1
    path.write_text(json.dumps(change(good())))
    with pytest.raises(error):
        FixedFlips(path=str(path))


def test_no_source_and_two_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="file or from a list"):
        FixedFlips()
    with pytest.raises(InvalidConfig, match="file or from a list"):
        FixedFlips(path="a.json", listed=FlipList(((CONV, ((0, 0),)),)))
    with pytest.raises(UnreadableArtifact, match="cannot read"):
        FixedFlips(path=str(tmp_path / "none.json"))
