"""Campaigns by plan: laws, strata, stops, exhaustive mode, presets, arms that stop apart, and what the report says."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig, UnknownName
from holdfast.execution import CampaignReport, campaign, paired, trials_for
from holdfast.execution.vulnerability import pvf
from holdfast.faults import BitErrors, BitFlip
from holdfast.seeds import derive


@pytest.fixture(scope="module")
def planned(trained: nn.Module, digits: Dataset) -> CampaignReport:
    return campaign(trained, digits, BitFlip(), at="weights", margin=0.02, seed=3)


@pytest.fixture(scope="module")
def exact(trained: nn.Module, digits: Dataset) -> CampaignReport:
    """Every bit of the last layer's bias with each of three inputs: 960 cases."""
    return campaign(trained, digits.take(3), BitFlip(), at="weights:fc.bias", exhaustive=True)


def test_a_margin_is_reached_and_the_plan_says_how(planned: CampaignReport) -> None:
    share = planned["critical-or-due"]
    assert planned.stopped == "margin reached"
    assert (share.high - share.low) / 2 <= 0.02
    assert share.low < share.value < share.high
    assert planned.trials == share.n < 2000
    assert len(planned.design.parts) > 8
    for words in ("bit-uniform", "strata (layer-class)", "without replacement", "Neyman", "within 0.02", "whenever"):
        assert words in planned.words
    assert planned.ess < planned.trials
    assert planned.worth() > 1.2 * planned.trials  # as many simple random trials would say less


def test_shares_of_outcomes_are_weighted(planned: CampaignReport) -> None:
    names = ("masked", "sdc", "critical", "detected", "due")
    assert math.fsum(planned[name].value for name in names) == pytest.approx(1.0, abs=1e-9)
    assert planned["critical-or-due"].value == pytest.approx(planned["critical"].value + planned["due"].value)
    raw = sum(planned.counts[name] for name in ("critical", "due")) / planned.trials
    assert raw > planned["critical-or-due"].high  # trials went where failures are; counting them alone would be wrong


def test_factors_of_a_planned_campaign_are_weighted_by_its_report(planned: CampaignReport) -> None:
    """Trials went to the exponents; counted alike, they would make the factor, and a rate in time, too large."""
    share, told = planned["critical-or-due"], pvf(planned.rows, weight=planned.weight)["all"]
    assert told.value == pytest.approx(share.value)
    assert told.low < share.value < told.high
    assert pvf(planned.rows)["all"].value > share.high


def test_tables_by_site_and_bit_have_intervals(planned: CampaignReport) -> None:
    for found in (planned.site_shares(), planned.bit_shares(), planned.cell_shares()):
        assert found
        assert all(0 <= share.low <= share.value <= share.high <= 1 for share in found.values())
        assert sum(share.n for share in found.values()) == planned.trials
    assert planned.bit_shares()[30].low > planned.bit_shares()[2].value
    assert planned.bit_shares()[2].high > 0.05  # a few masked trials are no certainty


def test_an_exhaustive_campaign_is_exact(trained: nn.Module, digits: Dataset, exact: CampaignReport) -> None:
    share = exact["critical-or-due"]
    assert exact.trials == 10 * 32 * 3
    assert len({(row.site, row.element, row.bit, row.input) for row in exact.rows}) == exact.trials
    assert share.low == share.value == share.high == sum(exact.counts[name] for name in ("critical", "due")) / 960
    assert exact.stopped == "every case tried"
    bits = exact.bit_shares()
    assert all(one.low == one.high for one in bits.values())
    assert math.fsum(one.value for one in bits.values()) / 32 == pytest.approx(share.value)
    assert "960 cases" in exact.words


