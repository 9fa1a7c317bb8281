"""What becomes of a trial: distances by hand, causes of a DUE, guards that act, state that stays behind."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig, TrialError, UnknownName
from holdfast.execution import Classification, Row, Watchdog, campaign, compare
from holdfast.execution.engines import Hooks, engines
from holdfast.faults import BitFlip
from holdfast.models import attach_guard
from tests.unit.execution.gate import images

FOUR = images(1.0, -1.0, 2.0, 0.5, labels=[0, 1, 0, 0])
QUICK = Watchdog(floor=0.15)


class Scores(nn.Module):
    """Gives (w x, 0, -1); one fp32 weight stored as 1.0, seen by ``react`` before it is used."""

    def __init__(self, react: Callable[[nn.Module, float], Tensor | None] | None = None) -> None:
        super().__init__()
        self.weight, self.react = nn.Parameter(torch.ones(1)), react
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        weight = float(self.weight.detach())
        answer = self.react(self, weight) if self.react is not None else None
        if answer is not None:
            return answer
        product = x.flatten(1) * self.weight
        return torch.cat((product, torch.zeros_like(product), torch.zeros_like(product) - 1), 1)


def by_bit(model: nn.Module, **options: object) -> dict[int, Row]:
    """Every bit of the weight, met by the first image."""
    report = campaign(model, FOUR.take(1), BitFlip(), at="weights", trials=300, seed=0, **options)  # type: ignore[arg-type]
    found = {row.bit: row for row in report.rows}
    assert set(found) == set(range(32))
    return found


def test_distances_by_hand() -> None:
    golden, observed = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[-1.0, 0.0, -1.0]])
    found = compare(golden, observed)
    p = [math.exp(v) / (math.e + 1 + 1 / math.e) for v in (1, 0, -1)]
    q = [math.exp(v) / (2 / math.e + 1) for v in (-1, 0, -1)]
    assert found.max_absolute[0] == 2
    assert found.max_relative[0] == 2
    assert float(found.divergence[0]) == pytest.approx(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    assert float(found.probability[0]) == pytest.approx(max(abs(a - b) for a, b in zip(p, q, strict=True)))
    assert found.margin[0] == -1  # led by 1, now behind by 1
    assert bool(found.top1_changed[0])
    assert not bool(found.top5_left[0])  # there are only three classes


def test_top5_is_left_by_a_winner_from_below() -> None:
    golden = torch.arange(8.0).flip(0).view(1, 8)  # favourites 0..4
    observed = golden.repeat(2, 1)
    observed[0, 4], observed[1, 5] = 99.0, 99.0
    assert compare(golden.repeat(2, 1), observed).top5_left.tolist() == [False, True]


def test_equal_outputs_have_no_distance_and_their_whole_lead() -> None:
    found = compare(torch.tensor([[3.0, 1.0], [2.0, 2.0]]), torch.tensor([[3.0, 1.0], [2.0, 2.0]]))
    assert found.divergence.tolist() == [0, 0]
    assert found.probability.tolist() == [0, 0]
    assert found.margin[0] == 1
    assert torch.isnan(found.margin[1])  # a tie has no lead to lose


def test_every_bit_of_one_weight() -> None:
    found = by_bit(Scores())
    assert found[31].outcome == "critical"  # -1 is behind 0
    assert (found[31].top1, found[31].margin) == (1, -1)
    assert (found[30].outcome, found[30].cause) == ("due", "non-finite")  # 1.0 becomes infinite
    assert found[30].max_ulp is None
    assert found[30].divergence is None
    assert (found[0].outcome, found[0].max_ulp) == ("sdc", 1)
    assert found[0].max_absolute == pytest.approx(2**-23)
    assert 0 < (found[22].divergence or 0) < 0.2
    assert found[22].margin == 1.5


def test_the_criterion_of_what_is_critical_is_the_tasks() -> None:
    # the lowest exponent bit halves the weight and with it the lead
    assert by_bit(Scores())[23].outcome == "sdc"
    assert by_bit(Scores(), task=Classification(critical="margin", margin=0.6))[23].outcome == "critical"
    assert by_bit(Scores(), task=Classification(critical="margin", margin=0.4))[23].outcome == "sdc"
    assert by_bit(Scores(), task=Classification(critical="top-5"))[31].outcome == "sdc"
    with pytest.raises(UnknownName, match="top-2"):
        Classification(critical="top-2")
    with pytest.raises(InvalidConfig, match="golden lead"):
        Classification(margin=2.0)


@pytest.mark.parametrize("shape", [(1, 1), (3,), (1, 4)])
def test_another_shape_is_a_due_of_its_own_and_never_broadcast(shape: tuple[int, ...]) -> None:
    """MaxiMals subtracts before it looks at the shape (setuppuretorch.py:307): such an output raises or broadcasts."""
    found = by_bit(Scores(lambda _, weight: torch.zeros(shape) if weight < 0 else None))
    assert (found[31].outcome, found[31].cause, found[31].max_ulp) == ("due", "shape", None)
    assert found[0].outcome == "sdc"


def test_something_that_is_no_tensor_or_of_another_dtype_is_a_due() -> None:
    for answer in ("text", torch.zeros(1, 3, dtype=torch.float64)):
        found = by_bit(Scores(lambda _, weight, answer=answer: answer if weight < 0 else None))
        assert (found[31].outcome, found[31].cause) == ("due", "shape")


def test_an_exception_says_so() -> None:
    def react(_: nn.Module, weight: float) -> None:
        if weight < 0:
            raise IndexError("out of range")

    assert (by_bit(Scores(react))[31].outcome, by_bit(Scores(react))[31].cause) == ("due", "exception")


def endless(_: nn.Module, weight: float) -> None:
    """Count down from the weight in steps that never reach a huge one; swallow what ordinary code may raise."""
    left = weight
    while left > 1e6:
        try:
            left -= 1e-3
        except Exception:
            continue


@pytest.mark.parametrize("executor", ["inline", "processes:2"])
def test_a_trial_that_hangs_is_a_due_and_the_campaign_goes_on(executor: str) -> None:
    model = Scores(endless)
    model.weight.data.fill_(2.0**-100)  # one exponent bit makes it 2**28, from where the loop takes for ever
    options = {"at": "weights", "seed": 0, "trials": 60, "executor": executor, "watchdog": QUICK}
    rows = campaign(model, FOUR, BitFlip(), **options).rows  # type: ignore[arg-type]
    hung = [row for row in rows if row.cause == "hang"]
    assert {row.bit for row in hung} == {30}
    assert {row.outcome for row in hung} == {"due"}
    assert [row.trial for row in rows] == list(range(60))
    assert model.weight.item() == 2.0**-100
    with pytest.raises(TrialError, match="hung"):
        campaign(model, FOUR, BitFlip(), **options, strict=True)  # type: ignore[arg-type]


def deaf(_: nn.Module, weight: float) -> None:
    """Compute for minutes in one native call that holds the interpreter: no alarm is heard before it ends."""
    if weight > 1e6:
        pow(7, 10**9)


class Deaf(nn.Module):
    """The same where the huge value is one that flows, so that whole batches share the fatal pass."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 2)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[2.0**-100], [0.0]]))
            self.linear.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        scores = self.linear(x.flatten(1))
        deaf(self, float(scores.detach().max()))
        return scores


