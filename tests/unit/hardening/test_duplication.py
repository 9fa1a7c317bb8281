from __future__ import annotations

import itertools
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig, NoSuchSite
from holdfast.execution import CampaignReport, campaign, predict
from holdfast.faults import BitFlip
from holdfast.hardening import ChannelGuard, DuplicateGuard, Duplication, harden, methods
from holdfast.hardening.budget import candidates, knapsack, macs, seconds, select_within
from holdfast.models import attach_guard, card, load, save, tap
from holdfast.models.guard import guard_from_json
from holdfast.numerics import bits
from holdfast.seeds import derive

FAILURES = ("critical", "due")


@pytest.fixture(scope="module")
def baseline(
    trained: nn.Module, digits: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, CampaignReport]:
    store = tmp_path_factory.mktemp("campaign") / "store.sqlite"
    return store, campaign(trained, digits, BitFlip(), at="activations", trials=4000, seed=0, store=store)


def test_the_knapsack_is_as_good_as_trying_everything() -> None:
    draw = derive(0, "knapsack").numpy()
    for _ in range(30):
        costs, gains = (draw.integers(1, 200, 9) / 1000).tolist(), draw.random(9).tolist()
        budget = 0.25
        chosen = knapsack(costs, gains, budget)
        best = max(
            sum(gains[k] for k in some)
            for count in range(10)
            for some in itertools.combinations(range(9), count)
            if sum(costs[k] for k in some) <= budget + 1e-12
        )
        assert sum(costs[k] for k in chosen) <= budget + 1e-12
        assert sum(gains[k] for k in chosen) == pytest.approx(best)
    assert knapsack([0.1, 0.1], [0.0, 0.5], 1.0) == [1]
    assert knapsack([0.2], [1.0], 0.1) == []


def test_costs_are_shares_of_a_pass(trained: nn.Module, digits: Dataset) -> None:
    found = macs(trained, digits.example)
    conv2 = 8 * 8 * 8 * (8 * 9)
    assert found["conv2"] / found["conv1"] == pytest.approx((conv2 + 512) / (512 * 9 + 512))
    assert {"conv3", "norm1", "relu", "relu#1", "/add", "/mean", "fc"} <= found.keys()
    assert 1 < sum(found.values()) < 1.2  # each once more, and its comparison
    timed = seconds(trained, digits.example, time.process_time)
    assert timed.keys() == {"conv1", "norm1", "conv2", "norm2", "conv3", "norm3", "relu", "fc"}
    assert all(share >= 0 for share in timed.values())


def test_a_larger_budget_covers_more_and_every_budget_holds(
    trained: nn.Module, digits: Dataset, baseline: tuple[Path, CampaignReport]
) -> None:
    _, report = baseline
    costs = macs(trained, digits.example)
    gains = {item.site: item.gain.low if item.gain.successes else 0.0 for item in candidates(report, costs, half=0)}
    chosen = [select_within(report, costs, budget) for budget in (0.02, 0.1, 0.5, 2.0)]
    worth = [sum(gains[site] for site in item.sites) for item in chosen]
    assert worth == sorted(worth)
    assert all(item.cost <= budget for item, budget in zip(chosen, (0.02, 0.1, 0.5, 2.0), strict=True))
    assert chosen[-1].coverage.value == 1.0
    assert chosen[-1].coverage.low < 1.0


def test_what_the_selection_promises_is_what_another_campaign_finds(
    trained: nn.Module, digits: Dataset, baseline: tuple[Path, CampaignReport]
) -> None:
    """Coverage is estimated on trials that did not choose; a campaign under another seed agrees with its interval."""
    _, report = baseline
    method = Duplication.within(trained, report, budget=0.2, example=digits.example)
    model = harden(trained, method)
    plain, hard = (campaign(net, digits, BitFlip(), at="activations", trials=2500, seed=9) for net in (trained, model))
    failed = [row.trial for row in plain.rows if row.outcome in FAILURES]
    left = [row.trial for row in hard.rows if row.outcome in FAILURES]
    assert len(failed) > 15
    assert set(left) <= set(failed)
    spared = 1 - len(left) / len(failed)
    assert method.selection.coverage.low <= spared <= method.selection.coverage.high
    assert method.selection.cost <= 0.2
    sites = {f"activations:{site}" for site in method.selection.sites}
    assert all((row.trial in left) == (row.site not in sites) for row in plain.rows if row.trial in failed)


