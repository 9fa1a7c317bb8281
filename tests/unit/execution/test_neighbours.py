"""Rows of a batch that depend on each other: no fault of one row is counted in another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.execution import campaign
from holdfast.faults import BitFlip
from holdfast.shielding import int8_model, shield
from tests.nets import trained_digits


class DynamicallyQuantised(nn.Module):
    """Puts its input on the 8-bit grid of the largest value of the whole batch, as dynamic quantisation does."""

    def forward(self, x: Tensor) -> Tensor:
        scale = x.abs().max() / 127
        return torch.clamp(torch.round(x / scale), -128, 127) * scale


class Batched(nn.Module):
    """A net with something at the end that looks along the batch."""

    def __init__(self, end: nn.Module) -> None:
        super().__init__()
        self.net, self.end = trained_digits(), end

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.end(self.net(x))
        return out


class Earlier(nn.Module):
    """Every row has in it those above, never those below."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.3 * (x.cumsum(0) - x)


class Lonely(nn.Module):
    """A row whose value is extreme breaks the pass."""

    def forward(self, x: Tensor) -> Tensor:
        if float(x.detach().abs().max()) > 100:
            raise RuntimeError("out of range")
        return x - x.mean(0, keepdim=True)


def shares(model: nn.Module, data: Dataset, **options: Any) -> tuple[list[str], dict[str, Any]]:
    report = campaign(model, data, BitFlip(), at="activations", trials=200, seed=0, engine="hooks", **options)
    return [row.outcome for row in report.rows], report.plan


@pytest.mark.parametrize("end", [DynamicallyQuantised(), Earlier(), Lonely()], ids=lambda end: type(end).__name__)
def test_no_fault_of_one_row_is_counted_in_another(digits: Dataset, end: nn.Module) -> None:
    model = Batched(end)
    alone, _ = shares(model, digits, batch=1)
    together, plan = shares(model, digits, batch=32)
    assert together == alone
    assert "depends on the inputs beside it" in plan["rows_apart"]


def test_no_fault_of_one_row_is_counted_in_another_within_a_session(digits: Dataset) -> None:
    with shield(int8_model(Batched(DynamicallyQuantised()), digits.take(32))) as session:
        alone, _ = shares(session, digits, batch=1)
        together, plan = shares(session, digits, batch=32)
    assert together == alone
    assert "depends on the inputs beside it" in plan["rows_apart"]


def test_rows_that_keep_to_themselves_share_passes(digits: Dataset) -> None:
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    model = Batched(nn.Identity())
    model.net.register_forward_hook(count)
    _, plan = shares(model, digits, batch=50)
    assert "rows_apart" not in plan
    assert passes < 40


def test_the_words_say_why_no_two_trials_share_a_pass(digits: Dataset) -> None:
    report = campaign(Batched(Earlier()), digits.take(4), BitFlip(), at="activations", trials=8, seed=0)
    assert "One trial a pass: what the model says to an input depends on the inputs beside it." in report.words


def test_what_struck_rows_write_into_the_model_is_put_back(digits: Dataset) -> None:
    class Marked(nn.Module):
        harm: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("harm", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            if float(x.detach().abs().max()) > 100:
                self.harm.fill_(3)
            return x + self.harm

    model = Batched(Marked())
    alone, _ = shares(model, digits, batch=1)
    together, _ = shares(model, digits, batch=32)
    assert together == alone
    assert float(model.end.harm) == 0  # type: ignore[arg-type]


def test_rows_that_mix_before_the_fault_are_asked_alone_too(digits: Dataset) -> None:
    """Where only outputs are struck, no fault reaches another row; what a row says still depends on those beside it."""
    model = nn.Sequential(DynamicallyQuantised(), trained_digits()).eval()
    data = Dataset("scaled", digits.raw.float() * torch.linspace(0.1, 1, len(digits)).view(-1, 1, 1, 1), digits.labels,
                   digits.classes, digits.preprocessing)  # fmt: skip
    tables = []
    for batch in (1, 16):
        report = campaign(model, data, BitFlip(), at="outputs", trials=150, seed=0, engine="hooks", batch=batch)
        tables.append([(row.outcome, row.max_absolute) for row in report.rows])
        assert batch == 1 or report.plan["rows_apart"]
    assert tables[0] == tables[1]
