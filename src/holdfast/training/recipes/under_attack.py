"""The memory of one training step as the victim of an attack: flips go into its codes, wherever these lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.faults.adversarial import LinearMemory, Untargeted, Victim
from holdfast.faults.adversarial.victim import finite_score
from holdfast.models.lens import Lens
from holdfast.models.site import Site
from holdfast.models.stored import Stored
from holdfast.training.recipes.memory import Memory
from holdfast.training.recipes.protocol import loss_and_gradients_there

_ROW_BYTES = 8192  # of a layout that no budget of a training asks for


class StepVictim(Victim):
    """Attacks the loss of a batch at the decoded codes of a step, all of them, by flips in those of some layers.

    The codes and values of ``memory`` are changed in place; :meth:`restore` gives every bit back. Passes with gradients
    are those of the training itself, and so CUDA graphs where it has them.
    """

    def __init__(self, model: nn.Module, memory: Memory, batch: tuple[Tensor, Tensor], layers: str) -> None:
        width, form = memory.format.bits, memory.format
        places = {
            Site("weights", name, tuple(item.codes.shape), form.name, width): Stored(
                memory.clean[name], Lens(item.codes, dict(item.qparams), form)
            )
            for name, item in memory.encoded.items()
            if fnmatchcase(name, layers)
        }
        if not places:
            raise InvalidConfig(f"no trainable parameter matches {layers!r}", hint="layers=* attacks all")
        super().__init__(model, places, LinearMemory.of(places, _ROW_BYTES), Untargeted(), batch)
        self._step = memory

    def gradients(self) -> tuple[float, dict[Site, Tensor]]:
        """Return the loss and its gradient at the decoded values of each site; what is not finite becomes 0."""
        result, found = loss_and_gradients_there(
            self.model, self._step.clean, self.images, self.labels, keep_buffers=True
        )
        self.forwards += 1
        at = dict(zip(self._step.clean, found, strict=True))
        return finite_score(result[0]), {site: at[site.name].nan_to_num(0, 0, 0) for site in self.places}

    def forward_at(self, values: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
        """Return the model as a function of images, at the decoded codes of the step and ``values``."""
        return super().forward_at({**self._step.clean, **values})

    def encoded(self, values: Mapping[Site, Tensor]) -> dict[Site, Tensor]:
        """Return the codes of ``values`` in the ranges of the step, by kernels where these hold the step's codes."""
        resident = self._step.resident
        found = None if resident is None else resident.recoded({site.name: item for site, item in values.items()})
        return super().encoded(values) if found is None else {site: found[site.name] for site in values}

    def keep(self, score: float) -> None:
        """Keep no history: nobody asks for that of a step, and to count bits would wait for the device."""