def test_clean_outputs_keep_their_bits_and_it_is_saved(
    trained: nn.Module, digits: Dataset, baseline: tuple[Path, CampaignReport], tmp_path: Path
) -> None:
    spec = f"duplicate:campaign={baseline[0]},budget=0.2"
    model = harden(trained, methods.build(spec).calibrated(trained, digits))
    assert bits.bit_equal(predict(model, digits), predict(trained, digits))
    save(model, tmp_path / "model")
    back = load(tmp_path / "model")
    arms = [campaign(net, digits, BitFlip(), at="activations", trials=100, seed=0).digest for net in (model, back)]
    assert arms[0] == arms[1]
    assert card(model).lineage[-1].parameters["method"] == "duplicate"


def test_what_it_refuses(trained: nn.Module, digits: Dataset, baseline: tuple[Path, CampaignReport]) -> None:
    _, report = baseline
    with pytest.raises(InvalidConfig, match="within 0"):
        select_within(report, {"fc": 0.1}, 0.0)
    with pytest.raises(InvalidConfig, match="struck no site"):
        select_within(report, {"head": 0.1}, 0.5)
    with pytest.raises(NoSuchSite, match="cheap enough"):
        harden(trained, Duplication.within(trained, report, budget=1e-9, example=digits.example))


def test_channels_cost_less_than_their_layers_and_spare_what_they_promise(
    trained: nn.Module, digits: Dataset, baseline: tuple[Path, CampaignReport]
) -> None:
    _, report = baseline
    method = Duplication.within(trained, report, budget=0.1, example=digits.example, per="channel")
    model = harden(trained, method)
    assert all("@" in site for site in method.selection.sites)
    assert method.selection.cost <= 0.1
    assert {guard.kind for guard in card(model).guards} == {"duplicate-channels"}
    assert bits.bit_equal(predict(model, digits), predict(trained, digits))
    at = ",".join(f"activations:{guard.site}" for guard in card(model).guards)
    plain, hard = (campaign(net, digits, BitFlip(), at=at, trials=1500, seed=9) for net in (trained, model))
    chosen = {(f"activations:{guard.site}", channel) for guard in card(model).guards for channel in guard.channels}
    failed = [row for row in plain.rows if row.outcome in FAILURES]
    sizes = {"activations:conv1": 64, "activations:conv2": 64, "activations:conv3": 16, "activations:fc": 1}
    guarded = [row for row in failed if (row.site, row.element // sizes[row.site]) in chosen]
    assert len(guarded) > 5
    left = {row.trial for row in hard.rows if row.outcome in FAILURES}
    assert left == {row.trial for row in failed} - {row.trial for row in guarded}


def hit(channel: int, value: float, last: bool, output: torch.Tensor) -> torch.Tensor:
    (output.movedim(-1, 1) if last else output)[3, channel, 4] = value
    return output


def test_every_element_of_a_guarded_channel_is_given_back() -> None:
    torch.manual_seed(0)
    for layer, x in [(nn.Linear(300, 40), torch.randn(5, 7, 300)), (nn.Conv2d(16, 12, 3), torch.randn(5, 16, 9, 9)),
                     (nn.Conv1d(8, 12, 3), torch.randn(5, 8, 9))]:  # fmt: skip
        for dtype in (torch.float32, torch.bfloat16):
            model, given = nn.Sequential(layer.to(dtype)), x.to(dtype)
            attach_guard(model, ChannelGuard("0", [2, 9]))
            (guard,) = card(model).guards
            last = isinstance(layer, nn.Linear)
            with torch.no_grad():
                golden = model(given).clone()
                assert guard.events.tolist() == guard.alarms.tolist() == [0] * 5
                for channel, value in [(2, torch.nan), (9, 1e4), (2, torch.inf), (3, 1e4)]:
                    with tap(model, {"0": partial(hit, channel, value, last)}):
                        assert bits.bit_equal(model(given), golden) == (channel in (2, 9))
            assert guard_from_json(guard.to_json()).to_json() == guard.to_json()
            card(model).guards.clear()


def test_operations_in_place_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
    attach_guard(model, DuplicateGuard("1"))
    with pytest.raises(InvalidConfig, match="in place"), torch.no_grad():
        model(torch.zeros(2, 4))
