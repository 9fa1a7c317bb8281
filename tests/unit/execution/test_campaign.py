from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple

import pytest
import torch
from torch import Tensor, nn

from holdfast.data import Dataset, probes
from holdfast.errors import IntegrityError, InvalidConfig, NoSuchSite, TrialError, UnknownName
from holdfast.execution import CampaignReport, Flips, Outcome, campaign, compare, paired
from holdfast.execution.injection import flip_rows, population_of, tap_sites
from holdfast.execution.plan import draw_trials, plan_blocks
from holdfast.faults import BitErrors, BitFlip
from holdfast.models import Site, build_architecture


@pytest.fixture(scope="module")
def flowing(trained: nn.Module, digits: Dataset) -> CampaignReport:
    return campaign(trained, digits, BitFlip(), at="activations", trials=400, seed=1, engine="hooks")


def test_every_trial_has_one_outcome(flowing: CampaignReport) -> None:
    assert flowing.trials == 400
    assert [row.trial for row in flowing.rows] == list(range(400))
    assert sum(flowing.counts.values()) == 400
    assert sum(sum(counts.values()) for counts in flowing.by_site().values()) == 400
    assert sum(total for _, total in flowing.by_bit().values()) == 400
    assert flowing["critical"].value == flowing.counts["critical"] / 400
    assert flowing.counts["masked"] > 0
    assert flowing.counts["sdc"] > 0
    assert flowing["detected"].value == 0


def test_rows_equal_a_naive_loop(trained: nn.Module, digits: Dataset, flowing: CampaignReport) -> None:
    """One fault per row of a shared forward gives, bit for bit, what one fault per forward of that batch gives."""
    population = population_of(trained, "activations", digits.example)
    blocks = plan_blocks(draw_trials(BitFlip(), population, len(digits), 400, 1), 32)
    for block in blocks[:4]:
        images, _ = digits.batch(torch.tensor([trial.input for trial in block]))
        for row, trial in enumerate(block):
            with torch.no_grad():
                golden = trained(images)
                with tap_sites(trained, {flip.site: in_row(row, flip) for flip in trial.flips}):
                    found = compare(golden, trained(images))
            kept = flowing.rows[trial.number]
            assert (kept.site, kept.element, kept.bit) == trial.address
            assert kept.outcome == found.outcome(row).value
            assert kept.max_ulp in (float(found.max_ulp[row]), None)


def in_row(row: int, flip: Flips) -> Callable[[Tensor], Tensor]:
    return lambda output: flip_rows(output, torch.full_like(flip.index, row), flip)


def test_one_image_at_a_time_fails_alike(trained: nn.Module, digits: Dataset, flowing: CampaignReport) -> None:
    """Kernels round differently for one row, which may mask a last bit but never turns a failure around."""
    alone = campaign(trained, digits, BitFlip(), at="activations", trials=400, seed=1, batch=1)
    assert paired(alone, flowing).only_first == paired(alone, flowing).only_second == 0
    differing = [(a, b) for a, b in zip(alone.rows, flowing.rows, strict=True) if a.outcome != b.outcome]
    assert all(max(a.max_relative or 0, b.max_relative or 0) < 1e-6 for a, b in differing)


def test_the_same_call_gives_the_same_table(trained: nn.Module, digits: Dataset, flowing: CampaignReport) -> None:
    again = campaign(trained, digits, BitFlip(), at="activations", trials=400, seed=1, engine="hooks")
    other = campaign(trained, digits, BitFlip(), at="activations", trials=400, seed=2)
    assert again.digest == flowing.digest
    assert other.digest != flowing.digest


def test_fewer_trials_are_a_prefix(trained: nn.Module, digits: Dataset, flowing: CampaignReport) -> None:
    short = campaign(trained, digits, BitFlip(), at="activations", trials=50, seed=1)
    assert [astuple(row)[:6] for row in short.rows] == [astuple(row)[:6] for row in flowing.rows[:50]]


