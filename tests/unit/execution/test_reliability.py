"""Vulnerability factors by hand; FIT and MTTF against published constants, exact intervals and simulation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from holdfast.data import dataset
from holdfast.errors import InvalidConfig, NoSuchSite, UnknownName, UnreadableArtifact
from holdfast.execution import (
    Along,
    CampaignReport,
    CrossSection,
    Proportion,
    Row,
    Structure,
    avf,
    campaign,
    poisson_interval,
    pvf,
    read_structures,
    reliability,
    reliability_of,
    vulnerability,
    zero_event_bound,
)
from holdfast.execution.reliability import describe_reliability, require_hit
from holdfast.execution.vulnerability import layer_of
from holdfast.faults import BitFlip
from holdfast.models import Site, build_architecture

Q = Site("weights", "attn.q.weight", (4, 8), "fp32", 32)
S = Site("activations", "attn/softmax", (2, 3, 3), "fp32", 32)


def row(number: int, outcome: str, site: str = "weights:fc.weight", element: int = 0, bit: int = 0) -> Row:
    return Row(number, site, element, bit, 0, outcome, None, None, 0)


def rows(failed: int, n: int, site: str = "weights:fc.weight") -> list[Row]:
    return [row(number, "critical" if number < failed else "masked", site) for number in range(n)]


def test_factors_are_proportions_of_the_trials_that_hit() -> None:
    table = [*rows(3, 10), row(10, "sdc"), row(11, "due"), row(12, "corrected"), row(13, "latent")]
    assert (pvf(table)["all"].successes, pvf(table)["all"].n) == (4, 14)
    assert (avf(table)["all"].successes, avf(table)["all"].n) == (5, 14)
    assert avf(table)["all"] == Proportion.wilson(5, 14)
    assert vulnerability(table, failures=("due",))["all"].successes == 1
    with pytest.raises(UnknownName, match="sdcs"):
        vulnerability(table, failures=("sdcs",))


def test_groups() -> None:
    table = [
        row(0, "critical", "weights:layer1.0.conv1.weight", bit=30),
        row(1, "masked", "activations:layer1.0.conv1", bit=2),
        row(2, "masked", "activations:layer1.0/add", bit=-1),
        row(3, "due", "qparams:fc.weight/scale", bit=30),
    ]
    assert {name: item.successes for name, item in pvf(table, "layer").items()} == {
        "fc": 1, "layer1.0": 0, "layer1.0.conv1": 1,
    }  # fmt: skip
    assert list(pvf(table, "bit")) == ["2", "30"]
    assert pvf(table, "bit")["30"].n == 2
    assert pvf(table, "kind")["activations"].n == 2
    assert set(pvf(table, "tensor")) == {item.site for item in table}
    assert pvf(table, at="weights:*,qparams:fc*")["all"].n == 2
    with pytest.raises(UnknownName, match="tensr"):
        pvf(table, "tensr")
    with pytest.raises(NoSuchSite, match="hit buffers"):
        pvf(table, at="buffers:**")
    assert layer_of("activations:conv#1") == "conv"


def test_heads_and_tokens_lie_along_axes() -> None:
    # element 19 of (4, 8) is row 2, column 3; of (2, 3, 3) element 13 is head 1, query 1, key 1
    weights, attention = [row(0, "critical", Q.address, 19)], [row(0, "critical", S.address, 13)]
    assert list(pvf(weights, Along(0, parts=2), sites=[Q])) == ["1"]
    assert list(pvf(weights, Along(-1, parts=4), sites=[Q])) == ["1"]
    assert list(pvf(attention, Along(0), sites=[S])) == ["1"]
    assert list(pvf(attention, Along(1), sites=[S])) == ["1"]
    with pytest.raises(InvalidConfig, match="no axis 2"):
        pvf(weights, Along(2), sites=[Q])
    with pytest.raises(InvalidConfig, match="not 3 equal parts"):
        pvf(weights, Along(0, parts=3), sites=[Q])
    with pytest.raises(InvalidConfig, match="shape of"):
        pvf(weights, Along(0))


def test_weights_undo_unequal_chances() -> None:
    """Half of the trials were drawn from a tenth of the bits: the mean by weight is that of the bits."""
    table = [*rows(40, 50, "weights:small"), *rows(5, 50, "weights:large")]
    found = pvf(table, weight=lambda item: 0.1 / 50 if item.site == "weights:small" else 0.9 / 50)["all"]
    assert found.value == pytest.approx(0.1 * 0.8 + 0.9 * 0.1)
    as_drawn = Proportion.wilson(17, 100)
    assert found.high - found.low > as_drawn.high - as_drawn.low  # the hundred are worth 60 equal trials
    equal, plain = pvf(table, weight=lambda _: 7.0)["all"], pvf(table)["all"]
    assert (equal.value, equal.low, equal.high) == pytest.approx((plain.value, plain.low, plain.high))
    with pytest.raises(InvalidConfig, match="positive"):
        pvf(table, weight=lambda _: 0.0)


def test_poisson_bounds() -> None:
    """The constants of the beam literature: 3.0 and 3.69 for no events; Garwood's interval for three."""
    assert zero_event_bound(1.0) == pytest.approx(3.0, abs=0.005)
    assert poisson_interval(0).high == pytest.approx(3.69, abs=0.005)
    assert poisson_interval(0).low == 0
    three = poisson_interval(3)
    assert (three.low, three.high) == pytest.approx((0.6187, 8.7673), abs=1e-4)
    with pytest.raises(InvalidConfig):
        poisson_interval(-1)


