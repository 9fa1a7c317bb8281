"""Oracles: what answers an image, a batch at a time, as one platform does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.identification.border.asking import Oracle, opened
from holdfast.identification.border.lattice import Lattice
from holdfast.identification.border.setting import answers, placed
from holdfast.identification.border.worker import Worker
from holdfast.identification.settings import Setting

Answer = Callable[[Dataset], Tensor]


@dataclass(frozen=True)
class Service:
    """A platform that is a function from a batch of network inputs to logits, as a client of a remote service is.

    Attributes:
        call: float32 inputs (batch, c, h, w) to logits (batch, classes).
    """

    name: str
    call: Callable[[Tensor], Tensor]
    lattice: Lattice
    batch: int = 1

    def logits(self, images: Tensor) -> Tensor:
        """Call it once for each batch."""
        with torch.no_grad():
            parts = [self.call(self.lattice.inputs(part)).float() for part in images.split(self.batch)]
        return torch.cat(parts)

    def fresh(self, images: Tensor) -> Tensor | None:
        """Return None: nobody here can restart what is behind a function."""
        return None


@dataclass(frozen=True)
class Local:
    """A setting of this machine, in this process or, where start-up reads the setting, in a worker that stays."""

    model: nn.Module
    platform: Setting
    lattice: Lattice
    worker: Worker | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """Name of the setting."""
        return self.platform.name

    @property
    def batch(self) -> int:
        """Images in one pass."""
        return self.platform.batch_size

    def logits(self, images: Tensor) -> Tensor:
        """Run the images here or in the worker."""
        data = self.lattice.dataset(images)
        if self.worker is not None:
            return self.worker.ask(data)
        return self._answer(data)

    def fresh(self, images: Tensor) -> Tensor | None:
        """Ask a new interpreter."""
        with Worker.start(self.platform, self.model) as worker:
            return worker.ask(self.lattice.dataset(images))

    @cached_property
    def net(self) -> nn.Module:
        """The model under this setting, with gradients; copied once, when it is first asked for."""
        return placed(self.model, self.platform)

    @cached_property
    def _answer(self) -> Answer:
        return answers(self.model, self.platform, lambda: self.net)


@contextmanager
def open_oracles(
    model: nn.Module, platforms: Iterable[str | Setting | Oracle], lattice: Lattice, *, batch: int | None = None
) -> Iterator[list[Oracle]]:
    """Yield an oracle of images for each platform; workers, where a platform needs its own process, end with the block.

    Args:
        model: what runs on named local platforms.
        platforms: names of local platforms or emulated formats, settings, or oracles, which are passed on as they are.
        lattice: the images.
        batch: images in one pass of every local platform, instead of its own number.

    Raises:
        UnknownName: no such local platform.
        InvalidConfig: two platforms of one name, or a batch below 1.
    """

    def made(setting: Setting, stack: ExitStack) -> Oracle:
        worker = stack.enter_context(Worker.start(setting, model)) if setting.environment else None
        return Local(model, setting, lattice, worker)

    with opened(platforms, made, batch=batch) as oracles:
        yield oracles