@pytest.mark.slow
def test_a_native_call_that_never_returns_costs_a_worker_and_not_the_campaign() -> None:
    model = Scores(deaf)
    model.weight.data.fill_(2.0**-100)
    options = {"seed": 0, "executor": "processes:2", "watchdog": Watchdog(floor=0.3)}
    rows = campaign(model, FOUR, BitFlip(), at="weights", trials=60, **options).rows  # type: ignore[arg-type]
    hung = [row for row in rows if row.cause == "hang"]
    assert {row.bit for row in hung} == {30}
    assert [row.trial for row in rows] == list(range(60))
    shared = campaign(Deaf(), FOUR, BitFlip(), at="activations:linear", trials=200, batch=8, **options).rows  # type: ignore[arg-type]
    hung = [row for row in shared if row.cause == "hang"]
    assert {(row.bit, row.element) for row in hung} == {(30, 0)}
    assert [row.trial for row in shared] == list(range(200))


def count_up(model: nn.Module, weight: float) -> None:
    """Add the weight to a sum that no output depends on."""
    model.get_buffer("seen").add_(weight)


def remember_negative(model: nn.Module, weight: float) -> Tensor | None:
    """Write only under the fault, and answer as if nothing had happened."""
    if weight >= 0:
        return None
    model.get_buffer("seen").add_(1)
    return torch.tensor([[1.0, 0.0, -1.0]])


def replace_negative(model: nn.Module, weight: float) -> Tensor | None:
    """The same with another tensor under the old name."""
    if weight >= 0:
        return None
    model.seen = model.get_buffer("seen") + 1
    return torch.tensor([[1.0, 0.0, -1.0]])


