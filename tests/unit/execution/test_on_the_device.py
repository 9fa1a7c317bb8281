"""What a campaign does on a GPU without waiting for it, shown with tensors that have a device and no values."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import holdfast
from holdfast.execution import compare
from holdfast.execution.acted import acted
from holdfast.execution.engines.lockstep.layout import cuts_of, layouts_of, strangers
from holdfast.execution.engines.lockstep.load import Load
from holdfast.execution.engines.lockstep.march import March
from holdfast.execution.engines.lockstep.shelf import Shelf
from holdfast.execution.engines.suffix.capture import capture
from holdfast.execution.engines.suffix.tape import Step
from holdfast.execution.knobs import knobs_of
from holdfast.execution.run import device_of
from holdfast.execution.tasks import Answer
from holdfast.execution.tasks_images import Classification
from tests.unit.execution.suffix.nets import build

AWAY = torch.device("meta")  # has shapes and no values: whoever asks for one gets an error, and no wait


class Counting:
    """Stands in for a guard with counts on a device."""

    def __init__(self, counts: torch.Tensor) -> None:
        self.events = self.alarms = counts


def test_outputs_are_compared_without_waiting() -> None:
    golden, observed = torch.rand(32, 1000, device=AWAY), torch.rand(32, 1000, device=AWAY)
    found = compare(golden, observed)
    for field in dataclasses.fields(found):
        column = getattr(found, field.name)
        assert (column.device, column.shape) == (AWAY, (32,))
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        bool(found.bit_equal.all())  # so that waiting would have shown


def test_outcomes_leave_the_device_in_one_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    data = holdfast.dataset("digits", split="test").take(4)
    exam = Classification().bind(holdfast.models.build_architecture("digits-cnn", seed=0), data)
    transfers = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: transfers.append(tuple(self.shape)) or tolist(self))
    golden = torch.rand(4, 10)
    rows = exam.judge([0, 1, 2, 3], Answer(golden), Answer(golden + torch.tensor([0, 0, 1, 0.1]).unsqueeze(1)))
    assert transfers == [(10, 4)]
    assert [row.outcome for row in rows][:2] == ["masked", "masked"]


def test_counts_of_guards_leave_the_device_in_one_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    transfers = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: transfers.append(tuple(self.shape)) or tolist(self))
    guards = [Counting(torch.tensor([1, 0, 2])), Counting(torch.tensor([0, 4, 0]))]
    found = acted(guards, 3, (torch.tensor([1, 0, 0]), None))
    assert (found.events, found.more, found.alarms) == ([1, 4, 2], [0, 4, 2], [1, 4, 2])
    assert transfers == [(3, 3)]


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_a_batch_is_loaded_and_run_without_waiting(name: str) -> None:
    """The tape is recorded on the CPU; its steps and the shelf then run on tensors of a device without values."""
    model, samples = build(name)
    with torch.no_grad():
        batch = strangers(samples[:1], 4)
        tape = capture(model, batch)
        layouts, _ = layouts_of(tape, batch)
        cuts = cuts_of(tape, 6)
    with torch.no_grad():
        moved = dataclasses.replace(tape, steps=tuple(_moved(step) for step in tape.steps))
        march, shelf = March(model, moved, layouts), Shelf(moved, layouts, cuts, 4, 1 << 30)
        held, places = {0: torch.empty_like(batch, device=AWAY)}, torch.arange(4)
        for start, stop in zip(cuts, (*cuts[1:], len(moved.steps)), strict=True):
            shelf.keep(start, held, places)
            march.run(start, stop, held, Load())
        loaded = shelf.load(cuts[2], places)
        assert {holder.device for holder in loaded.values()} == {AWAY}
        march.run(cuts[2], len(moved.steps), loaded, Load())
        output = moved.output.of(loaded[moved.output.cell])
    assert (output.device, tuple(output.shape)) == (AWAY, (4, 10))


def _moved(step: Step) -> Step:
    reads = tuple(
        read
        if read.constant is None
        else dataclasses.replace(read, constant=torch.empty_like(read.constant, device=AWAY))
        for read in step.reads
    )
    kwargs = {key: AWAY if key == "device" and value is not None else value for key, value in step.kwargs.items()}
    return Step(step.call, step.args, kwargs, reads, step.rewrites, step.makes, step.stored, step.guard)


def test_data_keep_their_digest_wherever_they_are() -> None:
    data = holdfast.dataset("digits", split="test").take(3)
    assert data.to("cpu").digest == data.digest
    assert data.inputs(data.raw.to(AWAY)).device == AWAY


def test_a_cpu_has_no_knobs_of_its_own() -> None:
    assert knobs_of(torch.device("cpu")) == {}
    assert device_of(torch.nn.Identity()) == torch.device("cpu")
