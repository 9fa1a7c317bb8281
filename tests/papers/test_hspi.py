"""HSPI-LD (Zhang et al., ICML 2025) on the handwritten digits: what its classifier learns, and what it does not."""

from __future__ import annotations

import pytest
from torch import nn

from holdfast.data import Dataset, probes
from holdfast.identification.distribution import Evaluation, Examples, evaluate, match_runs, merged, record

pytestmark = pytest.mark.slow
FORMATS = ("fp32", "bf16", "fp16", "mxint8", "fp8-e3m4", "fp8-e4m3", "int8-dynamic")
STACKS = ("default", "onednn-off", "channels-last", "batch-1")


@pytest.fixture(scope="module")
def noise() -> Dataset:
    return probes("uniform", n=200, shape=(1, 8, 8), seed=0)


@pytest.fixture(scope="module")
def by_format(trained: nn.Module, noise: Dataset) -> Evaluation:
    return evaluate(Examples.of(merged(record(trained, noise, FORMATS)), size=10))


def test_number_formats_show_in_the_bits_of_inputs_never_seen(by_format: Evaluation) -> None:
    """Their claim: seven formats are told apart at several times the rate of guessing."""
    assert by_format.score.accuracy.low > 3 * by_format.chance
    assert by_format.score.f1["bf16"].value == by_format.score.f1["fp16"].value == 1.0


def test_what_shows_is_how_words_end(by_format: Evaluation) -> None:
    """Counting zeros at the end of words does as well: no bit above them carries a platform to other inputs."""
    learned, _, plain, counted = by_format.scores
    assert plain.f1["bf16"].value == plain.f1["fp16"].value == 1.0
    assert counted.accuracy.high >= learned.accuracy.low
    assert not by_format.beats_baselines


def test_fp32_stacks_do_not_show_and_training_accuracy_says_they_do(trained: nn.Module, noise: Dataset) -> None:
    """Their scripts print the training accuracy. Held out, four real stacks are as good as guessed."""
    recordings = merged(record(trained, noise, STACKS))
    assert len({item.label for item in recordings}) == 4
    found = evaluate(Examples.of(recordings, size=5))
    assert found.training == 1.0
    assert found.score.accuracy.value < 0.45
    assert not found.beats_baselines


def test_one_known_input_tells_what_ten_unknown_ones_do_not(trained: nn.Module, noise: Dataset) -> None:
    """The same stacks, one input at a time, against a first run on the same inputs."""
    first, second = (record(trained, noise, STACKS, run=run) for run in ("first", "second"))
    assert match_runs([*first, *second]).accuracy.value > 0.99
