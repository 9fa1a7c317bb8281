"""A platform in a process of its own: what is read at start-up is set, and what the caller had set is not passed on."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from holdfast._files import read_bytes, write_atomic
from holdfast.data import Dataset
from holdfast.errors import MissingExtra, Unavailable
from holdfast.evidence import canonical
from holdfast.execution import Trace
from holdfast.execution.gpu import GPU_KNOBS
from holdfast.execution.platform import KNOBS
from holdfast.identification.platforms.setting import LocalPlatform
from holdfast.models import save

_TIMEOUT, _SLOW_TIMEOUT = 300, 3600  # seconds
_NUMPY = ("NPY_DISABLE_CPU_FEATURES", "NPY_ENABLE_CPU_FEATURES", "OPENBLAS_NUM_THREADS")
_COMPILER = ("TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE")
_SCRUBBED = (*KNOBS, *GPU_KNOBS, *_NUMPY, *_COMPILER)


@dataclass(frozen=True)
class Case:
    """A model and its probes, under the name of a subject."""

    name: str
    model: nn.Module
    probes: Dataset


def traces_in_own_process(platform: LocalPlatform, cases: Sequence[Case]) -> dict[str, Trace | Unavailable]:
    """Trace every case in one fresh process; what did not run is an :class:`Unavailable` that says why."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_atomic(folder / "platform.json", canonical.dumps(platform.to_json()))
        for index, case in enumerate(cases):
            _write(folder / str(index), case)
        ended = _run(platform, folder)
        return {case.name: _read(folder / str(index), case, ended) for index, case in enumerate(cases)}


def environment_for(platform: LocalPlatform) -> dict[str, str]:
    """Return the variables of the process: the caller's own knobs are taken out, the platform's put in."""
    from holdfast.identification.platforms.numpy_stacks import environment_of

    inherited = {name: value for name, value in os.environ.items() if name not in _SCRUBBED}
    return inherited | {"OMP_NUM_THREADS": str(platform.threads)} | environment_of(platform)


def timeout_of(platform: LocalPlatform) -> int:
    """Return the seconds after which a platform is taken not to answer any more."""
    return _SLOW_TIMEOUT if platform.slow else _TIMEOUT


def _write(folder: Path, case: Case) -> None:
    save(case.model, folder / "model")
    probes = case.probes
    save_file({"raw": probes.raw.contiguous(), "labels": probes.labels.contiguous()}, folder / "probes.safetensors")
    write_atomic(folder / "probes.json", canonical.dumps(probes.preprocessing.to_json()))


def _run(platform: LocalPlatform, folder: Path) -> str:
    """Run the process and return its last words, empty when it ended well."""
    command = [sys.executable, "-m", "holdfast.identification.collect", str(folder)]
    limit = timeout_of(platform)
    try:
        done = subprocess.run(  # noqa: S603
            command, check=False, env=environment_for(platform), capture_output=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return f"it took more than {limit} s"
    if done.returncode == 0:
        return ""
    lines = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
    return f"its process ended with {done.returncode}: {' '.join(lines) or 'it said nothing'}"


def _read(folder: Path, case: Case, ended: str) -> Trace | Unavailable:
    if (folder / "trace" / "trace.json").exists():
        found = Trace.load(folder / "trace")
        # the child rebuilt the probes from bytes: their name and classes are not part of what it was sent
        return replace(found, probe_digest=case.probes.digest)
    if not (folder / "refusal.json").exists():
        return Unavailable(ended or "its process wrote no trace")
    return _refusal(canonical.loads(read_bytes(folder / "refusal.json", "refusal"), what="refusal.json"))


def _refusal(value: Mapping[str, str]) -> Unavailable:
    kind = MissingExtra if value["kind"] == MissingExtra.__name__ else Unavailable
    return kind(value["reason"], hint=value["hint"])
