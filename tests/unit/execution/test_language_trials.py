"""Single faults in language models: against plain arithmetic, and against a decoder that keeps no shortcuts."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from holdfast.data import Dataset, Text, text
from holdfast.errors import InvalidConfig
from holdfast.execution import CampaignReport, Classification, Language, campaign, continue_greedily, edit_distance
from holdfast.execution.injection import applied, population_of
from holdfast.execution.plan import draw_trials
from holdfast.faults import BitFlip
from holdfast.models import build_architecture, load
from tests.unit.execution.test_language import COUNTING, Successor, nll

LARGE = Text("large", torch.arange(60), 90)
SHORT = Language(windows=4, context=8, prompt_tokens=3, new_tokens=5)


def tiny() -> nn.Module:
    """A random decoder whose weights are large enough for its texts to vary."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = build_architecture("llama:dim=16,inner=24,layers=2,heads=2,groups=2,vocabulary=8,context=12").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5 if parameter.dim() > 1 else 1)
    return model


def test_every_bit_of_the_successor_by_hand() -> None:
    report = campaign(Successor(), COUNTING, BitFlip(), at="weights", trials=250, seed=0, task=SHORT)
    found = {row.bit: row for row in report.rows if row.input == 1}
    window = COUNTING.windows(8, 4)[1]
    right = float(((window[1:] - window[:-1]) % 6 == 1).float().mean())
    flipped = found[31]  # the successor is now the one token that is never said
    assert flipped.outcome == "critical"
    assert flipped.perplexity == pytest.approx(math.exp(nll(-2.0, right) - nll(2.0, right)))
    assert (flipped.edits or 0) > 0
    assert flipped.diverged == 0
    last = found[0]
    assert (last.outcome, last.edits, last.diverged, last.max_ulp) == ("sdc", 0, None, 1)
    assert last.perplexity == pytest.approx(1.0)
    assert {row.cause for row in report.rows if row.outcome == "due"} <= {"non-finite"}
    assert report.plan["task"]["name"] == "language"
    assert report.plan["task"]["new_tokens"] == 5


def naive(model: nn.Module, prompt: Tensor, count: int) -> Tensor:
    with torch.no_grad():
        return continue_greedily(model, prompt[None], count, vocabulary=8)[0]


def test_texts_equal_those_of_a_plain_decoder_under_the_same_stored_fault() -> None:
    """The golden text is checked in one pass and only its end is decoded again; a plain decoder does every step."""
    model, task = tiny(), Language(windows=3, prompt_tokens=4, new_tokens=7)
    report = campaign(model, COUNTING, BitFlip(), at="weights", trials=240, seed=3, task=task)
    windows = COUNTING.windows(12, 3)
    population = population_of(model, "weights", None)
    differing = 0
    for trial, row in zip(draw_trials(BitFlip(), population, 3, 240, 3), report.rows, strict=True):
        prompt = windows[trial.input, :4]
        golden = naive(model, prompt, 7)
        with applied(model, trial.flips):
            observed = naive(model, prompt, 7)
        if row.outcome == "due":
            continue
        assert row.edits == edit_distance(golden.tolist(), observed.tolist())
        differing += row.edits > 0
        assert (row.outcome == "critical") == (row.edits > 0 or (row.perplexity or 0) > 1.1)
    assert differing > 3


def test_one_token_of_an_activation_changes_nothing_before_it() -> None:
    """A causal model cannot look ahead: what a fault at token t changes in the text begins after t."""
    model, task = tiny(), Language(windows=3, prompt_tokens=2, new_tokens=9)
    at = "activations:model.layers.0.mlp.down_proj"
    report = campaign(model, COUNTING, BitFlip(), at=at, trials=400, seed=0, task=task)
    assert {row.site for row in report.rows} == {at}
    moved = [row for row in report.rows if row.diverged is not None]
    assert len(moved) > 5
    for row in moved:
        token = row.element // 16
        assert row.diverged is not None
        assert row.diverged + 1 >= token  # new token k is said at place prompt - 1 + k = 1 + k
    alone = campaign(model, COUNTING, BitFlip(), at=at, trials=60, seed=0, task=task, batch=1)
    assert [(row.outcome, row.edits) for row in alone.rows] == [(row.outcome, row.edits) for row in report.rows[:60]]


def test_without_text_only_the_likelihood_decides() -> None:
    task = Language(windows=4, context=8, prompt_tokens=3, new_tokens=0, ratio=1.5)
    report = campaign(Successor(), COUNTING, BitFlip(), at="weights", trials=120, seed=0, task=task)
    assert {row.edits for row in report.rows} == {None}
    assert all((row.outcome == "critical") == (row.perplexity > 1.5) for row in report.rows if row.perplexity)
    assert report.counts["critical"] > 0


