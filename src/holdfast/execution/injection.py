"""Inject a fault into a model for the length of a block, and undo it exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from holdfast.execution.condition import Fault, Flips, Population
from holdfast.models import select, stored, tap
from holdfast.models.site import Site
from holdfast.numerics import bits
from holdfast.seeds import Seed, derive

STORED = ("weights", "buffers")


@contextmanager
def inject(
    model: nn.Module, fault: Fault, *, at: str = "weights", seed: int | Seed = 0, example: Tensor | None = None
) -> Iterator[nn.Module]:
    """Run the block with ``fault`` present in ``model``; afterwards every bit is what it was.

    Stored bits are flipped once. Flowing bits are flipped in every forward pass, at the same place of every sample.

    Args:
        model: changed in place inside the block, without a copy.
        fault: the law that draws the flips.
        at: selection of sites, see :func:`holdfast.select`.
        seed: the chip, or the realisation.
        example: one input sample; needed when ``at`` selects what flows.
    """
    population = Population(select(model, at, example))
    with applied(model, fault.flips(population, derive(seed, "inject"))):
        yield model


@contextmanager
def applied(model: nn.Module, flips: Sequence[Flips]) -> Iterator[None]:
    """Apply drawn ``flips`` for the length of the block."""
    with ExitStack() as undo:
        for item in flips:
            if item.site.kind in STORED:
                place = stored(model, item.site)
                place.xor_(item.index, item.mask)
                undo.callback(place.xor_, item.index, item.mask)
        flowing = {item.site: _every_sample(item) for item in flips if item.site.kind not in STORED}
        if flowing:
            undo.enter_context(tap_sites(model, flowing))
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
        output = output.contiguous()
        for row in output.view(-1, item.site.numel):
            bits.xor_(row, item.index, item.mask)
        return output

    return flip
