"""``model.json``: everything about a model that is not a tensor, written in canonical form and read with suspicion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from holdfast.errors import UnreadableArtifact, UnsupportedVersion
from holdfast.evidence import canonical
from holdfast.evidence.lineage import Step
from holdfast.models.card import card
from holdfast.models.guard import attach_guard, guard_from_json
from holdfast.models.programs import architecture_of

MODEL_TYPE = "holdfast.model/v1"


def describe(model: nn.Module) -> dict[str, Any]:
    """Return the JSON description of a model: architecture, formats, lineage, guards, input and classes."""
    known = card(model)
    return {
        "type": MODEL_TYPE,
        "architecture": architecture_of(model),
        "formats": {name: lens.format.name for name, lens in sorted(known.lenses.items())},
        "lineage": [step.to_json() for step in known.lineage],
        "guards": [guard.to_json() for guard in known.guards],
        "input_shape": None if known.input_shape is None else list(known.input_shape),
        "classes": list(known.classes),
        "preprocessing": dict(known.preprocessing),
    }


def read_description(data: bytes, what: str) -> dict[str, Any]:
    """Parse the bytes of a ``model.json``.

    Raises:
        UnsupportedVersion: another type or version.
        UnreadableArtifact: not JSON, a key missing, unknown or of the wrong type; ``what`` names the file.
    """
    value = canonical.loads(data, what=what)
    if not isinstance(value, dict) or value.get("type") != MODEL_TYPE:
        raise UnsupportedVersion(f"{what} is not a {MODEL_TYPE} description")
    if missing := sorted(_FIELDS.keys() - value.keys()):
        raise UnreadableArtifact(f"{what} lacks {missing[0]!r}")
    if extra := sorted(value.keys() - _FIELDS.keys() - {"type"}):
        raise UnreadableArtifact(f"{what} has an unknown key {extra[0]!r}")
    for key, fits in _FIELDS.items():
        if not fits(value[key]):
            raise UnreadableArtifact(f"{key!r} in {what} is malformed")
    return value


def restore(model: nn.Module, value: dict[str, Any]) -> None:
    """Give ``model`` the history, input, classes and guards that a read description names.

    Raises:
        UnknownName: a guard that is not installed.
        NoSuchSite: a guard at a place that the model does not have.
    """
    known = card(model)
    known.lineage = [Step.from_json(item) for item in value["lineage"]]
    known.input_shape = None if value["input_shape"] is None else tuple(value["input_shape"])
    known.classes, known.preprocessing = tuple(value["classes"]), value["preprocessing"]
    for item in value["guards"]:
        attach_guard(model, guard_from_json(item))


def _list_of(kind: type) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(type(item) is kind for item in value)


def _is_guard_list(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, dict) and isinstance(item.get("kind"), str) and isinstance(item.get("site"), str)
        for item in value
    )


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "architecture": lambda value: value is None or isinstance(value, str),
    "formats": lambda value: isinstance(value, dict) and all(isinstance(item, str) for item in value.values()),
    "lineage": _list_of(dict),
    "guards": _is_guard_list,
    "input_shape": lambda value: value is None or _list_of(int)(value),
    "classes": _list_of(str),
    "preprocessing": lambda value: isinstance(value, dict),
}
