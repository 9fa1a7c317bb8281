"""``python -m holdfast.identification.collect FOLDER``: trace models in a process of its own.

Settings such as ``ATEN_CPU_CAPABILITY`` are read when torch starts, so each needs a fresh interpreter. The folder holds
``platform.json`` and, for every case, a numbered folder with ``model/`` and the probes, where ``trace/`` is written, or
``refusal.json`` when this platform does not run the model.
"""

from __future__ import annotations

import sys
from pathlib import Path

from safetensors.torch import load_file

from holdfast._files import read_bytes, write_atomic
from holdfast.data import Dataset, Preprocessing
from holdfast.errors import HoldfastError
from holdfast.evidence import canonical
from holdfast.identification.platforms.run import trace_here
from holdfast.identification.platforms.setting import LocalPlatform
from holdfast.identification.platforms.torch_stacks import require_effective
from holdfast.models import load

# what runtimes raise on a model or a setting that they do not take; anything else ends the process
_REFUSALS = (HoldfastError, RuntimeError, NotImplementedError, ValueError, TypeError)


def main(arguments: list[str]) -> None:
    """Read the cases in a folder and write a trace or a refusal beside each."""
    folder = Path(arguments[0])
    value = canonical.loads(read_bytes(folder / "platform.json", "platform"), what="platform.json")
    platform = LocalPlatform.from_json(value)
    for case in sorted(path for path in folder.iterdir() if path.is_dir()):
        try:
            require_effective(platform)
            trace_here(platform, load(case / "model", own=True), _probes(case)).save(case / "trace")
        except _REFUSALS as error:
            write_atomic(case / "refusal.json", canonical.dumps(_refusal(error)))


def _probes(folder: Path) -> Dataset:
    tensors = load_file(folder / "probes.safetensors")
    value = canonical.loads(read_bytes(folder / "probes.json", "probes"), what="probes.json")
    return Dataset("probes", tensors["raw"], tensors["labels"], (), Preprocessing.from_json(value))


def _refusal(error: Exception) -> dict[str, str]:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    hint = error.hint if isinstance(error, HoldfastError) else ""
    return {"kind": type(error).__name__, "reason": lines[0], "hint": hint}


if __name__ == "__main__":
    main(sys.argv[1:])
