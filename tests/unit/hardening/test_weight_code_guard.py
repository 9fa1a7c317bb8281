from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

import holdfast
from holdfast.data import Dataset
from holdfast.errors import IntegrityError, InvalidConfig, NoSuchSite, UnknownName, UnreadableArtifact
from holdfast.execution import accuracy, campaign, predict
from holdfast.execution.condition import Flips, Population
from holdfast.faults import BitFlip
from holdfast.hardening import harden, methods
from holdfast.models import card, load, manifest_of, save
from holdfast.numerics import bits
from holdfast.seeds import Seed


@dataclass(frozen=True)
class TopBit:
    """A flip of the most significant exponent bit of an fp32 weight."""

    def flips(self, population: Population, seed: Seed) -> list[Flips]:
        site, element, _ = population.locate(seed.key % population.bits)
        return [Flips(site, torch.tensor([element]), bits.one_bit(torch.tensor([30])))]


def coded(model: nn.Module, spec: str) -> nn.Module:
    return harden(model, methods.build(spec).calibrated(model, None))


def flip(model: nn.Module, element: int = 5, bit: int = 30) -> None:
    bits.xor_(model.conv2.weight.detach(), torch.tensor([element]), bits.one_bit(torch.tensor([bit])))


@pytest.mark.parametrize(
    "spec", ["weight-code:code=secded", "weight-code:code=mset", "weight-code:code=(cep:chunks=4)"]
)
def test_what_codes_cost_in_accuracy(trained: nn.Module, digits: Dataset, spec: str) -> None:
    model = coded(trained, spec)
    assert abs(accuracy(model, digits).value - accuracy(trained, digits).value) <= 1 / 360
    if "secded" in spec:
        assert bits.bit_equal(predict(model, digits), predict(trained, digits))


@pytest.mark.parametrize("code", ["secded", "mset", "(cep:chunks=4)", "parity"])
def test_top_exponent_bits_do_no_more_harm(trained: nn.Module, digits: Dataset, code: str) -> None:
    plain = campaign(trained, digits, TopBit(), at="weights", trials=120, seed=0)
    hard = campaign(coded(trained, f"weight-code:code={code}"), digits, TopBit(), at="weights", trials=120, seed=0)
    failed = [sum(report.counts[name] for name in ("critical", "due")) for report in (plain, hard)]
    assert failed[0] > 20
    assert failed[1] <= (0 if code in ("secded", "mset") else failed[0] // 5)
    if code in ("secded", "mset"):
        assert all(row.outcome in ("masked", "corrected") for row in hard.rows)
        assert all(row.guard_events == 1 for row in hard.rows)


def test_a_campaign_leaves_the_weights_as_they_were(trained: nn.Module, digits: Dataset) -> None:
    """The guard mends in place; undoing a fault must not put it back in."""
    model = coded(trained, "weight-code:code=secded")
    before = manifest_of(model).digest
    campaign(model, digits, BitFlip(), at="weights", trials=50, seed=0)
    assert manifest_of(model).digest == before
    with holdfast.inject(model, TopBit(), at="weights", seed=3), torch.no_grad():
        model(torch.zeros(1, 1, 8, 8))
    assert manifest_of(model).digest == before


def test_one_corrupted_page_is_read_again(trained: nn.Module, digits: Dataset, tmp_path: Path) -> None:
    save(trained, tmp_path / "good")
    model = coded(trained, f"weight-code:code=(pages:size=128),source={tmp_path / 'good'}")
    golden = predict(model, digits)
    before = manifest_of(model).digest
    for element in (5, 6, 500):
        flip(model, element, 3)
    with torch.no_grad():
        model(digits.batch(torch.arange(2))[0])
    (guard,) = card(model).guards
    assert guard.events.tolist() == [3]
    assert guard.alarms.tolist() == [0]
    assert manifest_of(model).digest == before
    assert bits.bit_equal(predict(model, digits), golden)


def test_pages_of_other_bytes_are_not_believed(trained: nn.Module, tmp_path: Path) -> None:
    other = copy.deepcopy(trained)
    flip(other, 5, 2)
    save(other, tmp_path / "other")
    x = torch.zeros(1, 1, 8, 8)
    for source in (tmp_path / "other", ""):
        model = coded(trained, f"weight-code:code=pages,source={source}")
        flip(model, 5, 30)
        with torch.no_grad():
            model(x)
        (guard,) = card(model).guards
        assert (guard.events.tolist(), guard.alarms.tolist()) == ([0], [1])
        guard.action = "refuse"
        with pytest.raises(IntegrityError, match=r"conv2.weight are wrong beyond repair"), torch.no_grad():
            model(x)
    model = coded(trained, f"weight-code:code=pages,source={tmp_path / 'absent'}")
    flip(model)
    with pytest.raises(UnreadableArtifact, match="to mend conv2"), torch.no_grad():
        model(x)


def test_the_period_bounds_how_long_a_fault_lives(trained: nn.Module) -> None:
    model, x = coded(trained, "weight-code:code=secded,period=3"), torch.zeros(1, 1, 8, 8)
    (guard,) = card(model).guards
    found = []
    with torch.no_grad():
        for step in range(7):
            if step == 1:
                flip(model)
            model(x)
            found.append(int(guard.events))
    assert found == [0, 0, 0, 1, 0, 0, 0]


@pytest.mark.parametrize("code", ["secded", "pages", "mset"])
def test_saved_and_loaded_codes_still_work(trained: nn.Module, digits: Dataset, tmp_path: Path, code: str) -> None:
    model = coded(trained, f"weight-code:code={code}")
    save(model, tmp_path / "model")
    back = load(tmp_path / "model")
    assert manifest_of(back).digest == manifest_of(model).digest
    arms = [campaign(item, digits, BitFlip(), at="weights", trials=40, seed=0).digest for item in (model, back)]
    assert arms[0] == arms[1]
    if code != "mset":  # a code within the weights needs no witness
        again = load(tmp_path / "model")
        flip(again)
        with pytest.raises(IntegrityError, match="not those that were coded"), torch.no_grad():
            again(torch.zeros(1, 1, 8, 8))


def test_quantised_codes_are_guarded_as_they_are_stored(trained: nn.Module, digits: Dataset) -> None:
    small = holdfast.quantize(trained, "int8")
    model = coded(small, "weight-code:code=secded")
    report = campaign(model, digits, BitFlip(), at="weights", trials=80, seed=0)
    assert all(row.outcome in ("masked", "corrected") for row in report.rows)
    assert report.guarded == 80


def test_checksums_are_of_the_weights_with_their_code(trained: nn.Module, digits: Dataset) -> None:
    model = coded(coded(trained, "weight-code:code=mset"), "checksum")
    predict(model, digits)
    (guard,) = [item for item in card(model).guards if item.site == "fc"]
    guard.learn(nn.Linear(16, 10))
    guard.prepare(model)
    golden = predict(coded(trained, "weight-code:code=mset"), digits)
    assert bits.bit_equal(predict(model, digits), golden)


def test_what_it_refuses(trained: nn.Module) -> None:
    for spec, what in [("period=0", "every 0 passes"), ("action=hope", "option 'action'"), ("at=qparams", "no site")]:
        with pytest.raises((InvalidConfig, NoSuchSite), match=what):
            coded(trained, f"weight-code:{spec}")
    with pytest.raises(UnknownName, match="secdet"):
        coded(trained, "weight-code:code=secdet")
