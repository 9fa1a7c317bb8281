"""Golden rows of many inputs: what is alive at the cuts of a tape, and the outputs, row by row on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from holdfast.execution.engines.lockstep.layout import Layouts, live
from holdfast.execution.engines.suffix.tape import Tape

Counts = list[Tensor | None]


class Shelf:
    """Holds the rows of up to ``room`` inputs; the oldest ones give way.

    Args:
        tape: recorded on a batch of ``count`` rows.
        layouts: where the rows are.
        cuts: positions at which a batch may begin.
        count: rows of a batch.
        budget: bytes to use; one batch is kept even if it takes more.
    """

    def __init__(self, tape: Tape, layouts: Layouts, cuts: Sequence[int], count: int, budget: int) -> None:
        self._tape, self._layouts, self.cuts = tape, layouts, tuple(cuts)
        self._live = {cut: live(tape, cut) for cut in cuts}
        self._count, self._budget, self.room = count, budget, count
        self._slots: dict[int, int] = {}  # input -> place
        self._owners: dict[int, int] = {}
        self._next = 0
        self._banks: dict[int, Tensor] = {}
        self._shared: dict[int, Tensor] = {}
        self._outputs: Tensor | None = None
        self._events: dict[tuple[str, int], Tensor] = {}

    def missing(self, numbers: Sequence[int]) -> list[int]:
        """Return those of the inputs that are not here, each once."""
        return [number for number in dict.fromkeys(numbers) if number not in self._slots]

    def reserve(self, numbers: Sequence[int]) -> Tensor:
        """Make room for new inputs, never more at once than ``room``, and return their places, int64.

        What was there is gone from now on, and the new inputs are not here before :meth:`enter`: whatever breaks off
        the pass between the two, a deadline or an interrupt, no input is known without its rows.
        """
        taken = []
        for _ in numbers:
            place = self._next % self.room
            owner = self._owners.get(place)
            if owner is not None and self._slots.get(owner) == place:
                del self._slots[owner]
            self._owners.pop(place, None)
            self._next += 1
            taken.append(place)
        return torch.tensor(taken)

    def enter(self, numbers: Sequence[int], places: Tensor) -> None:
        """Know inputs from now on, whose rows were all kept at ``places``."""
        for number, place in zip(numbers, places.tolist(), strict=True):
            self._owners[place] = number
            self._slots[number] = place

    def forget(self) -> None:
        """Let go of everything."""
        self._slots.clear()
        self._owners.clear()
        self._banks.clear()
        self._shared.clear()
        self._outputs, self._events, self._next = None, {}, 0

    def keep(self, cut: int, held: Mapping[int, Tensor], places: Tensor) -> None:
        """Keep the first rows of what is alive at ``cut``, one for each of ``places``."""
        for cell in self._live[cut]:
            rows = self._layouts[cell]
            if rows is None:
                self._shared.setdefault(cell, held[cell].clone())
            else:
                first = rows.of(held[cell])[: len(places)]
                self._banks[cell] = _written(self._banks.get(cell), first, places, self.room)

    def keep_answers(self, output: Tensor, counts: Mapping[str, Counts], places: Tensor) -> None:
        """Keep the first rows of the output, (B, ...), and of what each guard counted."""
        self._outputs = _written(self._outputs, output[: len(places)], places, self.room)
        for name, found in counts.items():
            for number, count in enumerate(found):
                if count is not None and count.numel() % self._count == 0:
                    rows = count.reshape(self._count, -1)[: len(places)]
                    self._events[name, number] = _written(self._events.get((name, number)), rows, places, self.room)

    def places(self, numbers: Sequence[int]) -> Tensor:
        """Return the places of inputs that are here."""
        return torch.tensor([self._slots[number] for number in numbers])

    def load(self, cut: int, places: Tensor) -> dict[int, Tensor]:
        """Return what is alive at ``cut`` for a batch of the inputs at ``places``, laid out as in a pass."""
        held = {}
        for cell in self._live[cut]:
            rows, shape = self._layouts[cell], self._tape.cells[cell]
            if rows is None:
                held[cell] = self._shared[cell].clone()
                continue
            bank = self._banks[cell]
            held[cell] = torch.empty_strided(shape.size, shape.stride, dtype=bank.dtype, device=bank.device)
            rows.of(held[cell]).copy_(bank.index_select(0, places.to(bank.device)))
        return held

    def outputs(self, places: Tensor) -> Tensor:
        """Return the golden outputs of the inputs at ``places``."""
        if self._outputs is None:
            raise KeyError("nothing was kept")
        return self._outputs.index_select(0, places.to(self._outputs.device))

    def counts(self, name: str, number: int, places: Tensor) -> Tensor | None:
        """Return what guard ``number`` counted in golden passes of the inputs at ``places``, flat."""
        found = self._events.get((name, number))
        return None if found is None else found.index_select(0, places.to(found.device)).flatten()

    def fit(self, least: int) -> None:
        """Settle how many inputs there is room for, from the one batch that was kept; ``least`` in any case."""
        each = sum(bank[:1].nbytes for bank in self._banks.values())
        self.room = max(least, self._budget // max(1, each))


def _written(bank: Tensor | None, rows: Tensor, places: Tensor, room: int) -> Tensor:
    """Write ``rows`` to ``places`` of ``bank``, which grows by doubling up to ``room``."""
    need = int(places.max()) + 1
    if bank is None or len(bank) < need:
        grown = rows.new_empty((min(room, max(need, 0 if bank is None else 2 * len(bank))), *rows.shape[1:]))
        if bank is not None:
            grown[: len(bank)] = bank
        bank = grown
    return bank.index_copy_(0, places.to(bank.device), rows)
