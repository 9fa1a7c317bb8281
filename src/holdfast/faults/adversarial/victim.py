"""A model under attack: its score and gradients on the attack images, flips of its stored bits, and exact undo."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from holdfast.errors import InvalidConfig
from holdfast.execution.condition import Flips
from holdfast.execution.run import Progress
from holdfast.faults.adversarial.budget import LinearMemory
from holdfast.faults.adversarial.changes import bits_of, united
from holdfast.faults.adversarial.objective import Objective
from holdfast.models.outputs import logits_of, require_scores
from holdfast.models.site import Site
from holdfast.models.stored import Stored
from holdfast.numerics import bits

_CALLED = ("weights", "buffers")


class Victim:
    """The attacked bits of one model and everything an attack may do with them.

    The model is called with the tensors of ``places`` in the place of its own, so these may also be codes that only a
    training step holds. A model in training mode keeps its running statistics.

    Attributes:
        model: what is called.
        places: the stored bits of each attacked site.
        memory: where they lie.
        objective: what is wanted; an attack that shapes a trigger replaces it.
        images: the attack images as network inputs, shape (n, ...).
        labels: int64, shape (n,).
        forwards: passes of attack images through the model, those with gradients included.
        history: (bits flipped, score) at each step the attack kept.
    """

    def __init__(
        self,
        model: nn.Module,
        places: Mapping[Site, Stored],
        memory: LinearMemory,
        objective: Objective,
        batch: tuple[Tensor, Tensor],
        progress: Progress | None = None,
    ) -> None:
        self.model = model
        self.places = dict(places)
        self.memory = memory
        self.objective = objective
        self.images, self.labels = batch
        self.forwards = 0
        self.history: list[tuple[int, float]] = []
        self._progress = progress
        self._flips: dict[Site, Flips] = {}
        self._buffers = {name: value.clone() for name, value in model.named_buffers()} if model.training else {}

    @property
    def flips(self) -> tuple[Flips, ...]:
        """The flips that are in the model now, one entry per site that has any, sites in order."""
        return tuple(self._flips[site] for site in self.places if site in self._flips)

    def score(self) -> float:
        """Return the objective on the attack images; minus infinity where it is not finite.

        An owner notices a model that answers NaN at once, so flips that make it do so count as the least harmful.
        """
        with torch.no_grad():
            return finite_score(self.objective.score(self.forward_at({}), self.images, self.labels))

    def gradients(self) -> tuple[float, dict[Site, Tensor]]:
        """Return the score and its gradient at the decoded values of each site; what is not finite becomes 0.

        Raises:
            InvalidConfig: a buffer is attacked; torch has no derivative with respect to running statistics.
        """
        if buffers := [site.address for site in self.places if site.kind != "weights"]:
            raise InvalidConfig(f"there is no gradient of {buffers[0]}", hint="attack weights, or draw random-bits")
        leaves = {site.name: place.tensor.detach().requires_grad_() for site, place in self.places.items()}
        with torch.enable_grad():
            value = self.objective.score(self.forward_at(leaves), self.images, self.labels)
            found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
        return finite_score(value), {
            site: gradient.nan_to_num(0, 0, 0) for site, gradient in zip(self.places, found, strict=True)
        }

    def forward_at(self, values: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
        """Return the model as a function of images, with ``values`` (name -> tensor) in the place of what it has."""
        # a flip of anything else, such as a scale, shows in the parameter of the model that it decodes
        own = {site.name: place.tensor.detach() for site, place in self.places.items() if site.kind in _CALLED}
        tensors = own | dict(values)

        def forward(images: Tensor) -> Tensor:
            self.forwards += 1
            # fresh buffers for each pass, since a pass in training mode writes into them
            buffers = {name: value.clone() for name, value in self._buffers.items()}
            return require_scores(logits_of(functional_call(self.model, {**buffers, **tensors}, (images,))))

        return forward

    def values_with(self, site: Site, index: Tensor, mask: Tensor) -> Tensor:
        """Return the values (n,) that the elements at flat ``index`` (n,) would have with ``mask`` (n,) flipped."""
        place = self.places[site]
        place.xor_(index, mask)
        found: Tensor = place.tensor.detach().take(index)
        place.xor_(index, mask)
        return found

    def alternatives(self, site: Site, index: Tensor) -> Tensor:
        """Return, (n, bits), the values at flat ``index`` (n,) with each one bit of them flipped."""
        planes = [bits.one_bit(torch.full_like(index, bit)) for bit in range(site.bits)]
        return torch.stack([self.values_with(site, index, mask) for mask in planes], 1)

    def encoded(self, values: Mapping[Site, Tensor]) -> dict[Site, Tensor]:
        """Return the codes that each site would store for ``values``, in its frozen range; shaped like them."""
        return {site: encoded(self.places[site], value) for site, value in values.items()}

    @contextmanager
    def trying(self, flips: Sequence[Flips]) -> Iterator[None]:
        """Add ``flips`` for the length of the block."""
        self._xor(flips)
        try:
            yield
        finally:
            self._xor(flips)

    def commit(self, flips: Flips) -> None:
        """Add ``flips``; a bit that was flipped before is flipped back."""
        self._xor([flips])
        held = self._flips.get(flips.site)
        self._hold(flips if held is None else united(held, flips))

    def assign(self, flips: Sequence[Flips]) -> None:
        """Make ``flips``, one entry per site, the only ones in the model."""
        self._xor(self.flips)
        self._flips = {}
        for item in flips:
            self._hold(item)
        self._xor(self.flips)

    def restore(self) -> None:
        """Take every flip out again; all bits are then what they were."""
        self.assign([])

    def keep(self, score: float) -> None:
        """Remember in the history that the attack keeps the present flips, which have this score."""
        self.history.append((bits_of(self.flips), score))

    def progress(self, done: int, total: int) -> None:
        """Tell whoever watches that ``done`` of ``total`` steps are done."""
        if self._progress is not None:
            self._progress(done, total)

    def _hold(self, flips: Flips) -> None:
        self._flips.pop(flips.site, None)
        if len(flips.index):
            self._flips[flips.site] = flips

    def _xor(self, flips: Sequence[Flips]) -> None:
        for item in flips:
            self.places[item.site].xor_(item.index, item.mask)


def encoded(place: Stored, values: Tensor) -> Tensor:
    """Return the codes that ``place`` would store for ``values``, in its frozen range; shaped like them."""
    if place.lens is not None:
        return place.lens.format.encode(values, place.lens.qparams).codes
    return bits.int_view(values.to(place.tensor.dtype).contiguous())


def finite_score(score: Tensor) -> float:
    """Return a score as a number; minus infinity where it is not finite, see :meth:`Victim.score`."""
    value = float(score.detach())
    return value if math.isfinite(value) else -math.inf