@pytest.mark.parametrize("at", ["weights", "buffers", "inputs", "outputs", "weights:fc.*,activations:conv*"])
def test_every_kind_of_site(trained: nn.Module, digits: Dataset, at: str) -> None:
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    report = campaign(trained, digits, BitFlip(), at=at, trials=60, seed=0)
    assert report.trials == 60
    assert {row.site.partition(":")[0] for row in report.rows} <= {part.partition(":")[0] for part in at.split(",")}
    assert all(torch.equal(before[key], value) for key, value in trained.state_dict().items())


def test_high_exponent_bits_are_the_dangerous_ones(trained: nn.Module, digits: Dataset) -> None:
    report = campaign(trained, digits, BitFlip(), at="weights", trials=600, seed=0)
    by_bit = report.by_bit()
    assert sum(by_bit[bit][0] for bit in range(20) if bit in by_bit) == 0
    assert by_bit[30][0] / by_bit[30][1] > 0.5


def test_faults_of_many_bits(trained: nn.Module, digits: Dataset) -> None:
    report = campaign(trained, digits, BitErrors(rate=0.01), at="weights,activations:conv1", trials=20, seed=0)
    assert all(row.bit == -1 for row in report.rows)
    assert report.counts["masked"] == 0
    assert report.by_bit() == {}


def test_a_fault_that_flips_nothing_is_masked(trained: nn.Module, digits: Dataset) -> None:
    report = campaign(trained, digits, BitErrors(rate=0.0), at="activations", trials=70, seed=0)
    assert report["masked"].value == 1.0
    assert all(row.max_ulp == 0 for row in report.rows)


def test_blocks_hold_each_trial_once(trained: nn.Module, digits: Dataset) -> None:
    population = population_of(trained, "weights,activations", digits.example)
    trials = draw_trials(BitFlip(), population, len(digits), 300, 0)
    blocks = plan_blocks(trials, 32)
    assert sorted(trial.number for block in blocks for trial in block) == list(range(300))
    assert all(len(block) <= 32 for block in blocks)
    assert all(
        len({flip.site for trial in block for flip in trial.flips}) == 1 for block in blocks if block[0].together
    )


