"""How one fault travels: what differs from the golden run at every place that computes, from first to last."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig
from holdfast.execution.condition import Flips
from holdfast.execution.engines.hooks import faulty_pass
from holdfast.execution.plan import Trial
from holdfast.execution.row import Row
from holdfast.execution.run import one_thread
from holdfast.models.outputs import logits_of
from holdfast.models.site import Site
from holdfast.models.subject import evaluating
from holdfast.models.tap import Watch, ends
from holdfast.numerics import bits
from holdfast.numerics.bits import one_bit


@dataclass(frozen=True, slots=True)
class Ripple:
    """What a fault left of one place's output.

    Attributes:
        place: name of the module or operation, in order of computation; the last one is the model's output.
        changed: share of the elements whose bits differ, 0..1.
        largest: largest difference over the largest golden magnitude; infinite where a NaN or an infinity came out,
            or where the output has another shape.
    """

    place: str
    changed: float
    largest: float


def one_bit_trial(site: Site, row: Row) -> Trial:
    """Return the trial whose one flipped bit a row of the table tells."""
    mask = one_bit(torch.tensor([row.bit]))
    return Trial(row.trial, (Flips(site, torch.tensor([row.element]), mask),), row.input)


def propagation(model: nn.Module, data: Dataset, trial: Trial) -> list[Ripple]:
    """Run ``trial`` and its golden run side by side and return what differs at every place, in order.

    Guards act as they would in the campaign, so a fault that one of them corrects ends there.

    Args:
        model: unchanged; it runs twice, on one image, and the outputs of all its places are kept meanwhile.
        data: the campaign's dataset.
        trial: for example from :func:`holdfast.execution.plan.draw_trials`.

    Raises:
        InvalidConfig: the model computes other places under the fault than without it.
    """
    image = data.batch(torch.tensor([trial.input]))[0]
    with torch.no_grad(), one_thread(), evaluating(model):
        golden = _seen(model, image)
        with faulty_pass(model, (trial,)):
            observed = _seen(model, image)
    if [name for name, _ in golden] != [name for name, _ in observed]:
        raise InvalidConfig("the fault sent the model along another path", hint="its trace cannot be compared")
    return [_ripple(name, was, now) for (name, was), (_, now) in zip(golden, observed, strict=True)]


def _seen(model: nn.Module, image: Tensor) -> list[tuple[str, Tensor]]:
    """Return the output of every place: copied, since what comes later may write into it."""
    found: list[tuple[str, Tensor]] = []

    def visit(name: str, value: Tensor) -> Tensor:
        found.append((name, value.detach().clone()))
        return value

    with Watch(model, visit):
        output = logits_of(model(image))
    if isinstance(output, Tensor):
        found.append((ends(model)[1], output.detach().clone()))
    return found


def _ripple(place: str, golden: Tensor, observed: Tensor) -> Ripple:
    if golden.shape != observed.shape or golden.dtype != observed.dtype:
        return Ripple(place, 1.0, math.inf)
    differs = bits.int_view(golden.contiguous()) != bits.int_view(observed.contiguous())
    if not bool(differs.any()):
        return Ripple(place, 0.0, 0.0)
    changed = float(differs.double().mean())
    if not bool(torch.isfinite(observed).all()):
        return Ripple(place, changed, math.inf)
    distance = float((golden.double() - observed.double()).abs().amax())
    return Ripple(place, changed, distance / max(float(golden.double().abs().amax()), 1e-300))


def vanished(trace: Sequence[Ripple]) -> str | None:
    """Return the first place after the fault at which, and behind which, nothing differs; None where it came out."""
    last = max((number for number, ripple in enumerate(trace) if ripple.changed), default=-1)
    return trace[last + 1].place if 0 <= last < len(trace) - 1 else None
