"""``holdfast border --check``: labels of saved border inputs, then and now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.cli._common import aligned, counted, emit, say
from holdfast.errors import VerificationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from holdfast.identification.border import Again, Demands


def check_again(model: nn.Module, folder: Path, platforms: Sequence[str], demands: Demands, json: bool) -> None:
    """Ask about saved inputs again and tell; raise :class:`VerificationError` where a label is not what it was."""
    from holdfast.identification.border import recheck

    found = recheck(folder, model, platforms=platforms, demands=demands)
    for line in aligned([("input", "platform", "then", "now", "margin", "agree"), *map(_cells, found)]):
        say(line)
    broken = [item for item in found if not item.holds]
    if json:
        emit({"folder": str(folder), "inputs": [_value(item) for item in found], "changed": len(broken)})
    if broken:
        first = broken[0]
        raise VerificationError(
            f"{counted(len(broken), 'label')} of {len(found)} changed: border-{first.number:03d}.png on "
            f"{first.recorded.platform} was {first.recorded.label}" + _now(first),
            hint="this is another platform than the recorded one of that name, or another version of its software",
        )
    say(f"all {counted(len(found), 'label')} hold, each asked {sum(found[0].found.asked.values())} times")


def _now(item: Again) -> str:
    return f", is {item.found.label}" if item.found.label is not None else f"; {item.found.complaint}"


def _cells(item: Again) -> tuple[str, ...]:
    asked, agreed = item.found.asked, item.found.agreed
    then, now = (str("-" if part.label is None else part.label) for part in (item.recorded, item.found))
    ways = ", ".join(f"{way} {agreed[way]}/{count}" for way, count in asked.items())
    return f"border-{item.number:03d}.png", item.recorded.platform, then, now, f"{item.found.margin:.3g}", ways


def _value(item: Again) -> dict[str, Any]:
    return {
        "input": item.number,
        "platform": item.recorded.platform,
        "then": item.recorded.label,
        "now": item.found.label,
        "holds": item.holds,
        "found": item.found.to_json(),
    }
