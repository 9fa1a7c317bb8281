"""``holdfast run MODEL``: the trace of a model that lies on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.cli._common import emit, say
from holdfast.cli._probes import known_probes, probe_count
from holdfast.cli._sealed import seal, signer_for
from holdfast.cli._trace_there import require_same, trace_there

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
    before = trace_there(out)
    subject = load(path, arch=arch)
    data = known_probes(subject, probes, shape, seed)
    trace = collect_platforms(subject, data, [platform])[platform]
    if not replace:
        require_same(before, trace, out)
    trace.save(out)
    say(f"wrote {out}: {count} outputs on {platform}\nprobes {trace.probe_digest}\nmodel {trace.model_digest}")
    fingerprint = seal(out, _record(trace, path.name, platform, probes, seed), signer)
    if json:
        value: dict[str, Any] = {"folder": str(out), "probes": trace.probe_digest, "model": trace.model_digest}
        emit(value | {"platform": trace.platform, "signer": fingerprint})


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