def test_fit_of_a_known_cross_section_by_hand() -> None:
    """1e-14 cm2 per bit x 1e6 bits x 13 x 1e9 = 130 FIT; half of it fails in the campaign."""
    memory = Structure(name="m", kind="sram", section=CrossSection(known=1e-14), bits=1e6)
    whole = reliability(rows(0, 10), [memory])
    assert (whole.total.value, whole.total.low, whole.total.high) == pytest.approx((130, 130, 130))
    assert whole.mttf.value == pytest.approx(1e9 / 130)
    seen = Structure(
        name="m", kind="sram", section=CrossSection(known=1e-14), bits=1e6, sites="weights:**", derating=0.5
    )
    half = reliability(rows(50, 100), [seen])
    exact = Proportion.clopper_pearson(50, 100)
    assert half.total.value == pytest.approx(130 * 0.5 * 0.5)
    assert (half.total.low, half.total.high) == pytest.approx((65 * exact.low, 65 * exact.high))
    assert half.mttf.low == pytest.approx(1e9 / half.total.high)
    assert reliability(rows(50, 100), [seen], flux=26.0).total.value == pytest.approx(65)


def test_fit_of_counted_events_has_garwoods_interval() -> None:
    beam = Structure(name="chip", kind="logic", section=CrossSection(events=3, fluence=1e11))
    found = reliability(rows(0, 1), [beam]).total
    assert found.value == pytest.approx(3 / 1e11 * 13e9)
    assert (found.low, found.high) == pytest.approx(tuple(13e9 / 1e11 * edge for edge in (0.6187, 8.7673)), rel=1e-4)


def test_no_events_and_no_failures_still_have_an_upper_bound() -> None:
    quiet = Structure(name="chip", kind="logic", section=CrossSection(events=0, fluence=1e11), sites="*")
    found = reliability(rows(0, 50), [quiet])
    assert (found.total.value, found.total.low) == (0, 0)
    assert 0 < found.total.high < 3.69 / 1e11 * 13e9
    assert found.mttf.value == math.inf
    assert 0 < found.mttf.low < math.inf
    assert describe_reliability(found)["mttf_hours"]["value"] is None


@pytest.mark.parametrize("method", [pytest.param("monte-carlo", marks=pytest.mark.slow), "bonferroni"])
def test_the_combined_interval_covers_what_is_true(method: str) -> None:
    """Two estimated factors in each of two structures, simulated 150 times with the truth known."""
    generator, covered, repeats = np.random.default_rng(5), 0, 150
    sections, shares, bits = (4e-14, 1e-14), (0.08, 0.3), (2e6, 5e6)
    truth = sum(a * b * c * 13e9 for a, b, c in zip(sections, shares, bits, strict=True))
    for _ in range(repeats):
        parts, table = [], []
        for place, (section, share, count) in enumerate(zip(sections, shares, bits, strict=True)):
            events = int(generator.poisson(section * 1e8 * 3e6))
            counted = CrossSection(events=events, fluence=1e8, tested_bits=3e6)
            parts.append(Structure(name=str(place), kind="sram", section=counted, bits=count, sites=f"weights:{place}"))
            table += rows(int(generator.binomial(60, share)), 60, f"weights:{place}")
        found = reliability(table, parts, method=method).total
        covered += found.low <= truth <= found.high
    # at least the nominal 95 %, less what 150 repeats leave open
    assert covered >= stats.binom.ppf(0.001, repeats, 0.95)


