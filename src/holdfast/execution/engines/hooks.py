"""The plain engine: whole forward passes with taps at the faulty sites. The reference for every other engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from holdfast.errors import NoSuchSite
from holdfast.execution.condition import Flips
from holdfast.execution.engines.catalogue import Images, engines
from holdfast.execution.injection import STORED, applied, flip_rows, tap_sites
from holdfast.execution.plan import Block, Trial, plan_blocks
from holdfast.models.site import Site


@engines.register("hooks")
class Hooks:
    """One whole forward pass per block."""

    name = "hooks"

    def __init__(self, model: nn.Module, images: Images) -> None:
        self._model, self._images = model, images

    def golden(self, inputs: tuple[int, ...]) -> Tensor:
        """Return the fault-free output of a batch of inputs."""
        output: Tensor = self._model(self._images(inputs))
        return output

    def faulty(self, block: Block) -> Tensor:
        """Return the output in which row k met trial k.

        Raises:
            NoSuchSite: a site did not compute in the pass.
        """
        images = self._images([trial.input for trial in block])
        with faulty_pass(self._model, block):
            output: Tensor = self._model(images)
        return output

    def blocks(self, trials: Sequence[Trial], batch: int) -> list[Block]:
        """Cut trials into blocks of at most ``batch``, of one site where they share a pass."""
        return plan_blocks(trials, batch)

    def together(self, block: Block) -> bool:
        """Say whether the trials of ``block`` may share a forward: a stored bit is seen by every row."""
        return all(trial.together for trial in block)


@contextmanager
def faulty_pass(model: nn.Module, block: Block) -> Iterator[None]:
    """Flip the bits of trial k in row k only; stored bits, which every row reads, come in blocks of one trial.

    Raises:
        NoSuchSite: a site did not compute in the pass, so its fault would have vanished unseen.
    """
    memory = [flips for trial in block for flips in trial.flips if flips.site.kind in STORED]
    places: dict[Site, list[tuple[int, Flips]]] = {}
    for row, trial in enumerate(block):
        for flips in trial.flips:
            if flips.site.kind not in STORED:
                places.setdefault(flips.site, []).append((row, flips))
    silent = set(places)
    taps = {site: _flipper(site, items, silent) for site, items in places.items()}
    with applied(model, memory), tap_sites(model, taps):
        yield
    if silent:
        raise NoSuchSite(f"{silent.pop().address} did not compute", hint="the model took another path on this input")


def _flipper(site: Site, items: list[tuple[int, Flips]], silent: set[Site]) -> Callable[[Tensor], Tensor]:
    rows = torch.cat([torch.full_like(flips.index, row) for row, flips in items])
    changes = Flips.joined([flips for _, flips in items])

    def flip(output: Tensor) -> Tensor:
        silent.discard(site)
        return flip_rows(output, rows, changes)

    return flip
