"""A record that stands in a folder is replaced only by an answer to the same question with as many chips or more."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from holdfast._files import read_bytes
from holdfast.errors import ArtifactError, InvalidConfig
from holdfast.evidence.record import Record
from holdfast.evidence.statement import Subject
from holdfast.models import model_subject

_SIZES = ("chips", "half_width", "max_chips")
_NAMES = {"evaluation": "data", "other-model": "the other model"}


def require_same_question(
    path: Path, model: nn.Module, procedure: Mapping[str, Any], inputs: Mapping[str, str], seed: int
) -> None:
    """Raise unless the record at ``path``, if there is one, answers this question with no more chips.

    A damaged record may be replaced; ``procedure``, ``inputs`` and ``seed`` are those of the new one.

    Raises:
        InvalidConfig: it answers another question, or took more chips; the message names what differs.
    """
    if not path.is_file():
        return
    try:
        kept = Record.from_bytes(read_bytes(path, "record"))
    except ArtifactError:
        return
    old = _question(kept.subject, kept.procedure, kept.inputs, kept.seed)
    new = _question(model_subject(model), procedure, inputs, seed)
    differ = [_said(key, old.get(key), new.get(key)) for key in old | new if old.get(key) != new.get(key)]
    differ += [_said(key, kept.procedure.get(key), procedure.get(key)) for key in _fewer(kept.procedure, procedure)]
    if differ:
        raise InvalidConfig(
            f"{path} answers another question: they differ in {', '.join(differ)}",
            hint="give another -o; the same call goes on here, and so does the same with more chips",
        )


def _question(
    subject: Subject, procedure: Mapping[str, Any], inputs: Mapping[str, str], seed: int | None
) -> dict[str, Any]:
    asked = {key: value for key, value in procedure.items() if key not in _SIZES}
    return {"model": dict(subject.digest), "seed": seed} | asked | {_NAMES.get(key, key): inputs[key] for key in inputs}


def _fewer(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the sizes of which ``new`` asks for less."""
    less = ["chips"] if new["chips"] < old["chips"] else []
    if old["half_width"] is None:
        return less
    if new["half_width"] is None or new["half_width"] > old["half_width"]:
        less.append("half_width")
    return [*less, "max_chips"] if new["max_chips"] < old["max_chips"] else less


def _said(key: str, old: object, new: object) -> str:
    if key in ("model", *_NAMES.values(), "text") and old is not None and new is not None:
        return key  # nobody reads digests
    return f"{key.replace('_', ' ')} ({_text(old)} there, {_text(new)} here)"


def _text(value: object) -> str:
    if isinstance(value, list):
        return " and ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)[:40]