@pytest.mark.slow
def test_a_sample_of_it_holds_the_exact_share(trained: nn.Module, digits: Dataset, exact: CampaignReport) -> None:
    truth = exact["critical-or-due"].value
    options: dict[str, Any] = {"at": "weights:fc.bias", "seed": 1}
    for plan in ({"margin": 0.03}, {"trials": 300, "stratify": "class"}, {"margin": 0.05, "preset": "leveugle"}):
        found = campaign(trained, digits.take(3), BitFlip(), **options, **plan)
        assert found["critical-or-due"].low <= truth <= found["critical-or-due"].high
        assert len({(row.element, row.bit, row.input) for row in found.rows}) == found.trials  # without replacement
    every = campaign(trained, digits.take(3), BitFlip(), **options, margin=1e-4)
    assert every.stopped == "every case tried"
    assert every["critical-or-due"].low == every["critical-or-due"].high == pytest.approx(truth)


def test_a_margin_out_of_reach_spends_its_trials_and_says_so(trained: nn.Module, digits: Dataset) -> None:
    report = campaign(trained, digits, BitFlip(), at="weights", margin=0.001, of="sdc", max_trials=100, seed=0)
    assert (report.stopped, report.trials) == ("trials spent", 100)
    assert report["sdc"].high - report["sdc"].low > 0.002
    assert "at most 100 trials" in report.words
    assert "share of sdc" in report.words


def test_positions_and_classes_restrict_the_population(trained: nn.Module, digits: Dataset) -> None:
    few = digits.take(2)
    one = campaign(trained, few, BitFlip(), at="weights:fc.bias", bits=(30,), exhaustive=True)
    named = campaign(trained, few, BitFlip(), at="weights:fc.bias", bits="exponent-high", exhaustive=True)
    assert one.trials == named.trials == 20
    assert {row.bit for row in one.rows} == {30}
    drawn = campaign(trained, digits, BitFlip(), at="weights", bits="exponent", trials=60)
    assert {row.bit for row in drawn.rows} <= set(range(23, 31))
    with pytest.raises(InvalidConfig, match="no selected site has a bit"):
        campaign(trained, digits, BitFlip(), at="weights", bits="exponents", trials=60)


@pytest.mark.parametrize("law", ["layer-uniform", "neuron-uniform", "mac-weighted"])
def test_sampling_laws_are_drawn_and_stated(trained: nn.Module, digits: Dataset, law: str) -> None:
    report = campaign(trained, digits, BitFlip(), at="weights", sampling=law, trials=300, seed=2)
    shares = {site: sum(counts.values()) / 300 for site, counts in report.by_site().items()}
    sites = {address: numel for address, numel, _ in report.plan["population"]}
    macs = report.plan["macs"]
    expected = {"layer-uniform": dict.fromkeys(sites, 1), "neuron-uniform": sites, "mac-weighted": macs}[law]
    total = sum(expected.values())
    assert all(abs(shares.get(site, 0) - expected.get(site, 0) / total) < 0.09 for site in sites)
    assert law in report.words
    assert report.stopped == "trials spent"
    stratified = campaign(trained, digits, BitFlip(), at="weights", sampling=law, margin=0.08, seed=2)
    assert stratified.stopped == "margin reached"


@pytest.mark.slow
def test_one_table_answers_for_another_law(trained: nn.Module, digits: Dataset) -> None:
    direct = campaign(trained, digits, BitFlip(), at="weights", sampling="layer-uniform", trials=800, seed=0)
    uniform = campaign(trained, digits, BitFlip(), at="weights", trials=800, seed=1)
    weighted = uniform.under("layer-uniform")
    assert weighted["critical-or-due"].low < direct["critical-or-due"].value < weighted["critical-or-due"].high
    assert weighted.ess < 0.3 * uniform.ess == 0.3 * 800
    assert "weighted to layer-uniform" in weighted.words
    assert weighted.under("bit-uniform")["sdc"] == uniform["sdc"]
    asked = campaign(trained, digits, BitFlip(), at="weights", target="layer-uniform", trials=800, seed=1)
    assert asked["critical-or-due"] == weighted["critical-or-due"]
    with pytest.raises(InvalidConfig, match="counted no multiply"):
        uniform.under("mac-weighted")
    macs = campaign(trained, digits, BitFlip(), at="weights", sampling="mac-weighted", trials=20)
    with pytest.raises(InvalidConfig, match="never drawn"):
        macs.under("bit-uniform")