def test_a_tolerance_of_edits_is_a_tolerance() -> None:
    def count(edits: int) -> int:
        task = Language(windows=4, context=8, prompt_tokens=3, new_tokens=5, edits=edits, ratio=1e308)
        return campaign(Successor(), COUNTING, BitFlip(), at="weights", trials=80, seed=0, task=task).counts["critical"]

    assert count(5) == 0
    assert count(0) > 0


class Tied(nn.Module):
    """One matrix embeds and scores, as in GPT-2."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.embed, self.head = nn.Embedding(8, 8), nn.Linear(8, 8, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens))


def test_tied_weights_are_one_site_and_are_put_back() -> None:
    model = Tied()
    before = model.head.weight.detach().clone()
    report = campaign(model, COUNTING, BitFlip(), at="weights", trials=120, seed=0, task=SHORT, rerun=True)
    assert {row.site for row in report.rows} == {"weights:embed.weight"}
    assert torch.equal(model.head.weight, before)
    assert {row.rerun for row in report.rows if row.outcome == "critical"} == {"persistent"}


class Wrapped(nn.Module):
    """Returns an object with logits, as transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Successor()

    def forward(self, tokens: Tensor) -> object:
        return type("Output", (), {"logits": self.inner(tokens)})()


def test_an_object_with_logits_is_read() -> None:
    plain = campaign(Successor(), COUNTING, BitFlip(), at="weights", trials=40, seed=0, task=SHORT)
    wrapped = campaign(Wrapped(), COUNTING, BitFlip(), at="weights", trials=40, seed=0, task=SHORT)
    assert [row.outcome for row in wrapped.rows] == [row.outcome for row in plain.rows]


@pytest.mark.parametrize("executor", ["processes:2"])
def test_workers_give_the_same_table(executor: str) -> None:
    options = {"at": "weights,activations:model.layers.0*", "trials": 40, "seed": 0}
    task = Language(windows=3, prompt_tokens=4, new_tokens=4)
    tables = [
        campaign(tiny(), COUNTING, BitFlip(), task=task, executor=name, **options).digest  # type: ignore[arg-type]
        for name in ("inline", executor)
    ]
    assert tables[0] == tables[1]


def test_wrong_pairs_are_refused(digits: Dataset) -> None:
    with pytest.raises(InvalidConfig, match="reads a text"):
        campaign(Successor(), digits, BitFlip(), at="weights", trials=3, task=SHORT)
    with pytest.raises(InvalidConfig, match="takes a dataset"):
        campaign(Successor(), COUNTING, BitFlip(), at="weights", trials=3, task=Classification())
    with pytest.raises(InvalidConfig, match="how many tokens"):
        campaign(Successor(), COUNTING, BitFlip(), at="weights", trials=3)
    with pytest.raises(InvalidConfig, match="more than the context"):
        campaign(tiny(), COUNTING, BitFlip(), at="weights", trials=3)
    with pytest.raises(InvalidConfig, match="only 8"):
        campaign(Successor(), LARGE, BitFlip(), at="weights", trials=3, task=SHORT)
    with pytest.raises(InvalidConfig, match="ratio is above 1"):
        Language(ratio=1.0)


def test_the_real_model_on_the_real_text(shared_data: Path) -> None:
    folder = shared_data / "tiny-llama-260k"
    model, words = load(folder), text(f"wikitext2:{shared_data / 'wikitext-2'}", tokenizer=folder / "tok512.bin")
    task = Language(windows=4, prompt_tokens=8, new_tokens=8)
    report: CampaignReport = campaign(model, words, BitFlip(), at="weights", trials=60, seed=0, task=task)
    bits = report.by_bit()
    assert sum(failed for bit, (failed, _) in bits.items() if bit < 16) == 0
    assert sum(failed for bit, (failed, _) in bits.items() if bit > 28) > 0
    assert report.rows == campaign(model, words, BitFlip(), at="weights", trials=60, seed=0, task=task).rows


@pytest.mark.parametrize("engine", ["suffix", "auto"])
def test_stored_faults_that_share_a_pass_make_texts_of_their_own(engine: str) -> None:
    """The suffix engine flips a stored bit for its own trial only, and so must whoever makes the text."""
    model, task = tiny(), Language(windows=2, prompt_tokens=4, new_tokens=6)
    asked = {"at": "weights", "trials": 60, "seed": 3, "task": task, "bits": [26, 27, 28, 31]}
    plain = campaign(model, COUNTING, BitFlip(), **asked)  # type: ignore[arg-type]
    shared = campaign(model, COUNTING, BitFlip(), **asked, engine=engine, batch=16)  # type: ignore[arg-type]
    texts = [(row.trial, row.outcome, row.edits, row.diverged) for row in plain.rows]
    assert sum(bool(row.edits) for row in plain.rows) > 3
    assert [(row.trial, row.outcome, row.edits, row.diverged) for row in shared.rows] == texts
