"""``python -m holdfast.identification.collect FOLDER PLATFORM``: trace a model in a process of its own.

Settings such as ``ATEN_CPU_CAPABILITY`` are read when torch starts, so each needs a fresh interpreter.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from safetensors.torch import load_file

from holdfast._files import read_bytes
from holdfast.data import Dataset, Preprocessing
from holdfast.evidence import canonical
from holdfast.identification.platforms import LOCAL_PLATFORMS, trace_on
from holdfast.models import load


def main(arguments: list[str]) -> None:
    """Read ``model/`` and the probes in a folder, and write ``trace/`` beside them."""
    folder, name = Path(arguments[0]), arguments[1]
    tensors = load_file(folder / "probes.safetensors")
    value = canonical.loads(read_bytes(folder / "probes.json", "probes"), what="probes.json")
    preprocessing = Preprocessing(value["scale"], tuple(value["mean"]), tuple(value["std"]))
    probes = Dataset("probes", tensors["raw"], tensors["labels"], (), preprocessing)
    platform = dataclasses.replace(LOCAL_PLATFORMS[name], environment={})
    trace_on(platform, load(folder / "model"), probes).save(folder / "trace")


if __name__ == "__main__":
    main(sys.argv[1:])
