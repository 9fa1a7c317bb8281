"""The guard that reads stored weights through a code before a forward pass, and mends what the code can mend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor, nn

from holdfast.data import Dataset
from holdfast.errors import IntegrityError, InvalidConfig
from holdfast.hardening.guards.weight_codes import DigestedPages, Reading, WeightCode, weight_codes
from holdfast.hardening.guards.weight_codes_source import PageSource
from holdfast.hardening.harden import methods
from holdfast.models import Site, card, select, stored
from holdfast.models.guard import guards

Action = Literal["repair", "refuse"]


@dataclass(slots=True)
class _Kept:
    """One site and what is kept beside its codes."""

    site: Site
    name: str  # of the tensor in an artifact
    beside: np.ndarray


@guards.register("weight-code")
class WeightCodeGuard:
    """Checks stored weights before every ``period``-th forward pass, the first one included.

    Args:
        site: selection of ``weights`` and ``buffers``.
        code: of :data:`holdfast.hardening.guards.weight_codes.weight_codes`, such as ``secded`` or ``pages:size=4096``.
        period: passes from one check to the next; a fault lives for at most that many.
        action: ``repair`` mends what the code can, zeroes what it says to, and counts alarms for the rest; ``refuse``
            raises :class:`IntegrityError` for the rest.
        source: safetensors file or artifact folder that ``pages`` are read again from; empty for none.
        root: BLAKE3 (hex) of all that is kept beside the weights, from hardening; empty for codes within them.

    Attributes:
        events: int64, shape (1,): elements given back in the last pass.
        alarms: int64, shape (1,): elements or pages that were wrong and could not be given back; zeroed ones are here.

    Raises:
        InvalidConfig: a period below 1 or an unknown action.
    """

    kind = "weight-code"

    def __init__(
        self, site: str, code: str, period: int = 1, action: Action = "repair", source: str = "", root: str = ""
    ) -> None:
        if period < 1 or action not in get_args(Action):
            raise InvalidConfig(f"no check every {period} passes with action {action!r}", hint="repair or refuse")
        self.site, self.code, self.period, self.action = site, code, period, action
        self.source, self.root = source, root
        self._code: WeightCode = weight_codes.build(code)
        self._kept: list[_Kept] | None = None
        self._passes = 0
        self.events: Tensor | None = None
        self.alarms: Tensor | None = None

    def prepare(self, model: nn.Module) -> None:
        """Write the code into the weights of ``model``, once, and take what is kept beside them.

        Raises:
            UnsupportedFormat: a selected site has no bits to keep a code in.
        """
        for site in select(model, self.site):
            place = stored(model, site)
            codes = place.codes.reshape(-1)
            dtype = codes.dtype if place.lens is not None else place.tensor.dtype
            wanted = self._code.written(codes, dtype)
            if wanted is not codes:
                found = Reading.between(codes, wanted, torch.zeros_like(codes, dtype=torch.bool))
                place.xor_(found.index, found.mask)
        self._kept = self._beside(model)
        self.root = self._digest(self._kept)

    def _beside(self, model: nn.Module) -> list[_Kept]:
        lenses = card(model).lenses
        kept = []
        for site in select(model, self.site):
            name = f"{site.name}#codes" if site.name in lenses else site.name
            kept.append(_Kept(site, name, self._code.kept(stored(model, site).codes.reshape(-1))))
        return kept

    def _digest(self, kept: list[_Kept]) -> str:
        if self._code.in_place:
            return ""
        hasher = blake3()
        for item in kept:
            hasher.update(item.beside.tobytes())
        return hasher.hexdigest()

    def before(self, model: nn.Module) -> None:
        """Check the weights if it is their turn.

        Raises:
            IntegrityError: they are not those it was made for, or what is wrong cannot be mended and the action is
                ``refuse``.
        """
        self.events, self.alarms = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
        turn, self._passes = self._passes % self.period == 0, self._passes + 1
        if self._kept is None:
            self._kept = self._beside(model)
            if self._digest(self._kept) != self.root:
                raise IntegrityError("the weights are not those that were coded", hint="harden again after a change")
        if turn:
            for item in self._kept:
                self._check(model, item)

    def after(self, model: nn.Module, output: Any) -> Any:
        """Return the output as it is."""
        return output

    def _check(self, model: nn.Module, item: _Kept) -> None:
        place = stored(model, item.site)
        found = self._code.read(place.codes.reshape(-1), item.beside)
        if not len(found.index):
            return
        if isinstance(self._code, DigestedPages):
            found = self._reread(place.codes.reshape(-1), item, found, self._code.size)
        wrong = int((~found.right).sum())
        if wrong and self.action == "refuse":
            raise IntegrityError(f"{wrong} stored elements of {item.site.name} are wrong beyond repair")
        place.xor_(found.index, found.mask)
        if place.lens is not None:
            place.lens.write(place.tensor)
        self._count(len(found.index) - wrong, wrong)

    def _count(self, events: int, alarms: int) -> None:
        if self.events is not None and self.alarms is not None:
            self.events += events
            self.alarms += alarms

    def _reread(self, codes: Tensor, item: _Kept, found: Reading, size: int) -> Reading:
        """Return the reading that puts back pages from the source, as far as it has those that were digested."""
        parts = [self._page(codes, item, int(first) * codes.element_size() // size, size) for first in found.index]
        joined = [torch.cat(column) for column in zip(*((p.index, p.mask, p.right) for p in parts), strict=True)]
        return Reading(joined[0], joined[1], joined[2])

    def _page(self, codes: Tensor, item: _Kept, number: int, size: int) -> Reading:
        """Return what turns one page into the one that was digested; one element of no change where there is none."""
        first = number * size // codes.element_size()
        held = codes[first : first + size // codes.element_size()]
        wanted = item.beside.reshape(-1, 32)[1 + number].tobytes()
        good = b"" if not self.source else PageSource(Path(self.source)).page(item.name, number * size, size)
        if blake3(good).digest() != wanted:
            return Reading(torch.tensor([first]), torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.bool))
        fresh = torch.frombuffer(bytearray(good), dtype=held.dtype).to(held.device)
        found = Reading.between(held, fresh, torch.ones_like(held, dtype=torch.bool))
        return Reading(found.index + first, found.mask, found.right)

    def to_json(self) -> dict[str, Any]:
        """Return kind and parameters; what is kept beside the weights is taken again when they are loaded."""
        names = ("kind", "site", "code", "period", "action", "source", "root")
        return {name: getattr(self, name) for name in names}


@methods.register("weight-code")
@dataclass(frozen=True, slots=True, kw_only=True)
class WeightCodes:
    """A code over the stored weights that ``at`` selects, checked every ``period`` passes; see the guard."""

    at: str = "weights"
    code: str = "secded"
    period: int = 1
    action: Action = "repair"
    source: str = ""

    def calibrated(self, model: nn.Module, data: Dataset | None) -> WeightCodes:
        """Return itself: nothing is learnt from data."""
        return self

    def guards(self, model: nn.Module) -> Sequence[WeightCodeGuard]:
        """Return the one guard.

        Raises:
            NoSuchSite: ``at`` selects nothing.
            InvalidConfig: it selects what is not stored, or a parameter is out of range.
        """
        if computed := [site.address for site in select(model, self.at) if site.kind not in ("weights", "buffers")]:
            raise InvalidConfig(f"only stored weights and buffers can be coded, not {computed[0]}", hint="at=weights")
        return [WeightCodeGuard(self.at, self.code, self.period, self.action, self.source)]

    def describe(self) -> dict[str, Any]:
        """Return the parameters."""
        return {"method": "weight-code", "at": self.at, "code": self.code, "period": self.period, "action": self.action}
