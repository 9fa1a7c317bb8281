"""Inject a fault into a model for the length of a block, and undo it exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig, NoSuchSite
from holdfast.execution.condition import Fault, Flips, Population, by_pass, require_fault
from holdfast.models import Stored, select, stored, tap
from holdfast.models.cache import cached_tensors
from holdfast.models.internals import Unfused, no_fast_path, replacing
from holdfast.models.site import Site
from holdfast.models.sites import TRACED
from holdfast.numerics import bits
from holdfast.seeds import Seed, derive

STORED = ("weights", "buffers", "qparams")


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
    bits are put back when the pass ends; a backward pass through them is therefore refused by autograd. The same
    goes for a fault with a time (``in_pass``), present in some passes only, counted from 0 at the start of the block.

    Steps of fused operators (``internals``) run unfused inside the block. To compare with a clean run, run that inside
    :class:`holdfast.models.Unfused` too.

    Args:
        model: changed in place inside the block, without a copy.
        fault: the law that draws the flips.
        at: selection of sites, see :func:`holdfast.select`.
        seed: the chip, or the realisation.
        example: one input sample; needed when ``at`` selects what flows.

    Raises:
        NoSuchSite: nothing matches ``at``, or, when a pass ends, what the fault was to strike did not compute in it.
        InvalidConfig: no fault, or no module.
    """
    require_fault(fault)
    population, own = population_of(model, at, example), derive(seed, "inject")
    if by_pass(fault):
        faulty = changed_by_pass(model, fault, population, own)
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
                before = place.at(item.index).clone()
                place.xor_(item.index, item.against(before))
                undo.callback(_put_back, place, item.index, before)
        flowing = {item.site: _every_sample(item) for item in flips if item.site.kind not in STORED}
        undo.enter_context(_tap_all(model, flowing, lambda: flowing))
        yield


def drawn_in_pass(fault: Fault, population: Population, seed: Seed, number: int) -> Sequence[Flips]:
    """Return what is present in forward pass ``number``: what a law with a time says, or else a draw for that read."""
    timed: Callable[[Population, Seed, int], Sequence[Flips]] | None = getattr(fault, "in_pass", None)
    if timed is not None:
        return timed(population, seed, number)
    return fault.flips(population, derive(seed, "read", number))


def drawn_in_window(
    fault: Fault, population: Population, seed: Seed, number: int, first: int, last: int | None
) -> Sequence[Flips]:
    """Return what is present in forward pass ``number`` of a fault that is there from pass ``first`` to ``last``."""
    if number < first or (last is not None and number > last):
        return []
    if not getattr(fault, "each_read", False):
        return fault.flips(population, seed)
    return drawn_in_pass(fault.on_chip(seed) if hasattr(fault, "on_chip") else fault, population, seed, number)


def _put_back(place: Stored, index: Tensor, before: Tensor) -> None:
    """Restore the codes at ``index`` to what they were, also where a guard has mended them meanwhile."""
    place.xor_(index, (place.at(index) ^ before).to(torch.int64))


