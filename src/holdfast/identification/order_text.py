"""A summation tree in one line, such as ``pairs 16 of (chain 32 step 16)``: sixteen lanes, folded in pairs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from holdfast.identification.order import OrderTree


@dataclass(frozen=True, slots=True)
class _Run:
    """Equal addends in a row; ``step`` is the distance of successive leaves, None where it varies or they are sums."""

    text: str
    count: int
    step: int | None
    last: int


@dataclass(frozen=True, slots=True)
class _Form:
    """What a subtree looks like: a chain of runs, or (``pairs`` above 1) a perfect tree over equal parts."""

    size: int
    first: int
    runs: tuple[_Run, ...] = ()
    pairs: int = 1
    part: str = ""

    @property
    def text(self) -> str:
        if self.size == 1:
            return "x"
        if self.pairs > 1:
            return f"pairs {self.pairs} of ({self.part})"
        return " then ".join(_repeated(text, len(list(same))) for text, same in groupby(map(_said, self.runs)))


def describe_order(tree: OrderTree) -> str:
    """Return the shape of a tree in words.

    ``chain 8 step 2`` adds eight addends one after the other, two apart; ``pairs 4 of (...)`` adds four equal parts
    pairwise; ``a then b`` adds to the sum so far; ``fused(4)`` joins four addends in one step. Trees of equal text may
    still differ in where their leaves lie: compare trees or digests, not texts.
    """
    forms = [_Form(1, leaf) for leaf in range(tree.n)]
    for children in tree.nodes:
        forms.append(_joined([forms[child] for child in children]))
    return forms[-1].text


def _joined(parts: list[_Form]) -> _Form:
    size, first = sum(part.size for part in parts), parts[0].first
    if len(parts) == 2 and parts[0].size > 1 and parts[0].text == parts[1].text:
        pairs = parts[0].pairs * 2
        return _Form(size, first, pairs=pairs, part=parts[0].part if pairs > 2 else parts[0].text)
    head = max(range(len(parts)), key=lambda place: (parts[place].size, -place))
    rest = [part for place, part in enumerate(parts) if place != head]
    if len(parts) > 2 and parts[head].size == 1:
        return _Form(size, first, (_Run(f"fused({len(parts)})", 1, None, first),))
    added = _addend(rest)
    return _Form(size, first, _grown(_opened(parts[head]), added))


def _opened(form: _Form) -> tuple[_Run, ...]:
    if form.size == 1 or form.pairs > 1:
        return (_Run(form.text, 1, None, form.first),)
    return form.runs


def _addend(rest: list[_Form]) -> _Run:
    if len(rest) == 1:
        return _Run(rest[0].text, 1, None, rest[0].first)
    sums = any(part.size > 1 for part in rest)
    inside = " + ".join(part.text for part in rest) if sums else str(len(rest))
    return _Run(f"fused({inside})", 1, None, 0)


def _grown(runs: tuple[_Run, ...], added: _Run) -> tuple[_Run, ...]:
    """Append an addend, to the last run where it continues that one."""
    last, step = runs[-1], added.last - runs[-1].last
    if last.text != added.text or (last.text == "x" and last.count > 1 and last.step != step):
        return (*runs, added)
    kept = step if last.text == "x" else None
    return (*runs[:-1], _Run(last.text, last.count + 1, kept, added.last))


def _said(run: _Run) -> str:
    if run.text == "x":
        return "one" if run.count == 1 else f"chain {run.count} step {run.step}"
    return _repeated(run.text, run.count)


def _repeated(text: str, count: int) -> str:
    return text if count == 1 else f"{count} times ({text})"
