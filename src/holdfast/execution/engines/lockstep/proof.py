"""The proof that a track gives the bits of whole passes: faults all along the tape, both ways, on one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from holdfast.execution.condition import Flips
from holdfast.execution.engines.hooks import Hooks
from holdfast.execution.engines.lockstep.layout import same, unfit
from holdfast.execution.engines.lockstep.track import Track
from holdfast.execution.injection import applied
from holdfast.execution.plan import Trial
from holdfast.models import sites
from holdfast.models.outputs import logits_of
from holdfast.models.site import Site
from holdfast.numerics.formats import format_of_dtype

_FLOWING, _STORED = 8, 3
_STRIDE, _FROM_TOP = 7919, 12  # a bit that changes much and makes nothing infinite
Item = TypeVar("Item")


def require_equal(model: nn.Module, track: Track) -> None:
    """Strike a batch of ``track`` at places all along the tape, as rows of a batch and in whole passes of ``model``.

    Raises:
        InvalidConfig: some bits differ.
    """
    batch = track.example
    if not same(track.golden(range(track.count)), logits_of(model(batch.clone()))):
        raise unfit("a batch gives other bits as segments than as one pass")
    for trials in _flowing(track):
        padded = (*trials, *(Trial(row, (), row) for row in range(len(trials), track.count)))
        whole = logits_of(Hooks(model, lambda numbers: batch[list(numbers)]).faulty(padded))
        _compare(track, trials, whole[: len(trials)])
    for trials in _stored(model, track):
        whole = torch.cat([_pass(model, trial, batch)[trial.input : trial.input + 1] for trial in trials])
        _compare(track, trials, whole)
    track.shelf.forget()


def _compare(track: Track, trials: Sequence[Trial], whole: Tensor) -> None:
    ours = track.faulty(trials)
    for trial, row, expected in zip(trials, ours, whole, strict=True):
        if not same(row, expected):
            raise unfit(f"a fault in {trial.address[0]} gives other bits in a batch of {track.count} than a pass")


def _pass(model: nn.Module, trial: Trial, batch: Tensor) -> Tensor:
    with applied(model, trial.flips):
        output: Tensor = logits_of(model(batch.clone()))
    return output


def _flowing(track: Track) -> list[list[Trial]]:
    """Return trials of faults all along the tape, then the same in blocks of one, which begin each at its own place."""
    found = []
    for (kind, name), mark in track.tape.marks.items():
        dtype = track.dtypes[mark.read.cell]
        if kind == "activations" and mark.read.size[:1] == (track.count,) and dtype.is_floating_point:
            found.append(Site(kind, name, mark.read.size[1:], format_of_dtype(dtype), dtype.itemsize * 8))
    picked = _evenly(found, min(_FLOWING, track.count))
    trials = [Trial(row, (_flip(site, row),), row) for row, site in enumerate(picked)]
    return [trials, *([trial] for trial in trials if trial.input == 0)] if trials else []


def _flip(site: Site, row: int) -> Flips:
    element = (row * _STRIDE) % site.numel
    return Flips(site, torch.tensor([element]), torch.tensor([1 << max(0, site.bits - _FROM_TOP)]))


def _stored(model: nn.Module, track: Track) -> list[list[Trial]]:
    """Return trials of faults in memory: some that may share a batch, and some that must be alone, each by itself."""
    read = [site for site in sites(model) if (site.kind, site.name) in track.tape.readers]
    lone = [site for site in read if track.alone(Trial(0, (_flip(site, 0),), 0))]
    most = min(_STORED, track.count)
    shared = _struck([site for site in read if site not in lone], most)
    return [*([shared] if shared else []), *([trial] for trial in _struck(lone, most))]


def _struck(read: Sequence[Site], most: int) -> list[Trial]:
    return [Trial(row, (_flip(site, row),), row) for row, site in enumerate(_evenly(read, most))]


def _evenly(items: Sequence[Item], most: int) -> list[Item]:
    if len(items) <= most:
        return list(items)
    return [items[place * len(items) // most] for place in range(most)]
