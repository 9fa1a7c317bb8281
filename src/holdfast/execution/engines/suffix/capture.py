"""Capturing a model: record one pass, then prove the tape on a second sample."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from holdfast.execution.engines.suffix.escapes import Escapes
from holdfast.execution.engines.suffix.golden import Golden
from holdfast.execution.engines.suffix.recorder import Recorder, refusal
from holdfast.execution.engines.suffix.tape import Tape
from holdfast.models.card import card, cards
from holdfast.models.guard import without_guards
from holdfast.models.guard_kinds import Guard
from holdfast.models.outputs import logits_of
from holdfast.models.tap import Watch, ends
from holdfast.numerics import bits


def capture(model: nn.Module, sample: Tensor, *, operands: bool = False) -> Tape:
    """Return the tape of ``model`` on ``sample``, shape (1, ...), with its guards where they run.

    The tape is replayed on this sample and on another one, and both times held bit for bit against the model itself:
    what the tape does not follow (a NumPy detour, a state kept between passes, a path that depends on values) shows.

    Args:
        model: in evaluation mode.
        sample: shape (1, ...), or a batch.
        operands: whether the replay runs steps whole, so that guards that look at operands find these.

    Raises:
        InvalidConfig: the model cannot be replayed; the message says why.
    """
    with torch.inference_mode(False), torch.no_grad():
        tape = _record(model, sample, operands)
        for probe in (sample, _another(sample)):
            if not _same(logits_of(model(probe.clone())), Golden(tape, probe.clone()).output()):
                raise refusal("replaying its operations gives other bits than running it")
    return tape


def _record(model: nn.Module, sample: Tensor, operands: bool) -> Tape:
    chains = _chains(model, operands)
    sample = sample.clone()
    recorder = Recorder(sample, model)
    first, last = ends(model)
    recorder.mark("inputs", first, sample)

    def visit(name: str, value: Tensor) -> Tensor:
        recorder.mark("activations", name, value)
        for number, guard in chains.get(name, ()):
            recorder.guarded(guard, number, value, watch.called if getattr(guard, "operands", False) else None)
        return value

    escapes, watch = Escapes(recorder.depends, refusal), Watch(model, visit)
    with without_guards(model), escapes, recorder, watch:
        output = logits_of(model(sample))
    if isinstance(output, Tensor):
        recorder.mark("outputs", last, output)
    return recorder.tape(output, card(model).guards)


def _chains(model: nn.Module, operands: bool) -> dict[str, list[tuple[int, Guard]]]:
    """Return the guards of each site with their numbers.

    Raises:
        InvalidConfig: a guard works in a way that the tape does not know.
    """
    own = card(model)
    if any(found.guards for found in cards(model) if found is not own):
        raise refusal("a model inside it has guards of its own")
    chains: dict[str, list[tuple[int, Guard]]] = {}
    for number, guard in enumerate(own.guards):
        looks = getattr(guard, "operands", False) and not (operands and getattr(guard, "by_sample", False))
        if not isinstance(guard, Guard) or looks or hasattr(guard, "before"):
            raise refusal(f"its guard {guard.kind} sees more than the output of a site")
        chains.setdefault(guard.site, []).append((number, guard))
    return chains


def _another(sample: Tensor) -> Tensor:
    """Return a sample with other values of the same kind, so that whatever depends on them changes."""
    flipped = sample.flip(-1) if sample.dim() > 1 else sample
    return flipped * 0.75 if sample.is_floating_point() else flipped.roll(1, -1)


def _same(ours: object, theirs: Tensor) -> bool:
    return isinstance(ours, Tensor) and ours.dtype == theirs.dtype and bits.bit_equal(ours, theirs)
