"""Campaigns over the answers of an untrusted worker: what is struck is a session, and a lie is a fault like others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

_SPAWN = "spawn"


def strikes_answers(at: str) -> bool:
    """Say whether a selection of sites asks for the answers of a worker."""
    return any(part.strip().partition(":")[0] == "offload" for part in at.split(","))


def require_offload(at: str, worker: str | None, plan: Path | None, against: Mapping[str, object]) -> None:
    """Refuse options that do not go with the selection before any model is read.

    Args:
        at: selection of sites.
        worker, plan: options for the answers of a worker.
        against: options that such a campaign cannot have; None where they were not given.

    Raises:
        UsageError: they contradict each other.
    """
    if not strikes_answers(at):
        given = [name for name, value in {"--worker": worker, "--plan": plan}.items() if value is not None]
        if given:
            raise UsageError(f"{given[0]} is for the answers of a worker", hint="select them: --at 'offload:**'")
        return
    if named := [name for name, value in against.items() if value is not None]:
        hint = "a session is one connection in one process: try trials, one by one"
        raise UsageError(f"--at {at} and {named[0]} contradict each other", hint=hint)


@contextmanager
def struck(
    model: nn.Module, name: Path, at: str, worker: str | None, plan: Path | None
) -> Iterator[tuple[nn.Module, dict[str, Any]]]:
    """Yield what the campaign strikes, and facts for its record: the model, or a session that offloads its layers.

    Raises:
        UsageError: the model is no integer graph.
        DigestMismatch: a plan of another model.
        IntegrityError: the worker lies by itself.
    """
    if not strikes_answers(at):
        yield model, {}
        return
    from holdfast.shielding import Freivalds, shield
    from holdfast.shielding.graph import IntegerModel
    from holdfast.shielding.plan_file import read_plan

    if not isinstance(model, IntegerModel):
        hint = "export it first: holdfast shield export MODEL --data DATA -o integer/"
        raise UsageError(f"{name} has no layers that a worker could compute", hint=hint)
    placements = None if plan is None else read_plan(plan).placements(model)
    with shield(model, worker or _SPAWN, check=Freivalds(), placements=placements) as session:
        about = {"check": "freivalds-z64", "placements": dict(session.placements), "kernels": session.kernels}
        yield session, {"offload": about}
