"""Rates of rare events, held against textbook numbers, against simulation, and against a published table."""

from __future__ import annotations

import math

import pytest

from holdfast.errors import InvalidConfig, UnknownName, UnreadableArtifact, UnsupportedVersion
from holdfast.seeds import derive
from holdfast.soak.analysis import analyse
from holdfast.soak.counts import Counts, published, read_counts
from holdfast.soak.dispersion import Event, dispersion, episodes, widened
from holdfast.soak.rates import Rate, compare_rates, cross_section, fit, holm, mttf


def test_the_interval_of_a_count_is_garwoods():
    rate = Rate.poisson(10, 1.0)
    assert (rate.low, rate.high) == (pytest.approx(4.7954, abs=1e-4), pytest.approx(18.3904, abs=1e-4))


def test_no_events_bound_the_rate_all_the_same():
    rate = Rate.poisson(0, 100.0)
    assert (rate.value, rate.low) == (0.0, 0.0)
    assert rate.high == pytest.approx(3.689 / 100, rel=1e-3)  # two-sided 95 %
    assert Rate.poisson(0, 100.0, 0.90).high == pytest.approx(2.996 / 100, rel=1e-3)  # one-sided 95 %


def test_what_may_have_passed_unseen_widens_both_ends():
    rate, sure = Rate.poisson(10, 100.0, unseen=50.0), Rate.poisson(10, 100.0)
    assert rate.value == pytest.approx(10 / 125)
    assert rate.low == pytest.approx(sure.low * 100 / 150)
    assert rate.high == sure.high


def test_the_interval_covers_what_it_says():
    generator = derive(0, "coverage").numpy()
    counts = generator.poisson(3.0, size=2000)
    inside = sum((r := Rate.poisson(int(k), 1.0)).low <= 3.0 <= r.high for k in counts)
    assert inside / 2000 >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 2000)


def test_two_rates_are_compared_exactly():
    change = compare_rates((10, 100.0), (10, 100.0))
    assert (change.value, change.p) == (0.0, 1.0)
    assert compare_rates((5, 1.0), (0, 1.0)).p == pytest.approx(2 / 2**5)
    assert compare_rates((0, 1.0), (5, 1.0)).value == math.inf
    assert compare_rates((0, 1.0), (0, 1.0)).p == 1.0


def test_a_flux_gives_cross_section_fit_and_hours():
    sigma = cross_section(Rate.poisson(36, 3600.0), 5e6)
    assert sigma.value == pytest.approx(36 / (5e6 * 3600))
    failures = fit(sigma)
    assert failures.value == pytest.approx(2e-9 * 13e9)
    value, low, high = mttf(failures)
    assert value == pytest.approx(1e9 / 26)
    assert low < value < high
    assert mttf(fit(cross_section(Rate.poisson(0, 1.0), 1.0)))[0] == math.inf


def test_holm_multiplies_the_smallest_most_and_never_turns_the_order():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []


NO_RATES = [
    lambda: Rate.poisson(1, 0.0),
    lambda: Rate.poisson(-1, 1.0),
    lambda: compare_rates((1, 0.0), (1, 1.0)),
    lambda: cross_section(Rate.poisson(1, 1.0), 0),
]


@pytest.mark.parametrize("call", NO_RATES)
def test_no_exposure_is_no_rate(call):
    with pytest.raises(InvalidConfig):
        call()


def test_dispersion_stays_quiet_under_poisson_and_speaks_on_a_burst():
    generator = derive(1, "steady").numpy()
    times = list(generator.uniform(50, 150, size=30))
    false = sum(
        dispersion([int(generator.poisson(0.02 * t)) for t in times], times, basis="logs").p < 0.05 for _ in range(40)
    )
    assert false <= 6  # 2 expected; P(more than 6) is under 0.5 %
    burst = [2] * 29 + [60]
    found = dispersion(burst, [100.0] * 30, basis="logs")
    assert found.index > 10
    assert found.p < 1e-3


def test_small_counts_are_simulated_and_large_ones_are_not():
    small = dispersion([1, 3], [1.0, 1.0], basis="sessions")
    exact = 10 / 16  # |k-2| >= 1 of Binomial(4, 1/2)
    assert small.p == pytest.approx(exact, abs=0.015)
    assert dispersion([0, 0], [1.0, 1.0], basis="logs").p == 1.0


def test_an_interval_of_clustered_counts_is_wider():
    rate = Rate.poisson(100, 100.0)
    low, high = widened(1.0, 100, 25.0)
    assert low < rate.low < rate.high < high
    assert low == pytest.approx(math.exp(-1.96 * 0.5), rel=1e-3)


def test_repeats_of_one_signature_are_one_episode():
    run = [Event(1, "a"), Event(11, "a"), Event(12, "b"), Event(40, "c"), Event(90, "c")]
    assert [len(group) for group in episodes(run)] == [3, 2]
    assert len(episodes([Event(10 * k, k) for k in range(5)])) == 5


