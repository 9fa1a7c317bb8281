"""Defences of a service that does not want its platform known, and what they cost.

Two kinds: *reductions* change how the model is computed, so that fewer platforms differ (every input by itself, wide
accumulation); *output* defences change what is sent (rounding, noise). :func:`defend` puts any of them around a model.
Noise is made from a secret and the request itself, so asking the same again gives the same noise, and averaging
answers does not remove it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from scipy import stats
from torch import Tensor, nn

from holdfast.errors import InvalidConfig
from holdfast.evidence.digest import digest_bytes
from holdfast.execution import Proportion
from holdfast.identification.evidence import rounded
from holdfast.identification.grid_text import Rounding
from holdfast.seeds import Seed, derive

Call = Callable[[Tensor], Tensor]  # inputs (batch, ...) -> outputs (batch, classes)


class Defence(Protocol):
    """Something put around a model."""

    def around(self, model: nn.Module) -> Call:
        """Return what is served instead of ``model``; the model itself is not changed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundOutputs:
    """Send outputs rounded to a number of decimals.

    Attributes:
        decimals: places that are kept.
    """

    decimals: int

    def around(self, model: nn.Module) -> Call:
        """Return the model with rounded outputs."""
        return lambda inputs: self.send(model(inputs), inputs)

    def send(self, outputs: Tensor, inputs: Tensor) -> Tensor:
        """Return what is sent for ``outputs``."""
        del inputs
        return rounded(outputs.float(), Rounding("decimals", self.decimals))


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Add Gaussian noise that depends on the request and a secret.

    Attributes:
        scale: standard deviation, in units of the outputs; see :func:`noise_scale`.
        secret: key of the noise; who knows it can take the noise off. Keep it as one keeps a signing key.
    """

    scale: float
    secret: Seed

    def __post_init__(self) -> None:
        """Refuse a scale below zero."""
        if not self.scale >= 0 or not math.isfinite(self.scale):
            raise InvalidConfig(f"a scale of noise is finite and not negative, as {self.scale} is")

    def around(self, model: nn.Module) -> Call:
        """Return the model with noisy outputs."""
        return lambda inputs: self.send(model(inputs), inputs)

    def send(self, outputs: Tensor, inputs: Tensor) -> Tensor:
        """Return what is sent for ``outputs``, shape (batch, classes), of ``inputs`` (batch, ...)."""
        wide = outputs.double()
        rows = [self._noise(row, wide.shape[1:]) for row in inputs]
        return (wide + self.scale * torch.stack(rows)).float()

    def _noise(self, request: Tensor, shape: torch.Size) -> Tensor:
        raw = request.detach().contiguous().cpu().numpy().tobytes()
        return torch.from_numpy(derive(self.secret, "noise", digest_bytes(raw)).numpy().normal(size=tuple(shape)))


@dataclass(frozen=True, slots=True)
class OneByOne:
    """Compute every input by itself, so that the load of the service does not show: batch-invariant, and slow."""

    def around(self, model: nn.Module) -> Call:
        """Return the model, called on one input at a time."""
        return lambda inputs: torch.cat([model(row) for row in inputs.split(1)])


@dataclass(frozen=True, slots=True)
class WideReductions:
    """Compute in float64 and round once, to float32, at the end.

    The orders of addition then differ by 2**-53, and two stacks send different words only where that decides a
    rounding: about one word in 2**20.
    """

    def around(self, model: nn.Module) -> Call:
        """Return a float64 copy of the model that takes and returns float32."""
        wide = copy.deepcopy(model).double()
        return lambda inputs: wide(inputs.double()).float()


class Defended(nn.Module):
    """A model behind defences: an ``nn.Module`` like any other."""

    def __init__(self, model: nn.Module, defences: Sequence[Defence]) -> None:
        super().__init__()
        self.model, self._defences = model, tuple(defences)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return what is sent, shape (batch, classes)."""
        served: nn.Module = self.model
        for defence in self._defences:
            served = _Around(defence.around(served))
        return served(inputs)  # type: ignore[no-any-return]


class _Around(nn.Module):
    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call = call

    def forward(self, inputs: Tensor) -> Tensor:
        return self._call(inputs)


def defend(model: nn.Module, *defences: Defence) -> nn.Module:
    """Return ``model`` behind defences, the first one innermost; the model is not changed.

    Raises:
        InvalidConfig: no defence.
    """
    if not defences:
        raise InvalidConfig("there is nothing to defend with", hint="RoundOutputs(decimals=3)")
    return Defended(model, defences)


def noise_scale(references: Sequence[Tensor], *, advantage: float) -> float:
    """Return the noise that hides which of the references answered, from anybody who sees all probes once.

    Between two stacks whose outputs are a distance d apart, no test beats chance by more than the total variation of
    two Gaussians, 2 Phi(d / 2 sigma) - 1; sigma is such that this is ``advantage`` for the two farthest apart. It holds
    for as many outputs as the references have: twice as many distinct probes need sqrt(2) times the noise.

    Args:
        references: outputs of each stack on the same probes.
        advantage: by how much the best test may beat chance, in (0, 1): right at most (1 + advantage) / 2 of the time.

    Raises:
        InvalidConfig: fewer than two references, or an advantage outside (0, 1).
    """
    if len(references) < 2 or not 0 < advantage < 1:
        raise InvalidConfig(f"noise hides two references or more at an advantage in (0, 1), not {advantage}")
    wide = [item.double() for item in references]
    farthest = max(float((a - b).norm()) for place, a in enumerate(wide) for b in wide[:place])
    return farthest / (2 * float(stats.norm.ppf((1 + advantage) / 2)))


@dataclass(frozen=True, slots=True)
class Utility:
    """What a defence costs those who use the outputs.

    Attributes:
        changed: share of inputs whose likeliest class is another one.
        largest: largest absolute change of an output.
        mean: mean absolute change.
    """

    changed: Proportion
    largest: float
    mean: float


def utility(plain: Tensor, served: Tensor) -> Utility:
    """Compare what is sent with what was computed, both of shape (n, classes)."""
    apart = (plain.double() - served.double()).abs()
    changed = int((plain.argmax(dim=1) != served.argmax(dim=1)).sum())
    return Utility(Proportion.wilson(changed, len(plain)), float(apart.max()), float(apart.mean()))