def test_bonferroni_is_wider_and_one_seed_gives_one_answer() -> None:
    part = Structure(name="m", kind="dram", section=CrossSection(events=9, fluence=1e10), sites="*")
    drawn, sure = (reliability(rows(20, 80), [part], method=name).total for name in ("monte-carlo", "bonferroni"))
    assert sure.low < drawn.low < drawn.value < drawn.high < sure.high
    assert drawn == reliability(rows(20, 80), [part]).total


def test_structures_that_share_a_factor_move_together() -> None:
    """Twice the same trials are no two samples: the interval of the sum is twice the interval."""
    parts = [
        Structure(name=name, kind="dram", section=CrossSection(known=1e-15), bits=1e6, sites="weights:*")
        for name in "ab"
    ]
    one, two = reliability(rows(9, 60), parts[:1]).total, reliability(rows(9, 60), parts).total
    assert (two.low, two.value, two.high) == pytest.approx((2 * one.low, 2 * one.value, 2 * one.high))


FILE = """
[structure.weights]
kind = "dram"
sites = "weights:**"
bits = 2e8
events = 12
fluence = 4e10
tested_bits = 8e9

[structure.caches]
kind = "sram"
cross_section = 2e-15
bits = 1e6
ecc = true
with_ecc = { cross_section = 1e-17 }

[structure.logic]
kind = "logic"
events = 0
fluence = 1e11
derating = 0.3
"""


def test_a_file_of_structures(tmp_path: Path) -> None:
    path = tmp_path / "machine.toml"
    path.write_text(FILE)
    weights, caches, logic = read_structures(path)
    assert weights.section.value == pytest.approx(12 / 4e10 / 8e9)
    assert caches.section.known == 1e-17  # ECC is on
    assert (logic.kind, logic.derating, logic.section.events) == ("logic", 0.3, 0)
    found = reliability(rows(5, 50), [weights, caches, logic])
    expected = 12 / 4e10 / 8e9 * 2e8 * 13e9 * 0.1 + 1e-17 * 1e6 * 13e9
    assert found.total.value == pytest.approx(expected)
    assert found.structures["logic"].high == pytest.approx(3.6889 / 1e11 * 13e9 * 0.3, rel=1e-4)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("x = [", UnreadableArtifact, "no TOML"),
        ("x = 1", InvalidConfig, "describes no structure"),
        ('[structure.a]\nkind = "sram"\n', InvalidConfig, "either known"),
        (
            '[structure.a]\nkind = "sram"\ncross_section = 1e-9\nevents = 1\nfluence = 1.0',
            InvalidConfig,
            "either known",
        ),
        ('[structure.a]\nkind = "sram"\nevents = 1', InvalidConfig, "either known"),
        ('[structure.a]\nkind = "flash"\ncross_section = 1e-9', UnknownName, "flash"),
        ('[structure.a]\nkind = "sram"\ncross_section = 1e-9\nderate = 2', UnknownName, "derate"),
        ('[structure.a]\nkind = "sram"\ncross_section = 1e-9\nderating = 2', InvalidConfig, "between 0 and 1"),
        ('[structure.a]\nkind = "sram"\ncross_section = "x"', InvalidConfig, "no number"),
        ('[structure.a]\nkind = "sram"\ncross_section = 1e-9\necc = true', InvalidConfig, "measured without"),
        ('[structure.a]\nkind = "sram"\nevents = 1.5\nfluence = 1.0', InvalidConfig, "counted"),
        ('[structure.a]\nkind = "sram"\nevents = 1\nfluence = 1.0\nbits = 8', InvalidConfig, "go together"),
        ('[structure.a]\nkind = "sram"\ncross_section = -1', InvalidConfig, "positive"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, error: type[Exception], message: str) -> None:
    path = tmp_path / "machine.toml"
    path.write_text(text)
    with pytest.raises(error, match=message):
        read_structures(path)