@pytest.mark.parametrize("react", [remember_negative, replace_negative])
def test_the_golden_bits_with_another_state_left_behind_are_latent(
    react: Callable[[nn.Module, float], Tensor | None],
) -> None:
    model = Scores(react)
    found = by_bit(model)
    assert {bit for bit, row in found.items() if row.outcome == "latent"} == {31}
    assert model.get_buffer("seen").item() == 0  # what a trial leaves is put back before the next


def test_a_state_that_every_pass_writes_is_compared_with_the_golden_one_and_put_back() -> None:
    def react(model: nn.Module, weight: float) -> Tensor:
        count_up(model, weight)
        return torch.tensor([[1.0, 0.0, -1.0]])

    model = Scores(react)
    found = by_bit(model)
    assert model.get_buffer("seen").item() == 0
    assert found[31].outcome == "latent"
    assert found[0].outcome == "latent"  # the sum is one place off
    twice = campaign(model, FOUR, BitFlip(), at="inputs", trials=20, seed=0)
    assert twice["masked"].value == 1  # nothing of an input reaches sum or scores


class Chooser(Hooks):
    """An engine of another name that has chosen whole passes, or not."""

    name, chosen = "test-chooser", "hooks"


class Other(Hooks):
    """An engine that would not know what a pass writes."""

    name = "test-other"


def test_a_state_that_every_pass_writes_needs_whole_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (Chooser, Other):
        monkeypatch.setitem(engines._known, kind.name, kind)

    def react(model: nn.Module, weight: float) -> None:
        count_up(model, weight)

    options = {"at": "weights", "trials": 40, "seed": 0, "rerun": True}
    plain = campaign(Scores(react), FOUR, BitFlip(), **options)  # type: ignore[arg-type]
    assert campaign(Scores(react), FOUR, BitFlip(), **options, engine="test-chooser").rows == plain.rows  # type: ignore[arg-type]
    with pytest.raises(InvalidConfig, match="a pass of the model writes seen") as caught:
        campaign(Scores(react), FOUR, BitFlip(), **options, engine="test-other")  # type: ignore[arg-type]
    assert "engine='hooks'" in caught.value.hint


def test_a_model_that_writes_its_weights_is_refused() -> None:
    def react(model: nn.Module, weight: float) -> None:
        model.get_parameter("weight").data = model.get_parameter("weight").data
        with torch.no_grad():
            model.get_parameter("weight").mul_(1.0)

    with pytest.raises(InvalidConfig, match="writes weight"):
        campaign(Scores(react), FOUR, BitFlip(), at="weights", trials=5)


class Watcher:
    """A guard that sets values above one right, and only reports those below minus one."""

    kind = "test-watcher"

    def __init__(self, site: str, low: float = -math.inf) -> None:
        self.site, self.low = site, low
        self.events: Tensor | None = None
        self.alarms: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.view(len(x), -1)
        self.events = (rows > 2).sum(1)
        self.alarms = (rows < self.low).sum(1)
        return x.clamp(max=2)

    def to_json(self) -> dict[str, object]:
        return {"kind": self.kind, "site": self.site}


def guarded(low: float = -math.inf) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(1, 2))
    with torch.no_grad():
        model[2].weight.copy_(torch.tensor([[1.0], [0.0]]))
        model[2].bias.zero_()
    attach_guard(model, Watcher("1", low))
    return model


def test_a_guard_that_gives_the_golden_bits_back_has_corrected() -> None:
    two = images(2.0, labels=[0])
    rows = campaign(guarded(), two, BitFlip(), at="activations:1", trials=200, seed=0).rows
    above = [row for row in rows if row.bit < 23]  # 2.0 and something
    assert above
    assert {row.outcome for row in above} == {"corrected"}
    assert {row.guard_events for row in above} == {1}
    assert {row.outcome for row in rows if row.bit == 31} == {"critical"}


def test_a_guard_that_acts_without_any_fault_has_corrected_nothing() -> None:
    rows = campaign(guarded(), images(3.0, labels=[0]), BitFlip(), at="weights:2.bias", trials=100, seed=0).rows
    tiny = [row for row in rows if row.bit == 0 and row.element == 0]  # 1e-45 is lost beside 2.0
    assert tiny
    assert {(row.outcome, row.guard_events) for row in tiny} == {("masked", 1)}


def test_an_alarm_that_nothing_settled_is_detected() -> None:
    rows = campaign(guarded(low=-1.0), images(2.0, labels=[0]), BitFlip(), at="activations:1", trials=200, seed=0).rows
    assert {(row.outcome, row.alarms) for row in rows if row.bit == 31} == {("detected", 1)}
