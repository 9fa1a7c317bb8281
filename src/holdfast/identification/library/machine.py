"""The machine that a library entry speaks of: processor, instruction sets, system, and versions of what computes."""

from __future__ import annotations

import platform as host
from pathlib import Path

from holdfast.execution import describe_platform
from holdfast.identification.library.records import Machine
from holdfast.identification.platforms.versions import versions_of

_FIELDS = ("cpu family", "model", "stepping")


def machine_here(runtime: str) -> Machine:
    """Return this machine with the versions of one runtime: another version of numpy does not change what torch does.

    The number of cores is left out: settings fix how many threads compute.
    """
    seen = describe_platform()
    system = f"{host.system()} {host.machine()}"
    return Machine(f"{seen.cpu}{_stepping()}", seen.features, system, versions_of(runtime))


def _stepping() -> str:
    """Return family, model and stepping where the system tells them: a rented processor's name says little."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return ""
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    known = [f"{name.removeprefix('cpu ')} {fields[name]}" for name in _FIELDS if name in fields]
    return f" ({', '.join(known)})" if known else ""
