"""What guards are given, when they run, and that nothing else of the model is touched."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.errors import InvalidConfig, NoSuchSite
from holdfast.execution import inject
from holdfast.faults import BitFlip
from holdfast.models import Operands, alarms_of, attach_guard, card, tap
from holdfast.models.guard import WholeModelGuard, guards_by_site, without_guards
from holdfast.numerics.bits import bit_equal


class Look:
    """Notes what it got and changes nothing."""

    kind = "look"
    events: Tensor | None = None

    def __init__(self, site: str) -> None:
        self.site, self.seen = site, []

    def __call__(self, x: Tensor) -> Tensor:
        self.seen.append(x.clone())
        return x

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "site": self.site}


class LookAtOperands(Look):
    operands = True

    def __call__(self, x: Tensor, operands: Operands) -> Tensor:
        self.seen.append((operands, operands.again()))
        return x


class Recompute(LookAtOperands):
    def __call__(self, x: Tensor, operands: Operands) -> Tensor:
        again = operands.again()
        self.events = (again != x).flatten(1).sum(1)
        return again


class Vote:
    """Puts weights back before a pass and shifts the output after it."""

    kind, site = "vote", ""

    def __init__(self, model: nn.Module) -> None:
        self.kept, self.events = model.fc.weight.detach().clone(), None
        self.outputs: list[Tensor] = []

    def before(self, model: nn.Module) -> None:
        self.events = (model.fc.weight != self.kept).sum().view(1)
        with torch.no_grad():
            model.fc.weight.copy_(self.kept)

    def after(self, model: nn.Module, output: Tensor) -> Tensor:
        self.outputs.append(output.clone())
        return output + 1

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "site": self.site}


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(self.fc(x), dim=-1) + 100


class Outer(nn.Module):
    """Adds, and calls what adds too, and a module that is none of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()

    def forward(self, x: Tensor) -> Tensor:
        return nn.Softmax(dim=1)(x + self.inner(x)) + 1


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.fc = Outer(), Outer(), nn.Linear(4, 3)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return self.fc(self.second(self.first(x)) * scale)


@pytest.fixture
def model() -> nn.Module:
    return Model().eval()


