"""Language models under bit errors: perplexity against plain arithmetic, collapse by hand, texts that diverge."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast.data import Text, text
from holdfast.errors import InvalidConfig
from holdfast.execution import (
    LanguageRobustness,
    MeanEstimate,
    Reading,
    Restricted,
    continue_greedily,
    edit_distance,
    language_robustness,
    language_sensitivity,
    perplexity,
)
from holdfast.faults import BitErrors
from holdfast.models import build_architecture, load

SHORT = Reading(windows=4, context=8, prompts=3, prompt_tokens=3, new_tokens=5)
COUNTING = Text("counting", torch.arange(60) % 6 + 2, 8)


class Successor(nn.Module):
    """Gives the token after the last one ``weight`` more logit than any other; perplexity is known exactly."""

    def __init__(self, weight: float = 2.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight]))

    def forward(self, tokens: Tensor) -> Tensor:
        after = torch.where(tokens >= 7, 2, tokens + 1)
        return nn.functional.one_hot(after, 8) * self.weight


def nll(weight: float, right: float) -> float:
    """Loss when a share ``right`` of tokens is the favoured one."""
    return math.log(math.exp(weight) + 7) - right * weight


def test_perplexity_by_hand() -> None:
    """The text counts 2, 3, ... 7, 2, ...; only after the start token, 1, may the next one not be the successor."""
    found = perplexity(Successor(), COUNTING, reading=SHORT)
    # each window holds 7 predictions; the first is right only where the window's text begins with 2
    rows = COUNTING.windows(8, 4)
    right = float((rows[:, 1] == 2).sum() + 4 * 6) / 28
    assert found.value == pytest.approx(nll(2.0, right), abs=1e-6)
    assert found.n == 4


def test_perplexity_of_equal_logits_is_the_vocabulary() -> None:
    assert math.exp(perplexity(Successor(0.0), COUNTING, reading=SHORT).value) == pytest.approx(8.0)


def test_greedy_text_counts_on() -> None:
    prompts = torch.tensor([[1, 4], [1, 7]])
    assert continue_greedily(Successor(), prompts, 4, vocabulary=8).tolist() == [[5, 6, 7, 2], [2, 3, 4, 5]]


def test_a_flipped_sign_changes_every_text_and_an_exponent_is_a_collapse() -> None:
    sign = Restricted(fault=BitErrors(rate=0.3), bits=(("weights:weight", 1 << 31),))
    found = language_robustness(Successor(), COUNTING, sign, chips=12, reading=SHORT)
    flipped = [bool(count) for count in found.flips]
    assert 0 < sum(flipped) < 12
    rows = COUNTING.windows(8, 4)
    right = float((rows[:, 1] == 2).sum() + 24) / 28
    expected = [nll(-2.0, right) if flip else nll(2.0, right) for flip in flipped]
    assert found.per_chip == pytest.approx(expected, abs=1e-6)
    assert found.changed_per_chip == tuple(float(flip) for flip in flipped)
    assert found.moved == tuple(float(flip) for flip in flipped)  # the favoured token is now the one never taken
    assert found.first_divergence == 0
    assert found.clean_perplexity.value == pytest.approx(math.exp(nll(2.0, right)))
    # -2 is worse than guessing among eight
    assert found.collapse.successes == sum(flipped)


def test_nan_is_a_collapse_and_does_not_poison_the_rest() -> None:
    # 2.0 has the exponent 128: with its seven lower bits flipped as well it is infinite, and 0 times infinity is NaN
    exponent = Restricted(fault=BitErrors(rate=0.85), bits=(("weights:weight", 0x7F << 23),))
    found = language_robustness(Successor(), COUNTING, exponent, chips=40, reading=SHORT)
    infinite = [count == 7 for count in found.flips]
    assert 3 < sum(infinite) < 30
    assert [math.isinf(value) for value in found.per_chip] == infinite
    assert [count == 4 for count in found.nonfinite] == infinite
    assert found.collapse.successes >= sum(infinite)
    assert found.mean_ratio == math.inf


def summary(*per_chip: float, clean: float = 3.0, **options: float) -> LanguageRobustness:
    chips = len(per_chip)
    return LanguageRobustness(
        MeanEstimate.student_t([clean, clean]), per_chip, 1000, (0.0,) * chips, ((None, 2),) * chips,
        ((0, 4),) * chips, 8, (0,) * chips, (1,) * chips, **options,
    )  # fmt: skip


def test_collapse_mean_and_median_by_hand() -> None:
    found = summary(3.0, 3.0 + math.log(2), 3.0 + math.log(20), math.inf, 3.0)
    assert found.ratios == pytest.approx((1, 2, 20, math.inf, 1))
    assert (found.collapse.successes, found.collapse.n) == (2, 5)
    assert found.median_ratio.value == pytest.approx(2)
    assert found.median_ratio.high == math.inf
    assert found.mean_ratio == math.inf
    assert found.mean_ratio_standing is not None
    assert found.mean_ratio_standing.value == pytest.approx(4 / 3)
    assert summary(3.0 + math.log(20), threshold=30.0).collapse.successes == 0
    assert summary(math.log(1000)).collapse.successes == 1  # as good as guessing
    assert summary(math.log(1000), threshold=1e6).collapse.successes == 1
    assert summary(math.inf).mean_ratio_standing is None
    assert found.changed.value == 0.5
    assert found.first_divergence == 2
    assert found.edit_share.value == pytest.approx(4 / 2 / 8)


def test_edit_distance() -> None:
    assert edit_distance([1, 2, 3], [1, 2, 3]) == 0
    assert edit_distance([1, 2, 3, 4], [2, 3, 4, 5]) == 2  # drop the first, add one at the end
    assert edit_distance([], [1, 2]) == 2
    generator = np.random.default_rng(0)
    for _ in range(20):
        a, b = (generator.integers(0, 3, 7).tolist() for _ in range(2))
        assert edit_distance(a, b) == edit_distance(b, a) <= sum(x != y for x, y in zip(a, b, strict=True))


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    law, store = BitErrors(rate=0.05), tmp_path / "chips.sqlite"
    plain = language_robustness(Successor(), COUNTING, law, chips=8, reading=SHORT)
    language_robustness(Successor(), COUNTING, law, chips=3, reading=SHORT, store=store)
    again = language_robustness(Successor(), COUNTING, law, chips=8, reading=SHORT, store=store, executor="processes:2")
    assert again.per_chip == plain.per_chip
    assert again.diverged == plain.diverged
    with pytest.raises(InvalidConfig, match="differ in reading"):
        language_robustness(Successor(), COUNTING, law, chips=8, reading=Reading(context=8, windows=2, prompt_tokens=3,
                            new_tokens=5), store=store)  # fmt: skip


def test_groups_of_a_transformer() -> None:
    model = build_architecture("llama:dim=16,inner=24,layers=2,heads=2,groups=2,vocabulary=8,context=12").eval()
    reading = Reading(windows=2, prompts=2, prompt_tokens=3, new_tokens=3)
    found = language_sensitivity(model, COUNTING, BitErrors(rate=0.01), by="role", chips=2, reading=reading)
    assert "weights:model.layers.*.self_attn.q_proj.weight" in found
    assert len(found) == 11
    fields = language_sensitivity(model, COUNTING, BitErrors(rate=0.01), by="field", chips=2, reading=reading)
    assert max(fields["mantissa"].moved) <= max(fields["exponent"].moved)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chips": 0}, "at least one chip"),
        ({"at": "activations"}, "flows"),
        ({"collapse": 0.5}, "collapses above"),
        ({"reading": Reading(context=4)}, "more than the context"),
        ({"reading": Reading()}, "how long a context"),
        ({"reading": Reading(context=500)}, "too few"),
    ],
)
def test_nonsense_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        language_robustness(Successor(), COUNTING, BitErrors(rate=0.1), **({"reading": SHORT} | options))
    with pytest.raises(InvalidConfig, match="from one"):
        Reading(windows=0)
    with pytest.raises(InvalidConfig, match="batch, tokens, vocabulary"):
        perplexity(nn.Identity(), COUNTING, reading=SHORT)


def test_a_classifier_is_no_language_model() -> None:
    with pytest.raises(InvalidConfig, match="samples of 1x8x8: it is no language model"):
        perplexity(build_architecture("digits-cnn"), COUNTING)


def test_wikitext_2_against_a_plain_reference(shared_data: Path) -> None:
    """The perplexity of the real model on the real text, by numpy alone, window by window and token by token."""
    folder = shared_data / "tiny-llama-260k"
    model, words = load(folder), text(f"wikitext2:{shared_data / 'wikitext-2'}", tokenizer=folder / "tok512.bin")
    found, total, count = perplexity(model, words, reading=Reading(windows=3)), 0.0, 0
    stream = words.tokens.tolist()
    for window in range(3):
        seen = [1, *stream[127 * window : 127 * (window + 1)]]
        with torch.no_grad():
            logits = model(torch.tensor([seen]))[0].numpy().astype(np.float64)
        for place in range(127):
            row = logits[place] - logits[place].max()
            total -= row[seen[place + 1]] - math.log(np.exp(row).sum())
            count += 1
    assert count == 381
    assert found.value == pytest.approx(total / count, abs=1e-5)


def test_the_real_model_under_bit_errors(shared_data: Path) -> None:
    """Exponents are what float32 loses text by: mantissa errors at the same rate hardly show."""
    folder = shared_data / "tiny-llama-260k"
    model, words = load(folder), text(f"wikitext2:{shared_data / 'wikitext-2'}", tokenizer=folder / "tok512.bin")
    reading = Reading(windows=4, prompts=4, new_tokens=12)
    found = language_sensitivity(model, words, BitErrors(rate=1e-4), by="field", chips=3, reading=reading)
    assert found["mantissa"].predictions_moved.value < 0.1
    assert found["exponent"].predictions_moved.value > 0.5
    assert found["exponent"].changed.value == 1.0
    assert found["mantissa"].collapse.successes == 0
