"""``holdfast border --check``: labels of saved border inputs, then and now."""

from __future__ import annotations

from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.cli._common import aligned, counted, emit, say
from holdfast.errors import VerificationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from holdfast.identification.border import Again, Demands, Naming


def check_again(model: nn.Module, folder: Path, platforms: Sequence[str], demands: Demands, json: bool) -> None:
    """Ask about saved inputs again and tell; raise :class:`VerificationError` where a label is not what it was."""
    from holdfast.identification.border import naming, recheck

    found = recheck(folder, model, platforms=platforms, demands=demands)
    named = naming(found)
    for line in aligned([("input", "platform", "then", "now", "margin", "agree"), *map(_cells, found)]):
        say(line)
    broken = [item for item in found if not item.holds]
    if json:
        told = {"folder": str(folder), "inputs": [_value(item) for item in found], "changed": len(broken)}
        emit(told | ({"naming": asdict(named)} if named is not None else {}))
    if broken:
        first = broken[0]
        raise VerificationError(
            f"{counted(len(broken), 'label')} of {len(found)} changed: border-{first.number:03d}.png on "
            f"{first.recorded.platform} was {first.recorded.label}" + _now(first),
            hint="this is another platform than the recorded one of that name, or another version of its software",
        )
    if named is not None:
        _tell_naming(named)
    say(f"all {counted(len(found), 'label')} hold, each asked {sum(found[0].found.asked.values())} times")


def _tell_naming(named: Naming) -> None:
    chosen = ", ".join(f"border-{number:03d}.png" for number in named.chosen.inputs)
    groups = "; ".join(" = ".join(group) for group in named.chosen.classes)
    least = "the fewest there are" if named.chosen.smallest else "few"
    say(f"{counted(len(named.chosen.inputs), 'label')} ({chosen}; {least}) tell apart: {groups}")
    say(f"from labels alone {sum(named.right.values())} of {len(named.right)} platforms are named right")


def check_elsewhere(model: nn.Module, folder: Path, others: Sequence[Path], json: bool) -> None:
    """Ask other models about saved inputs of ``model`` and write ``transferability.yaml`` beside them."""
    from holdfast._files import write_atomic
    from holdfast.identification.border import BorderSet, require_model, transferred
    from holdfast.models import load

    kept = BorderSet.load(folder)
    require_model(kept, model)
    found = transferred(kept, {str(path): load(path) for path in others})
    value = found.to_json()
    # JSON is YAML: what reads the published file reads this one
    write_atomic(folder / "transferability.yaml", dumps(value, indent=2).encode())
    say(f"transfers to {value['overall_accuracy']:.2f} of {len(found.truth)} platforms (chance {value['chance']:.2f})")
    if json:
        emit(value)


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