x = torch.rand(2, 4, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_a_guard_with_operands_sees_the_module_and_its_arguments(model):
    attach_guard(model, guard := LookAtOperands("fc"))
    y = model(x, scale=2.0)
    ((operands, again),) = guard.seen
    assert operands.call is model.fc
    assert torch.equal(operands.args[0], model.second(model.first(x)) * 2.0)
    assert operands.kwargs == {}
    assert bit_equal(again, y)


@torch.no_grad()
def test_a_guard_with_operands_sees_the_function_and_its_arguments(model):
    attach_guard(model, guard := LookAtOperands("first.inner/softmax"))
    model(x)
    ((operands, again),) = guard.seen
    assert operands.call is F.softmax
    assert operands.kwargs["dim"] == -1
    assert torch.equal(again, torch.softmax(model.first.inner.fc(x), -1))


@torch.no_grad()
def test_computing_again_does_not_meet_the_fault_of_a_tap(model):
    golden = model(x)
    attach_guard(model, guard := Recompute("first.inner.fc"))
    with tap(model, {"first.inner.fc": lambda value: value * 0 - 7}):
        assert bit_equal(model(x), golden)
    assert guard.events.tolist() == [4, 4]


@torch.no_grad()
@pytest.mark.parametrize("site", ["first/add", "first/add#1", "second/add", "first.inner/add", "first/softmax"])
def test_operations_belong_to_the_module_that_calls_them(model, site):
    """Of every place, a guard sees what a tap sees, though only the owner's forward is watched."""
    attach_guard(model, guard := Look(site))
    seen: list[Tensor] = []
    with tap(model, {site: lambda value: seen.append(value.clone()) or value}):
        model(x)
    assert len(guard.seen) == len(seen) == 1
    assert bit_equal(guard.seen[0], seen[0])


@torch.no_grad()
def test_hooks_stay_on_guarded_modules_only(model):
    attach_guard(model, Look("fc"))
    attach_guard(model, Look("first/add"))
    for _ in range(3):
        model(x)
    hooked = {name for name, item in model.named_modules() if item._forward_hooks or item._forward_pre_hooks}
    assert hooked == {"", "fc", "first"}
    assert len(model.fc._forward_hooks) == 1
    assert torch.overrides._len_torch_function_stack() == 0


@torch.no_grad()
def test_a_module_called_by_itself_is_not_guarded(model):
    attach_guard(model, guard := Look("first.inner.fc"))
    model(x)
    model.first(x)
    assert len(guard.seen) == 1


@torch.no_grad()
def test_removed_guards_do_not_run(model):
    attach_guard(model, guard := Look("fc"))
    model(x)
    with without_guards(model):
        model(x)
    assert len(guard.seen) == 1
    model(x)
    assert len(guard.seen) == 2
    card(model).guards.clear()
    model(x)
    assert len(guard.seen) == 2
    assert not model.fc._forward_hooks


@torch.no_grad()
def test_a_pass_that_fails_or_is_interrupted_leaves_nothing_behind(model):
    attach_guard(model, guard := Look("first/add#1"))
    attach_guard(model, Look("first/add"))
    for error in (RuntimeError, KeyboardInterrupt):

        def fail(value: Tensor, error: type[BaseException] = error) -> Tensor:
            raise error

        with pytest.raises(error), tap(model, {"first.inner.fc": fail}):
            model(x)
        assert torch.equal(x + x, 2 * x)  # nothing takes this sum for one of the model
    assert guard.seen == []
    model(x)
    assert len(guard.seen) == 1
    assert torch.overrides._len_torch_function_stack() == 0


@torch.no_grad()
def test_a_copy_has_hooks_of_its_own(model):
    attach_guard(model, guard := Look("first/add"))
    attach_guard(model, Look("fc"))
    model(x)
    twin = copy.deepcopy(model)
    twin(x)
    assert len(guard.seen) == 1
    assert [len(item.seen) for item in card(twin).guards] == [2, 2]
    assert len(twin.fc._forward_hooks) == len(twin.first._forward_hooks) == 1


@torch.no_grad()
def test_a_guarded_model_can_be_pickled_as_worker_processes_do(model):
    attach_guard(model, Look("first/add"))
    attach_guard(model, Look("fc"))
    golden = model(x)
    again = pickle.loads(pickle.dumps(model))
    assert bit_equal(again(x), golden)
    assert [len(item.seen) for item in card(again).guards] == [2, 2]


@torch.no_grad()
def test_a_guard_of_the_whole_model_sees_faults_first(model):
    vote = Vote(model)
    golden = model(x)
    attach_guard(model, vote)
    assert isinstance(vote, WholeModelGuard)
    assert guards_by_site(card(model).guards) == {}
    with inject(model, BitFlip(), at="weights:fc.weight", seed=0):
        assert bit_equal(model(x), golden + 1)
        assert vote.events.tolist() == [1]
    model.fc.weight.copy_(vote.kept)
    with tap(model, {"output": lambda value: value * 0 + 5}):
        assert torch.equal(model(x), torch.full((2, 3), 6.0))
    assert torch.equal(vote.outputs[-1], torch.full((2, 3), 5.0))


@torch.no_grad()
def test_a_guard_of_the_whole_model_is_not_asked_about_a_failed_pass(model):
    attach_guard(model, vote := Vote(model))
    with pytest.raises(RuntimeError):
        model(torch.rand(2, 5))
    assert vote.outputs == []


def test_alarms_are_optional(model):
    guard = Look("fc")
    assert alarms_of(guard) is None
    guard.alarms = torch.tensor([0, 2])
    assert alarms_of(guard).tolist() == [0, 2]


def test_what_is_no_guard_is_refused(model):
    with pytest.raises(InvalidConfig, match="no guard"):
        attach_guard(model, object())
    with pytest.raises(NoSuchSite, match="computes no fc/linear"):
        attach_guard(model, Look("fc/linear"))
