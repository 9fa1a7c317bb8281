"""The guarantee: the published figures, the honest ones, and whether the bounds hold in simulated experiments."""

from __future__ import annotations

import math

import numpy as np
import pytest

from holdfast.errors import InvalidConfig
from holdfast.execution import RobustError, anytime_interval, guarantee, mean_above, published_slack, split_slack


def measured(wrong: np.ndarray, classes: int = 10) -> RobustError:
    """Return the summary of ``wrong``, bool (chips, images)."""
    return RobustError.of(
        np.zeros(wrong.shape[1], bool),
        wrong,
        anytime=anytime_interval(wrong.mean(1)),
        nonfinite=[0] * len(wrong),
        flips=[1] * len(wrong),
        question={"classes": classes},
    )


@pytest.mark.parametrize(
    ("images", "patterns", "published", "split"),
    [(10**4, 10**6, 4.1, 1.8), (10**5, 10**6, 1.7, 0.68), (10**4, 50, 56.0, 24.6)],
)
def test_the_figures_of_the_paper_and_of_the_split(images: int, patterns: int, published: float, split: float) -> None:
    assert 100 * published_slack(images, patterns, 0.01) == pytest.approx(published, abs=0.5 if published > 9 else 0.05)
    assert 100 * split_slack(images, patterns, 0.01) == pytest.approx(split, abs=0.06 if split > 9 else 0.05)
    assert split_slack(images, patterns) < published_slack(images, patterns)


def test_the_text_of_the_paper_has_delta_the_wrong_way_round() -> None:
    """It says delta = 0.99; its figure of 4.1 % needs 0.01."""
    assert 100 * published_slack(10**4, 10**6, 0.99) < 3.5


def test_mean_above_is_the_inverse_of_the_relative_entropy() -> None:
    bound = mean_above(0.1, 500, 0.01)
    entropy = 0.1 * math.log(0.1 / bound) + 0.9 * math.log(0.9 / (1 - bound))
    assert 500 * entropy == pytest.approx(math.log(100))
    assert 0.1 < bound < 0.1 + math.sqrt(math.log(100) / 1000)  # inside Hoeffding's
    assert mean_above(0.0, 500, 0.01) == pytest.approx(1 - 0.01 ** (1 / 500))  # exact for no failure at all
    assert mean_above(1.0, 500, 0.01) == 1.0


def test_mean_above_holds_for_coins_exactly() -> None:
    """Over all outcomes of 200 coins: the chance that the bound fails is below delta, summed exactly."""
    from scipy import stats

    for true in (0.005, 0.05, 0.3, 0.9):
        fails = sum(stats.binom.pmf(k, 200, true) for k in range(201) if mean_above(k / 200, 200, 0.05) < true)
        assert fails <= 0.05


def test_all_bounds_hold_in_simulated_experiments() -> None:
    """Images of unequal difficulty on chips of unequal quality; delta = 10 %, 150 experiments, true error known."""
    generator, fails = np.random.default_rng(0), {"published": 0, "split": 0, "adaptive": 0}
    # P(image wrong on chip) = difficulty * quality, independent means 1/4 and 1/2
    for _ in range(150):
        difficulty, quality = generator.beta(1, 3, 300), generator.beta(1, 1, 30)
        wrong = generator.random((30, 300)) < quality[:, None] * difficulty[None, :]
        found = guarantee(measured(wrong), 0.1)
        for name in fails:
            fails[name] += getattr(found, name) < 0.125
    assert all(count <= 15 + 11 for count in fails.values())  # 10 % and three standard deviations


def test_fifty_chips_and_seven_percent() -> None:
    """The customary experiment: the published bound is weaker than the error it is about, by far; so is the split."""
    generator = np.random.default_rng(1)
    found = guarantee(measured(generator.random((50, 9000)) < 0.07))
    assert found.published - found.measured > 0.5
    assert found.verdict("published") == "weak"
    assert found.verdict("split") == "weak"
    assert found.adaptive < found.split < found.published
    assert "weak" in found.sentences()[0]
    assert "99%" in found.sentences()[0] or "0.99" in found.sentences()[0]


def test_a_bound_that_guessing_meets_is_vacuous() -> None:
    generator = np.random.default_rng(1)
    found = guarantee(measured(generator.random((10, 500)) < 0.3))
    assert found.verdict("published") == "vacuous"
    assert found.published == 1.0
    two = guarantee(measured(generator.random((50, 2000)) < 0.3, classes=2))
    assert two.guessing == 0.5
    assert two.verdict("split") == "vacuous"


def test_many_chips_make_it_informative() -> None:
    generator = np.random.default_rng(1)
    found = guarantee(measured(generator.random((2000, 2000)) < 0.2))
    assert found.verdict("adaptive") == "informative"


@pytest.mark.parametrize("arguments", [(0, 5, 0.1), (5, 0, 0.1), (5, 5, 0.0), (5, 5, 1.0)])
def test_nonsense_is_refused(arguments: tuple[int, int, float]) -> None:
    for bound in (published_slack, split_slack):
        with pytest.raises(InvalidConfig):
            bound(*arguments)
    with pytest.raises(InvalidConfig):
        mean_above(1.5, 10, 0.1)


def test_a_law_without_randomness_guarantees_nothing_over_chips() -> None:
    wrong = np.zeros((1, 20), bool)
    found = RobustError.of(
        wrong[0], wrong, anytime=anytime_interval([0.0]), nonfinite=[0], flips=[1], question={"random": False}
    )
    with pytest.raises(InvalidConfig, match="without randomness"):
        guarantee(found)
