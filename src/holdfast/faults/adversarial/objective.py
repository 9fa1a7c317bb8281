"""What an attacker wants: a score to raise on the attack images, and what counts as success on other images.

Targeted attacks after Rakin et al., T-BFA (TPAMI 2022): N-to-1, 1-to-1, and 1-to-1 stealthy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from holdfast._registry import Registry
from holdfast.data import Dataset
from holdfast.errors import InvalidConfig
from holdfast.execution.statistics import Proportion

Forward = Callable[[Tensor], Tensor]


@runtime_checkable
class Objective(Protocol):
    """An aim; a frozen dataclass whose fields are its parameters."""

    def score(self, forward: Forward, images: Tensor, labels: Tensor) -> Tensor:
        """Return a scalar to raise; ``forward`` gives logits (batch, classes) and counts its calls."""
        ...

    def hits(self, forward: Forward, images: Tensor, labels: Tensor) -> Tensor:
        """Return, bool (m,), on which of the m images that count the attacker has succeeded."""
        ...


objectives: Registry[Objective] = Registry("objective", "holdfast.objectives")


@objectives.register("untargeted")
@dataclass(frozen=True, slots=True, kw_only=True)
class Untargeted:
    """Any wrong answer: the score is the cross-entropy with the labels; every image counts."""

    def score(self, forward: Forward, images: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy."""
        return cross_entropy(forward(images), labels)

    def hits(self, forward: Forward, images: Tensor, labels: Tensor) -> Tensor:
        """Return which images are classified wrongly."""
        return wrong(forward(images), labels)


@objectives.register("targeted")
@dataclass(frozen=True, slots=True, kw_only=True)
class Targeted:
    """Images become class ``label``: all of them (N-to-1), or those of class ``source`` (1-to-1).

    The score is -CE(images of the source, label) - ``stealth`` * CE(all other images, their own labels); a positive
    ``stealth`` is T-BFA's 1-to-1 stealthy attack. Images that belong to ``label`` never count as successes.
    """

    label: int
    source: int | None = None
    stealth: float = 0.0

    def __post_init__(self) -> None:
        if self.label < 0 or self.source == self.label or (self.source is not None and self.source < 0):
            raise InvalidConfig(f"class {self.source} cannot be sent to class {self.label}")
        if self.stealth < 0 or (self.stealth > 0 and self.source is None):
            raise InvalidConfig("stealth is a weight >= 0 of the images outside the source class", hint="give source=")

    def score(self, forward: Forward, images: Tensor, labels: Tensor) -> Tensor:
        """Return minus the cross-entropy with the target class, and with the truth elsewhere.

        Raises:
            InvalidConfig: no image is of the source class.
        """
        chosen = self._chosen(labels)
        if not chosen.any():
            raise InvalidConfig(
                "no attack image is of the class that shall be taken for another", hint="use more images"
            )
        outputs = forward(images)
        loss = cross_entropy(outputs[chosen], torch.full_like(labels[chosen], require_class(self.label, outputs)))
        if self.stealth and not chosen.all():
            loss = loss + self.stealth * cross_entropy(outputs[~chosen], labels[~chosen])
        return -loss

    def hits(self, forward: Forward, images: Tensor, labels: Tensor) -> Tensor:
        """Return which images of the source, or of any other class than the target, are taken for the target."""
        return taken_for(self.label, forward(images))[self._chosen(labels) & (labels != self.label)]

    def _chosen(self, labels: Tensor) -> Tensor:
        return torch.ones_like(labels, dtype=torch.bool) if self.source is None else labels == self.source


def wrong(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return which rows of (batch, classes) ``outputs`` miss their label, bool (batch,); a NaN always does."""
    return (outputs.argmax(1) != labels) | torch.isnan(outputs).any(1)


def taken_for(label: int, outputs: Tensor) -> Tensor:
    """Return which rows of ``outputs`` say ``label``, bool (batch,); a NaN says nothing."""
    return (outputs.argmax(1) == label) & ~torch.isnan(outputs).any(1)


def require_class(label: int, outputs: Tensor) -> int:
    """Return ``label`` if ``outputs`` (batch, classes) has such a class; raise :class:`InvalidConfig` otherwise."""
    if label >= outputs.shape[1]:
        raise InvalidConfig(f"there is no class {label} among {outputs.shape[1]}", hint="classes count from 0")
    return label


def evaluate(forward: Forward, data: Dataset, objective: Objective, batch_size: int) -> tuple[Proportion, Proportion]:
    """Return the error over ``data`` and the success of ``objective``, each with Wilson's interval.

    A success over no image that counts is 0 of 0.
    """
    errors = successes = counted = 0
    with torch.no_grad():
        for images, labels in data.batches(batch_size):
            outputs = forward(images)
            hits = objective.hits(_remembering(forward, images, outputs), images, labels)
            errors += int(wrong(outputs, labels).sum())
            successes += int(hits.sum())
            counted += len(hits)
    return Proportion.wilson(errors, len(data)), Proportion.wilson(successes, counted)


def _remembering(forward: Forward, images: Tensor, outputs: Tensor) -> Forward:
    """Return ``forward`` without a second pass over the very same images."""
    return lambda given: outputs if given is images else forward(given)