@contextmanager
def changed_by_pass(model: nn.Module, fault: Fault, population: Population, seed: Seed) -> Iterator[None]:
    """Apply what ``fault`` draws for forward pass n of ``model``, n = 0, 1, ..., for the length of that pass."""
    numbers, present = count(), ExitStack()
    law = fault.on_chip(seed) if hasattr(fault, "on_chip") else fault  # some of the law is for life, not for a read
    flowing: dict[Site, Flips] = {}

    def before(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        present.close()  # a pass that was interrupted has left its bits behind
        drawn = drawn_in_pass(law, population, seed, next(numbers))
        flowing.clear()
        flowing.update((item.site, item) for item in drawn if item.site.kind not in (*STORED, "cache"))
        _strike_cache([item for item in drawn if item.site.kind == "cache"], (*args, *kwargs.values()))
        present.enter_context(applied(model, [item for item in drawn if item.site.kind in STORED]))

    def after(_: nn.Module, __: object, ___: object) -> None:
        present.close()

    def tap_of(site: Site) -> Callable[[Tensor], Tensor]:
        return lambda output: _every_sample(flowing[site])(output) if site in flowing else output

    taps = {site: tap_of(site) for site in population.sites if site.kind not in (*STORED, "cache")}
    with ExitStack() as hooks:
        hooks.callback(present.close)
        # drawn before the taps see the pass, undone after they have
        hooks.callback(model.register_forward_pre_hook(before, prepend=True, with_kwargs=True).remove)
        hooks.enter_context(_tap_all(model, taps, lambda: flowing))
        hooks.callback(model.register_forward_hook(after, always_call=True).remove)
        yield


def _strike_cache(flips: Sequence[Flips], arguments: Iterable[object]) -> None:
    """Change what the cache of a pass holds, for good: it lives as long as the text that is being made.

    Raises:
        NoSuchSite: the pass has no such cache.
    """
    if not flips:
        return
    cached = cached_tensors(arguments)
    for item in flips:
        if item.site.name not in cached:
            raise NoSuchSite(f"the pass has no {item.site.address}", hint="generate with a cache")
        _every_sample(item)(cached[item.site.name])


@contextmanager
def _tap_all(
    model: nn.Module, taps: dict[Site, Callable[[Tensor], Tensor]], due: Callable[[], Iterable[Site]]
) -> Iterator[None]:
    """Tap sites, and have every whole forward pass in which one that is ``due`` did not compute end in an error."""
    if not taps:
        yield
        return
    silent: set[Site] = set()

    def heard(site: Site, action: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def run(output: Tensor) -> Tensor:
            silent.discard(site)
            return action(output)

        return run

    def before(_: nn.Module, __: object) -> None:
        silent.clear()
        silent.update(site for site in due() if site.kind != "offload")  # a session has answers of its own

    def after(_: nn.Module, __: object, ___: object) -> None:
        if silent:
            first = min(site.address for site in silent)
            raise NoSuchSite(f"{first} did not compute", hint="the model took another path on this input")

    with ExitStack() as hooks:
        hooks.callback(model.register_forward_pre_hook(before).remove)
        hooks.enter_context(tap_sites(model, {site: heard(site, action) for site, action in taps.items()}))
        hooks.callback(model.register_forward_hook(after).remove)
        yield


@contextmanager
def computed_alike(model: nn.Module, at: str) -> Iterator[None]:
    """Have clean runs compute as runs do in which faults at ``at`` are injected: only then can their bits be compared.

    Torch's transformer layers have a fast path that taps turn off, and operators whose steps are selected run unfused.
    """
    with ExitStack() as stack:
        stack.enter_context(no_fast_path())
        if any(part.strip().partition(":")[0] == "internals" for part in at.split(",")):
            stack.enter_context(Unfused(model))
        yield


@contextmanager
def tap_sites(model: nn.Module, taps: dict[Site, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Tap computed sites; a module that offloads layers taps its own ``offload`` responses."""
    with ExitStack() as stack:
        stack.enter_context(no_fast_path())  # whose kernels compute no site
        steps = {site.name: action for site, action in taps.items() if site.kind == "internals"}
        if steps:  # before the taps, which then see the same operators as ever
            stack.enter_context(replacing(model, steps))
        offload = {site.name: action for site, action in taps.items() if site.kind == "offload"}
        if offload:
            stack.enter_context(model.tap(offload))  # type: ignore[operator]
        inner = {site.name: action for site, action in taps.items() if site.kind not in ("offload", "internals")}
        if inner:
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
    if tuple(output.shape[1:]) not in (site.shape, site.shape[1:]) or output.numel() % site.numel:
        raise InvalidConfig(f"{site.address} gave {tuple(output.shape)}, not samples of {site.shape}")
    target = output.detach().clone() if site.kind == "inputs" else output
    flat = target.detach().contiguous()
    position = site.positions(rows, flips.index, output.numel() // site.numel).to(flat.device)
    bits.xor_(flat, position, flips.against(bits.int_view(flat).view(-1)[position]))
    if flat.data_ptr() != target.data_ptr():
        target.detach().copy_(flat)
    return target
