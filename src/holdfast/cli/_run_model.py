"""``holdfast run MODEL``: the trace of a model that lies on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.cli._common import emit, say
from holdfast.cli._probes import known_probes, probe_count
from holdfast.cli._sealed import seal, signer_for
from holdfast.errors import InvalidConfig

if TYPE_CHECKING:
    from holdfast.evidence.record import Record
    from holdfast.execution import Trace


def run_model(
    path: Path,
    out: Path,
    *,
    probes: str,
    platform: str,
    shape: str | None,
    arch: str | None,
    seed: int,
    key: str | None,
    password_file: str | None,
    replace: bool,
    json: bool,
) -> None:
    """Run, keep the outputs, and sign where a key is given."""
    from holdfast.identification import collect_platforms
    from holdfast.models import load

    signer, count = signer_for(key, password_file), probe_count(probes)
    before = _trace_there(out)
    subject = load(path, arch=arch)
    data = known_probes(subject, probes, shape, seed)
    trace = collect_platforms(subject, data, [platform])[platform]
    if before is not None and not replace:
        _require_same(before, trace, out)
    trace.save(out)
    say(f"wrote {out}: {count} outputs on {platform}\nprobes {trace.probe_digest}\nmodel {trace.model_digest}")
    fingerprint = seal(out, _record(trace, path.name, platform, probes, seed), signer)
    if json:
        value: dict[str, Any] = {"folder": str(out), "probes": trace.probe_digest, "model": trace.model_digest}
        emit(value | {"platform": trace.platform, "signer": fingerprint})


def _trace_there(out: Path) -> Trace | None:
    """Return the trace in the folder already; refuse a folder that holds something else."""
    from holdfast.execution import Trace

    if (out / "trace.json").exists():
        return Trace.load(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise InvalidConfig(f"{out} holds something else already", hint="name another folder")
    return None


def _require_same(before: Trace, now: Trace, out: Path) -> None:
    """Let a trace be written again, and no other one over it: it may be the evidence somebody needs."""
    import torch

    for name, one, other in (
        ("probes", before.probe_digest, now.probe_digest),
        ("model", before.model_digest, now.model_digest),
        ("platform", before.platform, now.platform),
    ):
        if one != other:
            raise InvalidConfig(
                f"{out} holds a trace of another {name}", hint="name another folder, or overwrite it: --replace"
            )
    words = [item.outputs.contiguous().view(torch.uint8) for item in (before, now)]
    if before.outputs.dtype != now.outputs.dtype or not torch.equal(*words):
        raise InvalidConfig(
            f"{out} holds other bits of the same model, probes and platform",
            hint="something that the platform does not list has changed; keep both: name another folder",
        )


def _record(trace: Trace, name: str, platform: str, probes: str, seed: int) -> Record:
    from holdfast import __version__
    from holdfast.evidence.record import Record
    from holdfast.evidence.statement import Subject

    asked: int | str = int(probes) if probes.isdigit() else probes
    return Record(
        kind="platform-trace",
        subject=Subject(name, {"blake3": trace.model_digest}),
        procedure={"type": "holdfast.run", "version": 1, "platform": platform, "probes": asked},
        measured={},
        inputs={"probes": trace.probe_digest},
        seed=seed,
        platform=trace.platform,
        tool={"name": "holdfast", "version": __version__},
    )
