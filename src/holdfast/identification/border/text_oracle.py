"""Oracles of language models: prompts of one length in, the logits of the next token out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.identification.border.asking import Oracle, opened
from holdfast.identification.border.setting import host_of, next_logits
from holdfast.identification.border.worker import Worker
from holdfast.identification.platforms.torch_stacks import require_torch
from holdfast.identification.settings import Setting
from holdfast.seeds import Seed, derive

Next = Callable[[Tensor], Tensor]  # int64 prompts (n, t) -> float32 logits (n, vocabulary)


@dataclass(frozen=True)
class TextService:
    """A language model that is a function: int64 prompts (batch, t) to logits (batch, vocabulary) of what follows."""

    name: str
    call: Next
    batch: int = 1

    def logits(self, prompts: Tensor) -> Tensor:
        """Call it once for each batch."""
        with torch.no_grad():
            return torch.cat([self.call(part).float() for part in prompts.split(self.batch)])

    def fresh(self, prompts: Tensor) -> Tensor | None:
        """Return None: nobody here can restart what is behind a function."""
        return None


@dataclass(frozen=True)
class LocalText:
    """A setting of this machine; in a worker where start-up reads it."""

    model: nn.Module
    platform: Setting
    follow: Next

    @property
    def name(self) -> str:
        """Name of the setting."""
        return self.platform.name

    @property
    def batch(self) -> int:
        """Prompts in one pass."""
        return self.platform.batch_size

    def logits(self, prompts: Tensor) -> Tensor:
        """Ask here or in the worker."""
        return self.follow(prompts)

    def fresh(self, prompts: Tensor) -> Tensor | None:
        """Ask a new interpreter."""
        with Worker.start(self.platform, self.model) as worker:
            return worker.ask_next(prompts)


@dataclass(frozen=True)
class Vocabulary:
    """Prompts of one length over ``size`` tokens."""

    size: int
    length: int

    def noise(self, count: int, seed: Seed | int) -> Tensor:
        """Return ``count`` prompts of uniform tokens."""
        drawn = derive(seed, "border", "tokens").numpy().integers(0, self.size, (count, self.length))
        return torch.from_numpy(drawn)


@contextmanager
def open_text_oracles(
    model: nn.Module, platforms: Sequence[str | Setting | Oracle], *, batch: int | None = None
) -> Iterator[list[Oracle]]:
    """Yield an oracle of prompts for each platform; workers end with the block.

    Raises:
        UnknownName: no such local platform.
        InvalidConfig: two platforms of one name, one of another runtime than torch, or a batch below 1.
    """

    def made(setting: Setting, stack: ExitStack) -> Oracle:
        require_torch(host_of(setting))
        if setting.environment:
            return LocalText(model, setting, stack.enter_context(Worker.start(setting, model)).ask_next)
        return LocalText(model, setting, next_logits(model, setting))

    with opened(platforms, made, batch=batch) as oracles:
        yield oracles
