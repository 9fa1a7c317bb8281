"""From times of single calls to the laws of a machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import nnls

from holdfast.shielding.planner.laws import Law, Laws, Machine, by_plane, wire_bytes
from holdfast.shielding.planner.small import ELEMENTWISE

_ALL = (0, 1, 2, 3, 4, 5)  # columns of a law's sizes
_BASE, _OUTPUT, _INPUT = 0, 4, 5
_ENDS = (_BASE, _OUTPUT, _INPUT)
_LEAST = 0.05  # share of a round trip that is the product at least, whatever the way there and back seems to take


class Turn:
    """One call to time again and again; the least seconds of each of its phases. It sends ``planes`` byte planes."""

    def __init__(self, law_sizes: list[float], kind: str, run: Callable[[], dict[str, float]], planes: int = 1) -> None:
        self.sizes, self.kind, self._run, self.planes = law_sizes, kind, run, planes
        self.least: dict[str, float] = {}

    def __call__(self) -> None:
        for phase, seconds in self._run().items():
            self.least[phase] = max(min(self.least.get(phase, np.inf), seconds), 1e-9)


def fitted_machine(
    here: Sequence[Turn], there: Sequence[Turn], small: Sequence[Turn], *, accelerated: bool = False
) -> Machine:
    """Fit everything to the least times of all turns.

    Args:
        here: layers in the trusted world; the last two are those whose round trips give the price of the way.
        there: the same through the session, in the clear and then, but for those two, blinded.
        small: trusted nodes that are no linear layers.
        accelerated: whether the worker computes on another kind of device than the trusted world. Then a model that is
            not shielded at all computes there too, and the little product of the longest message takes it no time;
            else both are taken to be those of the trusted world.
    """
    *clear, tiny, bulk = (turn for turn in there if turn.kind.startswith("verified"))  # the last two are ways alone
    empty = tiny.least["remote"]
    way = bulk.least["remote"] - empty - (0.0 if accelerated else here[-1].least["product"])
    bandwidth = _bytes(bulk) / max(way, 1e-9)
    blinded = [turn for turn in there if turn.kind.startswith("blinded")]
    handled = sum(turn.sizes[_INPUT] + turn.sizes[_OUTPUT] for turn in blinded)
    families = dict.fromkeys(turn.kind for turn in small)
    trusted = _by_kind(here[:-2], "", lambda turn: turn.least["product"])
    laws = {name: law([turn for turn in small if turn.kind == name], lambda turn: turn.least["call"])
            for name in families}  # fmt: skip
    big = max((turn for turn in small if turn.kind == ELEMENTWISE), key=lambda turn: turn.sizes[_OUTPUT])

    def product(turn: Turn) -> float:
        """What is left of a round trip without the way there and back."""
        spent = turn.least["remote"]
        return max(spent - empty - _bytes(turn) / bandwidth, _LEAST * spent)

    worker = _by_kind(clear, "verified ", product)
    return Machine(
        trusted=trusted,
        open=worker if accelerated else trusted,
        worker=worker,
        masked=_by_kind(blinded, "blinded ", product),
        check=_by_kind(clear, "verified ", lambda turn: turn.least["check"]),
        step=max(laws[ELEMENTWISE].base, 1e-9),
        elements=big.sizes[_OUTPUT] / big.least["call"],
        pads=handled / sum(turn.least["masks"] for turn in blinded),
        bandwidth=bandwidth,
        crossing=max(tiny.least["wait"], empty),
        handling=law(here[:-2], lambda turn: turn.least["handling"], _ENDS),
        masks=law(blinded, lambda turn: turn.least["masks"], _ENDS),
        small=laws,
    )


def _bytes(turn: Turn) -> float:
    """Return the bytes of a question and its answer."""
    return wire_bytes(turn.planes, turn.sizes[_INPUT], turn.sizes[_OUTPUT])


def _by_kind(turns: Sequence[Turn], prefix: str, seconds: Callable[[Turn], float]) -> Laws:
    found = []
    for kind in ("conv2d", "linear"):
        same = [turn for turn in turns if turn.kind == f"{prefix}{kind}"]
        found.append(fitted([by_plane(turn.sizes, turn.planes) for turn in same], [seconds(turn) for turn in same]))
    return Laws(conv2d=found[0], linear=found[1])


def law(turns: Sequence[Turn], seconds: Callable[[Turn], float], columns: Sequence[int] = _ALL) -> Law:
    """Return the law of some turns."""
    return fitted([turn.sizes for turn in turns], [seconds(turn) for turn in turns], columns)


def fitted(rows: Sequence[Sequence[float]], times: Sequence[float], columns: Sequence[int] = _ALL) -> Law:
    """Return the law that comes closest: least squares of relative errors, prices of at least 0.

    Args:
        rows: sizes of each call, see :func:`~holdfast.shielding.planner.laws.sizes`.
        times: seconds of each.
        columns: which sizes may have a price.
    """
    relative = np.array(rows)[:, list(columns)] / np.array(times)[:, None]
    widths = np.maximum(relative.max(0), np.finfo(float).tiny)
    prices, _ = nnls(relative / widths, np.ones(len(times)))
    names = [list(Law.__dataclass_fields__)[column] for column in columns]
    return Law(**dict(zip(names, (prices / widths).tolist(), strict=True)))
