"""What is asked: one platform that answers images or prompts, a full batch at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.identification.platforms import LocalPlatform
from holdfast.identification.settings import EmulatedSetting, Setting, platform_of


class Oracle(Protocol):
    """One platform that answers images or prompts."""

    @property
    def name(self) -> str:
        """Name of the platform."""
        ...

    @property
    def batch(self) -> int:
        """How many inputs it computes at a time."""
        ...

    def logits(self, inputs: Tensor, /) -> Tensor:
        """Return float32 (n, classes), in consecutive batches; n is a multiple of theirs.

        Inputs are stored images (n, c, h, w), or prompts (n, t) and then classes are the tokens that may follow.
        """
        ...

    def fresh(self, inputs: Tensor, /) -> Tensor | None:
        """Return what a process of its own computes, or None where there is none to start."""
        ...


Made = Callable[[Setting, ExitStack], Oracle]  # an oracle of a local setting, and what ends with the block


@contextmanager
def opened(platforms: Iterable[str | Setting | Oracle], made: Made, *, batch: int | None) -> Iterator[list[Oracle]]:
    """Yield an oracle for each platform: what ``made`` makes of names and settings, and oracles as they are.

    Args:
        platforms: names of local platforms or emulated formats, settings, or oracles.
        made: called with each setting, and with the stack of what is to be closed in the end.
        batch: inputs in one pass of every local platform, instead of its own number.

    Raises:
        UnknownName: no such local platform.
        InvalidConfig: two platforms of one name, or a batch below 1.
    """
    if batch is not None and batch < 1:
        raise InvalidConfig(f"a batch holds at least one input, not {batch}")
    with ExitStack() as stack:
        oracles = [_open(item, made, batch, stack) for item in platforms]
        _require_distinct(oracles)
        yield oracles


def _open(item: str | Setting | Oracle, made: Made, batch: int | None, stack: ExitStack) -> Oracle:
    if isinstance(item, str):
        item = platform_of(item)
    if not isinstance(item, LocalPlatform | EmulatedSetting):
        return item
    return made(item if batch is None else dataclasses.replace(item, batch_size=batch), stack)


def _require_distinct(oracles: Sequence[Oracle]) -> None:
    names = [oracle.name for oracle in oracles]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidConfig(f"two platforms are called {', '.join(twice)}", hint="a platform is compared with others")


def in_full_batches(oracle: Oracle, inputs: Tensor, fillers: Tensor | None = None) -> Tensor:
    """Return the logits of ``inputs``; the last batch is filled up, since its size is part of the platform.

    It is filled with the first of ``fillers``, or of the inputs themselves.
    """
    missing = -len(inputs) % oracle.batch
    filler = (inputs if fillers is None else fillers)[:1]
    padded = torch.cat((inputs, filler.expand(missing, *inputs.shape[1:]))) if missing else inputs
    return oracle.logits(padded)[: len(inputs)]
