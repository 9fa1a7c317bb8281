"""Inject a fault into a model for the length of a block, and undo it exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.execution.condition import Fault, Flips, Population
from holdfast.models import select, stored, tap
from holdfast.models.site import Site
from holdfast.numerics import bits
from holdfast.seeds import Seed, derive

STORED = ("weights", "buffers", "qparams")
TRACED = ("activations", "inputs", "outputs")


@contextmanager
def inject(
    model: nn.Module,
    fault: Fault,
    *,
    at: str = "weights",
    seed: int | Seed = 0,
    example: Tensor | None = None,
) -> Iterator[nn.Module]:
    """Run the block with ``fault`` present in ``model``; afterwards every bit is what it was.

    Stored bits are flipped once. Flowing bits are flipped in every forward pass, at the same place of every sample. A
    fault of each *read* (``each_read``) is drawn afresh for every forward pass of ``model`` instead, and its stored
    bits are put back when the pass ends; a backward pass through them is therefore refused by autograd.

    Args:
        model: changed in place inside the block, without a copy.
        fault: the law that draws the flips.
        at: selection of sites, see :func:`holdfast.select`.
        seed: the chip, or the realisation.
        example: one input sample; needed when ``at`` selects what flows.
    """
    population, own = population_of(model, at, example), derive(seed, "inject")
    if getattr(fault, "each_read", False):
        faulty = _each_read(model, fault, population, own)
    else:
        faulty = applied(model, fault.flips(population, own))
    with faulty:
        yield model


def population_of(model: nn.Module, at: str, example: Tensor | None) -> Population:
    """Return the bits that ``at`` selects; runs the model only when something that flows is asked for."""
    traced = any(part.strip().startswith(TRACED) for part in at.split(","))
    return Population(select(model, at, example if traced else None), lambda site: stored(model, site).codes.flatten())


@contextmanager
def applied(model: nn.Module, flips: Sequence[Flips]) -> Iterator[None]:
    """Apply drawn ``flips`` for the length of the block."""
    with ExitStack() as undo:
        for item in flips:
            if item.site.kind in STORED:
                place = stored(model, item.site)
                mask = item.against(place.at(item.index))
                place.xor_(item.index, mask)
                undo.callback(place.xor_, item.index, mask)
        flowing = {item.site: _every_sample(item) for item in flips if item.site.kind not in STORED}
        undo.enter_context(tap_sites(model, flowing))
        yield


@contextmanager
def _each_read(model: nn.Module, fault: Fault, population: Population, seed: Seed) -> Iterator[None]:
    """Apply what ``fault`` draws under ``derive(seed, "read", n)`` during forward pass n of ``model``, n = 0, 1, ..."""
    numbers, present = count(), ExitStack()
    law = fault.on_chip(seed) if hasattr(fault, "on_chip") else fault  # some of the law is for life, not for a read
    flowing: dict[Site, Flips] = {}

    def before(_: nn.Module, __: object) -> None:
        present.close()  # a pass that was interrupted has left its bits behind
        drawn = law.flips(population, derive(seed, "read", next(numbers)))
        flowing.clear()
        flowing.update((item.site, item) for item in drawn if item.site.kind not in STORED)
        present.enter_context(applied(model, [item for item in drawn if item.site.kind in STORED]))

    def after(_: nn.Module, __: object, ___: object) -> None:
        present.close()

    def tap_of(site: Site) -> Callable[[Tensor], Tensor]:
        return lambda output: _every_sample(flowing[site])(output) if site in flowing else output

    taps = {site: tap_of(site) for site in population.sites if site.kind not in STORED}
    with ExitStack() as hooks:
        hooks.callback(present.close)
        # drawn before the taps see the pass, undone after they have
        hooks.callback(model.register_forward_pre_hook(before, prepend=True).remove)
        hooks.enter_context(tap_sites(model, taps))
        hooks.callback(model.register_forward_hook(after, always_call=True).remove)
        yield


@contextmanager
def tap_sites(model: nn.Module, taps: dict[Site, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Tap computed sites; a module that offloads layers taps its own ``offload`` responses."""
    with ExitStack() as stack:
        offload = {site.name: action for site, action in taps.items() if site.kind == "offload"}
        if offload:
            stack.enter_context(model.tap(offload))  # type: ignore[operator]
        if inner := {site.name: action for site, action in taps.items() if site.kind != "offload"}:
            stack.enter_context(tap(model, inner))
        yield


def _every_sample(item: Flips) -> Callable[[Tensor], Tensor]:
    def flip(output: Tensor) -> Tensor:
        samples = output.numel() // item.site.numel
        rows = torch.arange(samples).repeat_interleave(len(item.index))
        return flip_rows(output, rows, Flips.joined([item] * samples)) if samples else output

    return flip


def flip_rows(output: Tensor, rows: Tensor, flips: Flips) -> Tensor:
    """Apply change k of ``flips`` to sample ``rows[k]`` (int64, shape (n,)) and return the result.

    Works in place, because the faulty value is what every later reader sees; only a model's input is copied, since it
    belongs to the caller. The memory layout is kept, so that the kernels downstream stay the same.

    Raises:
        InvalidConfig: the output is not made of whole samples of the site's shape.
    """
    site = flips.site
    if output.numel() % site.numel:
        raise InvalidConfig(f"{site.address} gave {tuple(output.shape)}, not samples of {site.shape}")
    target = output.detach().clone() if site.kind == "inputs" else output
    flat = target.detach().contiguous()
    position = (rows * site.numel + flips.index).to(flat.device)
    bits.xor_(flat, position, flips.against(bits.int_view(flat).view(-1)[position]))
    if flat.data_ptr() != target.data_ptr():
        target.detach().copy_(flat)
    return target
