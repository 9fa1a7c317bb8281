"""The card of a model: what Holdfast knows about a plain ``nn.Module`` beyond its tensors.

It hangs on the root module, survives ``copy.deepcopy``, and is what ``model.json`` stores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from holdfast.evidence.lineage import Step
from holdfast.models.subject import require_module

if TYPE_CHECKING:
    from holdfast.models.guard_kinds import AnyGuard
    from holdfast.models.lens import Lens

_KEY = "_holdfast"


@dataclass
class Card:
    """Architecture, history, stored codes and guards of one model."""

    architecture: str | None = None  # specification that rebuilds the module, e.g. "cifar-resnet20"
    lineage: list[Step] = field(default_factory=list)
    lenses: dict[str, Lens] = field(default_factory=dict)  # parameter name -> its stored codes
    guards: list[AnyGuard] = field(default_factory=list)
    input_shape: tuple[int, ...] | None = None  # one sample, without the batch dimension
    classes: tuple[str, ...] = ()
    preprocessing: Mapping[str, Any] = field(default_factory=dict)


def card(model: nn.Module) -> Card:
    """Return the card of ``model``, creating an empty one on first use.

    Raises:
        InvalidConfig: it is no module.
    """
    require_module(model)
    found = model.__dict__.get(_KEY)
    if not isinstance(found, Card):
        found = model.__dict__[_KEY] = Card()
    return found


def cards(model: nn.Module) -> Iterator[Card]:
    """Return the cards that hang on ``model`` and on models inside it."""
    for module in model.modules():
        if isinstance(found := module.__dict__.get(_KEY), Card):
            yield found
