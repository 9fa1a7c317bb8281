"""Oracles: what answers an image, a batch at a time, as one platform does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.errors import InvalidConfig
from holdfast.identification.border.lattice import Lattice
from holdfast.identification.border.setting import EmulatedSetting, Setting, answers, placed, platform_of
from holdfast.identification.border.worker import Worker
from holdfast.identification.platforms import LocalPlatform

Answer = Callable[[Dataset], Tensor]


class Oracle(Protocol):
    """One platform that answers images."""

    @property
    def name(self) -> str:
        """Name of the platform."""
        ...

    @property
    def batch(self) -> int:
        """How many images it computes at a time."""
        ...

    def logits(self, images: Tensor, /) -> Tensor:
        """Return float32 (n, classes) of stored images (n, c, h, w), in consecutive batches; n is a multiple of it."""
        ...

    def fresh(self, images: Tensor, /) -> Tensor | None:
        """Return what a process of its own computes, or None where there is none to start."""
        ...


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
    _ready: list[nn.Module] = field(default_factory=list, compare=False, repr=False)  # copied once for all
    _answers: list[Answer] = field(default_factory=list, compare=False, repr=False)

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
        if not self._answers:
            self._answers.append(answers(self.model, self.platform))
        return self._answers[0](data)

    def fresh(self, images: Tensor) -> Tensor | None:
        """Ask a new interpreter."""
        with Worker.start(self.platform, self.model) as worker:
            return worker.ask(self.lattice.dataset(images))

    @property
    def net(self) -> nn.Module:
        """The model under this setting, with gradients; as it was when first asked."""
        if not self._ready:
            self._ready.append(placed(self.model, self.platform))
        return self._ready[0]


@contextmanager
def open_oracles(
    model: nn.Module, platforms: Iterable[str | Setting | Oracle], lattice: Lattice, *, batch: int | None = None
) -> Iterator[list[Oracle]]:
    """Yield an oracle for each platform; workers of platforms that need a process of their own end with the block.

    Args:
        model: what runs on named local platforms.
        platforms: names of local platforms or emulated formats, settings, or oracles, which are passed on as they are.
        lattice: the images.
        batch: images in one pass of every local platform, instead of its own number.

    Raises:
        UnknownName: no such local platform.
        InvalidConfig: two platforms of one name, or a batch below 1.
    """
    if batch is not None and batch < 1:
        raise InvalidConfig(f"a batch holds at least one image, not {batch}")
    with ExitStack() as stack:
        oracles = [_open(item, model, lattice, batch, stack) for item in platforms]
        _require_distinct(oracles)
        yield oracles


def _open(
    item: str | Setting | Oracle, model: nn.Module, lattice: Lattice, batch: int | None, stack: ExitStack
) -> Oracle:
    if isinstance(item, str):
        item = platform_of(item)
    if not isinstance(item, LocalPlatform | EmulatedSetting):
        return item
    setting = item if batch is None else dataclasses.replace(item, batch_size=batch)
    worker = stack.enter_context(Worker.start(setting, model)) if setting.environment else None
    return Local(model, setting, lattice, worker)


def _require_distinct(oracles: Sequence[Oracle]) -> None:
    names = [oracle.name for oracle in oracles]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidConfig(f"two platforms are called {', '.join(twice)}", hint="a platform is compared with others")


def in_full_batches(oracle: Oracle, images: Tensor, fillers: Tensor) -> Tensor:
    """Return the logits of ``images``; the last batch is filled up, since its size is part of the platform."""
    missing = -len(images) % oracle.batch
    padded = torch.cat((images, fillers[:1].expand(missing, *images.shape[1:]))) if missing else images
    return oracle.logits(padded)[: len(images)]