# What section 3 of the notes on the December 2023 beam says: rate [low, high] per 1000 s, base and hardened, change, p.
TABLE = {
    "ViT-L/14 224": ((87.8, 77.9, 98.7), (0.86, 0.18, 2.5), -0.990, 6.5e-85),
    "EVA02-L 448": ((3.22, 2.1, 4.7), (0.0, 0.0, 0.74), -1.0, 7e-6),
    "MaxViT-L 384": ((3.44, 1.7, 6.3), (0.50, 0.01, 2.8), -0.85, 0.034),
    "MaxViT-L 512": ((3.64, 1.2, 8.5), (0.0, 0.0, 3.2), -1.0, 0.068),
    "ViT-H/14 224": ((0.97, 0.36, 2.1), (0.57, 0.07, 2.0), -0.42, 0.72),
    "SwinV2-L 12to16 256": ((1.14, 0.14, 4.1), (6.66, 3.6, 11.4), 4.87, 0.0085),
}


def december():
    return analyse(read_counts(published("december-2023")).rows)


def test_the_published_table_comes_out_with_intervals_and_p_values():
    found = december()
    rates = {(arm.subject, arm.arm): arm.critical.scaled(1e3) for arm in found.arms}
    pairs = {pair.subject: pair for pair in found.pairs}
    assert set(pairs) == set(TABLE)
    for subject, (base, hardened, change, p) in TABLE.items():
        for arm, expected in (("base", base), ("hardened", hardened)):
            rate = rates[subject, arm]
            assert (rate.value, rate.low, rate.high) == pytest.approx(expected, rel=0.07, abs=0.006)
        assert pairs[subject].critical.value == pytest.approx(change, abs=0.01)
        assert pairs[subject].critical.p == pytest.approx(p, rel=0.05)


def test_only_one_model_is_significantly_worse_and_two_are_better():
    verdicts = {pair.subject: pair.verdict for pair in december().pairs}
    assert {subject for subject, verdict in verdicts.items() if verdict == "worse"} == {"SwinV2-L 12to16 256"}
    assert {subject for subject, verdict in verdicts.items() if verdict == "better"} == {"ViT-L/14 224", "EVA02-L 448"}


def test_vit_l_is_the_most_over_dispersed_of_all():
    spreads = sorted(december().spreads, key=lambda item: -item.test.index)
    assert spreads[0].subject == "ViT-L/14 224"
    assert spreads[0].over
    assert spreads[0].test.basis == "arms"
    assert spreads[0].test.index == pytest.approx(194.7, abs=0.1)  # the next one is at 37
    assert {item.subject for item in spreads if not item.over} == {"MaxViT-L 384", "MaxViT-L 512", "ViT-H/14 224"}


def test_the_pooled_figure_hangs_on_one_model():
    pools = {pool.without: pool for pool in december().pools}
    assert pools[""].base == (333, 23834)
    assert pools[""].other == (19, 17085)
    assert pools[""].change.value == pytest.approx(-0.920, abs=5e-4)
    assert pools["ViT-L/14 224"].change.value == pytest.approx(-0.515, abs=5e-4)
    assert max(pool.change.value for pool in pools.values()) == pools["ViT-L/14 224"].change.value


@pytest.mark.parametrize(
    ("text", "suffix", "error", "message"),
    [
        ("subject,arm,seconds,sdc\nx,base,1,2\n", ".csv", UnreadableArtifact, "line 2: no column critical"),
        ("subject,arm,seconds,sdc,critical\nx,base,1,2,3\n", ".csv", UnreadableArtifact, "3 critical of 2 SDC"),
        ("subject,arm,seconds,sdc,critical\nx,base,a,2,1\n", ".csv", UnreadableArtifact, "could not convert"),
        ("subject,arm,seconds,sdc,critical,foo\nx,base,1,2,1,1\n", ".csv", UnreadableArtifact, "unknown column foo"),
        ("subject,arm,seconds,sdc,critical\n", ".csv", UnreadableArtifact, "no rows"),
        ("type = 'other'\n", ".toml", UnsupportedVersion, "other"),
        ("= nonsense", ".toml", UnreadableArtifact, "no table of counts"),
    ],
)
def test_a_bad_table_is_refused_by_name(tmp_path, text, suffix, error, message):
    path = tmp_path / f"counts{suffix}"
    path.write_text(text)
    with pytest.raises(error, match=message):
        read_counts(path)


def test_a_table_of_counts_in_csv(tmp_path):
    path = tmp_path / "counts.csv"
    path.write_text("subject,arm,seconds,sdc,critical,due,session\nx,base,100,4,2,,a\nx,base,50,1,0,3,b\n")
    rows = read_counts(path).rows
    assert rows[0].due is None
    assert rows[1] == Counts(subject="x", arm="base", seconds=50.0, sdc=1, critical=0, due=3, session="b")
    [arm] = analyse(rows).arms
    assert arm.due is None  # one session did not count them


def test_an_unknown_publication_names_those_there_are():
    with pytest.raises(UnknownName) as error:
        published("december-2022")
    assert "december-2023" in error.value.hint