def test_importance_weights_are_unbiased_and_covered(trained: nn.Module, digits: Dataset) -> None:
    """Weights of hand-made rows: one site fails always, the other never, drawn nine to one."""
    base = campaign(trained, digits, BitFlip(), at="weights:fc.*", trials=200, seed=5)
    outcomes = {"weights:fc.weight": "masked", "weights:fc.bias": "critical"}
    rows = tuple(type(row)(*(getattr(row, name) for name in ("trial", "site", "element", "bit", "input")),
                           outcomes[row.site], None, None, 0) for row in base.rows)  # fmt: skip
    found = CampaignReport(base.name, base.plan, rows).under("layer-uniform")["critical-or-due"]
    assert found.low < 0.5 < found.high
    drawn = sum(row.site == "weights:fc.bias" for row in rows) / 200
    assert found.value == pytest.approx(drawn * 0.5 / (10 / 170))


def test_the_table_does_not_depend_on_the_executor_or_on_a_kill(
    trained: nn.Module, digits: Dataset, planned: CampaignReport, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"at": "weights", "margin": 0.02, "seed": 3}
    forked = campaign(trained, digits, BitFlip(), **options, executor="processes:2")
    assert forked.digest == planned.digest

    class Killed(Exception):
        pass

    def kill(done: int, total: int) -> None:
        if done > 150:
            raise Killed

    store = tmp_path / "campaign.sqlite"
    with pytest.raises(Killed):
        campaign(trained, digits, BitFlip(), **options, store=store, progress=kill)
    partial = CampaignReport.load(store)
    assert partial.stopped == ""
    assert partial.trials > 150
    assert partial["critical-or-due"].n <= partial.trials  # the interrupted round is in no estimate
    campaign(trained, digits, BitFlip(), **options, store=store)
    loaded = CampaignReport.load(store)
    assert loaded.digest == planned.digest
    assert loaded["critical-or-due"] == planned["critical-or-due"]


def broken(model: nn.Module) -> nn.Module:
    """The same net with noisy weights, which fails more often under the same faults."""
    worse = copy.deepcopy(model)
    with torch.no_grad():
        worse.fc.weight += 0.3 * torch.randn(worse.fc.weight.shape, generator=derive(0, "noise").torch())
    return worse


def test_arms_that_stop_apart_pair_over_the_common_trials(
    trained: nn.Module, digits: Dataset, planned: CampaignReport
) -> None:
    other = campaign(broken(trained), digits, BitFlip(), at="weights", margin=0.02, seed=3, name="other")
    assert other.trials != planned.trials
    found = paired(planned, other)
    cases = [{(row.site, row.element, row.bit, row.input) for row in report.rows} for report in (planned, other)]
    # what the longer arm catches up on after the other stopped is left out
    assert 100 < 0.9 * len(cases[0] & cases[1]) <= found.n <= len(cases[0] & cases[1])
    assert found.low <= found.difference <= found.high
    assert 0 < found.p_value <= 1
    same = paired(planned, planned)
    assert (same.only_first, same.only_second, same.n) == (0, 0, planned.trials)
    assert same.difference == pytest.approx(0.0, abs=1e-12)
    assert same.low < 0 < same.high
    assert same.p_value > 0.9
    with pytest.raises(InvalidConfig, match="same trials"):
        paired(planned, campaign(trained, digits, BitFlip(), at="weights", trials=50, seed=3))


