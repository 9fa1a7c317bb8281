"""A broken copy of a packed file: what :func:`holdfast.inject` does to a model, done to its file and kept."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast._files import replacing
from holdfast.errors import InvalidConfig
from holdfast.execution import Fault
from holdfast.numerics import bits
from holdfast.quantization.adapters.packed import open_packed
from holdfast.quantization.adapters.schemes import config_beside
from holdfast.seeds import Seed, derive


def inject_packed(
    source: Path | str,
    out: Path | str,
    fault: Fault,
    *,
    at: str | None = None,
    seed: int | Seed = 0,
    config: Mapping[str, Any] | None = None,
) -> dict[str, int]:
    """Write a copy of ``source`` with ``fault`` present in it, and return how many bits flipped, by site address.

    The errors are those of :func:`holdfast.inject` in the loaded model under the same seed.

    Args:
        source: the packed file; unchanged.
        out: complete before it takes its name. The config beside ``source`` is not copied.
        fault: the law that draws the flips.
        at: selection of sites, see :meth:`PackedFile.population`.
        seed: the chip, or the realisation.
        config: see :func:`open_packed`.

    Raises:
        InvalidConfig: a fault of each read, of which a file has none; or ``out`` is ``source``.
        StorageError: the disk refuses; a file that stood at ``out`` still stands.
    """
    if getattr(fault, "each_read", False):
        raise InvalidConfig(f"{type(fault).__name__} happens to reads, not to a file", hint="inject it into the model")
    source, out = Path(source), Path(out)
    if out.exists() and out.samefile(source):
        raise InvalidConfig(f"{out} is the file to be copied", hint="give another out")
    config = config or config_beside(source)
    with open_packed(source, config=config) as file:
        population = file.population(at)
        flips = [file.as_flips(item) for item in fault.flips(population, derive(seed, "inject"))]
    with replacing(out) as temporary:
        shutil.copyfile(source, temporary)
        with open_packed(temporary, writable=True, config=config) as copy:
            for item in flips:
                copy.xor_(item)
    return {item.site.address: int(bits.popcount(item.mask).sum()) for item in flips}