def test_bad_calls(tmp_path: Path) -> None:
    part = Structure(name="m", kind="dram", section=CrossSection(known=1e-15), sites="weights:*")
    with pytest.raises(InvalidConfig, match="different names"):
        reliability(rows(1, 2), [part, part])
    with pytest.raises(InvalidConfig, match="structures"):
        reliability(rows(1, 2), [])
    with pytest.raises(NoSuchSite, match="no trial"):
        reliability(rows(1, 2, "buffers:x"), [part])
    with pytest.raises(UnknownName, match="exact"):
        reliability(rows(1, 2), [part], method="exact")
    with pytest.raises(UnreadableArtifact):
        read_structures(tmp_path / "absent.toml")


def weights_of_a_net(**how: object) -> CampaignReport:
    model = build_architecture("digits-cnn:channels=4", seed=0).eval()
    return campaign(model, dataset("digits", split="test").take(20), BitFlip(), at="weights", seed=0, **how)  # type: ignore[arg-type]


def dram(sites: str) -> list[Structure]:
    section = CrossSection(known=1e-14)
    return [Structure(name="memory", kind="dram", section=section, bits=1e9, sites=sites)]


def test_a_simple_sample_is_counted() -> None:
    report = weights_of_a_net(trials=60)
    assert reliability_of(report, dram("weights:conv*")) == reliability(report.rows, dram("weights:conv*"))
    silent = reliability_of(report, dram("weights:conv*"), outcome="critical")
    assert silent == reliability(report.rows, dram("weights:conv*"), failures=("critical",))
    with pytest.raises(NoSuchSite, match="no trial of the campaign hit"):
        reliability_of(report, dram("activations"))
    with pytest.raises(UnknownName, match="criticl"):
        reliability_of(report, dram("weights"), outcome="criticl")


def test_strata_are_weighted_and_their_interval_is_no_narrower_than_the_sequence() -> None:
    report = weights_of_a_net(margin=0.05)
    share, fit = report["critical-or-due"], reliability_of(report, dram("weights")).total
    per_share = 13 * 1e9 * 1e-14 * 1e9
    assert fit.value == pytest.approx(share.value * per_share)
    assert fit.low <= share.low * per_share * (1 + 1e-9)
    assert fit.high >= share.high * per_share * (1 - 1e-9)


def test_a_cross_section_per_bit_takes_faults_that_strike_every_bit_alike() -> None:
    """Layers alike, PyTorchFI's law, hits a small layer far too often for a beam."""
    report = weights_of_a_net(trials=120, sampling="layer-uniform")
    with pytest.raises(InvalidConfig, match="every bit alike, and a fault of this campaign, layer-uniform"):
        reliability_of(report, dram("weights"))
    weighted = report.under("bit-uniform")
    per_share = 13 * 1e9 * 1e-14 * 1e9
    fit = reliability_of(weighted, dram("weights")).total
    assert fit.value == pytest.approx(weighted.share_among(lambda _: True).value * per_share)
    assert reliability_of(report, dram("weights:fc.weight")).total.value >= 0  # of one site, all bits are alike
    whole = [Structure(name="core", kind="logic", section=CrossSection(known=1e-14), sites="weights")]
    assert reliability_of(report, whole).total.value >= 0  # what strikes logic is for the user to say


@pytest.mark.slow
def test_every_case_tried_leaves_no_interval() -> None:
    report = weights_of_a_net(exhaustive=True, bits="sign")
    fit = reliability_of(report, dram("weights:fc.*")).total
    assert fit.low == pytest.approx(fit.high, rel=1e-12)


def test_structures_of_sites_that_no_fault_strikes() -> None:
    require_hit(dram("weights:fc.*"), ["weights:fc.bias"])
    with pytest.raises(NoSuchSite, match="memory: the campaign strikes none of activations"):
        require_hit(dram("activations"), ["weights:fc.bias"])