def test_a_real_difference_between_arms_shows_in_the_weighted_test(trained: nn.Module, digits: Dataset) -> None:
    planned = campaign(trained, digits, BitFlip(), at="weights", trials=700, stratify="class", seed=3)
    immune = tuple(type(row)(row.trial, row.site, row.element, row.bit, row.input, "masked", 0.0, 0.0, 1)
                   for row in planned.rows)  # fmt: skip
    hardened = CampaignReport("hardened", planned.plan, immune)
    found = paired(planned, hardened)
    assert found.only_second == 0
    assert found.only_first > 10
    assert found.difference == pytest.approx(-planned["critical-or-due"].value)
    assert found.high < 0
    assert found.p_value < 0.05


def test_unweighted_arms_of_unequal_length_keep_the_exact_test(trained: nn.Module, digits: Dataset) -> None:
    long = campaign(trained, digits, BitFlip(), at="weights", trials=200, seed=3)
    short = campaign(trained, digits, BitFlip(), at="weights", trials=120, seed=3)
    found = paired(long, short)
    assert (found.n, found.only_first, found.only_second, found.p_value) == (120, 0, 0, 1.0)
    assert found.low < 0.0 < found.high < 0.03


def test_faults_of_many_bits_stop_by_margin_without_strata(trained: nn.Module, digits: Dataset) -> None:
    report = campaign(trained, digits, BitErrors(rate=0.001), at="weights", margin=0.15, seed=0)
    assert report.stopped == "margin reached"
    assert "stratification does not apply: BitErrors draws its bits together" in report.words
    assert report["critical-or-due"].high - report["critical-or-due"].low <= 0.3
    for wish in ({"stratify": "class"}, {"exhaustive": True, "trials": None}, {"bits": (30,)}):
        with pytest.raises(InvalidConfig, match="needs a fault of one bit"):
            campaign(trained, digits, BitErrors(rate=0.001), at="weights", **({"trials": 10} | wish))
    with pytest.raises(InvalidConfig, match="cannot be weighted by site"):
        campaign(trained, digits, BitErrors(rate=0.001), at="weights", trials=10, sampling="layer-uniform")


def test_presets_behave_as_published(trained: nn.Module, digits: Dataset) -> None:
    classic = campaign(trained, digits, BitFlip(), at="weights", margin=0.05, preset="leveugle")
    assert classic.trials == trials_for(0.05, population=65088 * len(digits)) == 385
    layers = campaign(trained, digits, BitFlip(), at="weights", margin=0.05, preset="pytorchfi")
    assert layers.plan["sampling"] == "layer-uniform"
    assert layers.trials == 385
    with pytest.raises(UnknownName, match="levogle"):
        campaign(trained, digits, BitFlip(), at="weights", margin=0.05, preset="levogle")
    with pytest.raises(InvalidConfig, match="absolute margins only"):
        campaign(trained, digits, BitFlip(), at="weights", margin=0.05, relative=True, preset="leveugle")


@pytest.mark.parametrize(
    ("wish", "match"),
    [
        ({"exhaustive": True, "trials": 5}, "no trials= or margin="),
        ({"margin": 0.1, "trials": 5}, "either trials= or margin="),
        ({"trials": 5, "relative": True}, "how margin= is meant"),
        ({"margin": 2.0}, "between 0 and 1"),
        ({"trials": 8, "stratify": "layer-class"}, "too few for"),
        ({"margin": 0.1, "max_trials": 0}, "at least one trial"),
        ({"margin": 0.1, "of": "critcal"}, "critcal"),
        ({"trials": 5, "sampling": "layers"}, "layers"),
        ({"trials": 5, "stratify": "depth"}, "depth"),
        ({"trials": 90, "stratify": "class", "target": "layer-uniform"}, "not by a second law"),
    ],
)
def test_contradictions_are_refused(trained: nn.Module, digits: Dataset, wish: dict[str, Any], match: str) -> None:
    with pytest.raises((InvalidConfig, UnknownName), match=match):
        campaign(trained, digits, BitFlip(), at="weights", **wish)