class Crashing(nn.Module):
    """Raises when a fault makes its hidden value huge, as an index out of range would."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        if y.abs().max() > 1e6:
            raise RuntimeError("index out of range")
        return y


def test_crashes_are_due_and_raise_when_strict(trained: nn.Module, digits: Dataset) -> None:
    model = Crashing(trained).eval()
    report = campaign(model, digits, BitFlip(), at="activations:inner.fc", trials=100, seed=0)
    crashed = [row for row in report.rows if row.outcome == Outcome.DUE and row.max_ulp is None]
    assert crashed
    assert {row.bit for row in crashed} <= set(range(26, 31))  # only the high exponent bits make it huge
    assert report.counts["sdc"] > 0  # rows that shared the crashed forward were run again alone
    with pytest.raises(TrialError, match="index out of range"):
        campaign(model, digits, BitFlip(), at="activations:inner.fc", trials=100, seed=0, strict=True)


class Offloading(nn.Module):
    """A stand-in for a session: a linear layer computed elsewhere in integers, recomputed here and compared."""

    def __init__(self, checked: bool) -> None:
        super().__init__()
        self.codes = torch.arange(640, dtype=torch.int32).view(10, 64) % 7 - 3
        self.checked = checked
        self.recovered = 0
        self._taps: Mapping[str, Callable[[Tensor], Tensor]] = {}

    def forward(self, x: Tensor) -> Tensor:
        exact = (x.flatten(1).round().int().unsqueeze(1) * self.codes).sum(2, dtype=torch.int32)
        answer = self._taps.get("fc", lambda y: y)(exact.clone())
        if self.checked and not torch.equal(answer, exact):
            raise IntegrityError("layer fc returned a wrong product")
        return answer.float()

    def offload_sites(self) -> tuple[Site, ...]:
        return (Site("offload", "fc", (10,), "int32", 32),)

    @contextmanager
    def tap(self, taps: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
        self._taps = taps
        try:
            yield
        finally:
            self._taps = {}

    def recover(self) -> None:
        self.recovered += 1


def test_lies_of_a_worker_are_detected(digits: Dataset) -> None:
    session = Offloading(checked=True)
    report = campaign(session, digits, BitFlip(), at="offload:**", trials=50, seed=0)
    assert report["detected"].value == 1.0
    assert session.recovered == 50
    unchecked = campaign(Offloading(checked=False), digits, BitFlip(), at="offload:**", trials=50, seed=0)
    assert unchecked["detected"].value == 0
    assert unchecked["critical"].value > 0
    with pytest.raises(InvalidConfig, match="shared"):
        campaign(session, digits, BitFlip(), at="offload:**", trials=5, executor="processes:2")


def test_arms_pair_by_trial(trained: nn.Module, digits: Dataset, flowing: CampaignReport) -> None:
    same = paired(flowing, flowing)
    assert (same.only_first, same.only_second, same.difference, same.p_value) == (0, 0, 0.0, 1.0)
    other = campaign(trained, digits, BitFlip(), at="activations", trials=400, seed=9)
    with pytest.raises(InvalidConfig, match="same trials"):
        paired(flowing, other)


def test_the_classic_number_of_trials_is_a_preset(trained: nn.Module, digits: Dataset) -> None:
    report = campaign(trained, digits, BitFlip(), at="activations", margin=0.08, preset="leveugle", seed=0)
    assert report.trials == 151  # Leveugle et al. (DATE 2009) with p = 0.5
    assert report["critical"].high - report["critical"].low < 0.16


def test_progress_reaches_the_end(trained: nn.Module, digits: Dataset) -> None:
    seen: list[tuple[int, int]] = []
    campaign(
        trained,
        digits,
        BitFlip(),
        at="weights",
        trials=50,
        batch=20,
        progress=lambda *step: seen.append(step),
    )
    assert seen == [(20, 50), (40, 50), (50, 50)]


def test_settings_come_back(trained: nn.Module, digits: Dataset) -> None:
    model = copy.deepcopy(trained).train()
    model.norm1.eval()
    threads = torch.get_num_threads()
    campaign(model, digits, BitFlip(), at="weights", trials=5)
    assert model.training
    assert not model.norm1.training
    assert model.norm2.training
    assert torch.get_num_threads() == threads


class Noisy(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + torch.randn(len(x), 10)


def test_bad_calls_are_refused(trained: nn.Module, digits: Dataset) -> None:
    with pytest.raises(InvalidConfig, match="trials= or margin="):
        campaign(trained, digits, BitFlip(), at="weights")
    with pytest.raises(InvalidConfig, match="trials= or margin="):
        campaign(trained, digits, BitFlip(), at="weights", trials=3, margin=0.1)
    with pytest.raises(InvalidConfig, match="at least one trial"):
        campaign(trained, digits, BitFlip(), at="weights", trials=0)
    with pytest.raises(NoSuchSite):
        campaign(trained, digits, BitFlip(), at="activations:nowhere", trials=3)
    with pytest.raises(UnknownName, match="inlin"):
        campaign(trained, digits, BitFlip(), at="weights", trials=3, executor="inlin")
    with pytest.raises(InvalidConfig, match="different bits"):
        campaign(Noisy(trained), digits, BitFlip(), at="weights", trials=3)
    broken = copy.deepcopy(trained)
    broken.fc.bias.data[0] = torch.nan
    with pytest.raises(InvalidConfig, match="NaN"):
        campaign(broken, digits, BitFlip(), at="weights", trials=3)


def test_a_model_that_crashes_without_a_fault_is_no_outcome(digits: Dataset) -> None:
    with pytest.raises(InvalidConfig, match="does not take what the data holds"):
        campaign(nn.Sequential(nn.Flatten(), nn.Linear(3, 10)), digits, BitFlip(), at="weights", trials=3)


def test_unknown_outcome(flowing: CampaignReport) -> None:
    with pytest.raises(UnknownName, match="critcal"):
        flowing["critcal"]


def test_functional_sites_of_a_transformer_can_fail() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_architecture("vit-tiny").eval()
    found = probes("uniform", n=8, shape=(3, 32, 32), seed=0)
    report = campaign(model, found, BitFlip(), at="activations:blocks.0*", trials=120, seed=0)
    assert {"activations:blocks.0.attn/softmax", "activations:blocks.0/add"} <= set(report.by_site())
    assert report["masked"].value < 0.5
