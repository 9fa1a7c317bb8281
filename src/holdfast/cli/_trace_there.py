"""A folder for a trace: what lies there may be the evidence somebody needs, and is not written over by another one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.errors import InvalidConfig

if TYPE_CHECKING:
    from holdfast.execution import Trace


def trace_there(out: Path) -> Trace | None:
    """Return the trace in the folder already; refuse a folder that holds something else."""
    from holdfast.execution import Trace

    if (out / "trace.json").exists():
        return Trace.load(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise InvalidConfig(f"{out} holds something else already", hint="name another folder")
    return None


def require_same(before: Trace | None, now: Trace, out: Path) -> None:
    """Let a trace be written where there is none, or again; raise :class:`InvalidConfig` for another one over it."""
    from holdfast.numerics.bits import bit_equal

    if before is None:
        return
    for name, one, other in (
        ("probes", before.probe_digest, now.probe_digest),
        ("model", before.model_digest, now.model_digest),
        ("platform", before.platform, now.platform),
    ):
        if one != other:
            raise InvalidConfig(
                f"{out} holds a trace of another {name}", hint="name another folder, or overwrite it: --replace"
            )
    if not bit_equal(before.outputs, now.outputs):
        raise InvalidConfig(
            f"{out} holds other bits of the same model, probes and platform",
            hint="something that the platform does not list has changed; keep both: name another folder",
        )
