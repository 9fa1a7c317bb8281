"""The machine that a library entry speaks of: processor, instruction sets, system, and versions of what computes.

For platforms of a GPU the processor is the GPU: kernels are chosen by its number of multiprocessors and by the versions
of its libraries, so another driver or another chip is another machine, and another CPU beside it is the same one.
"""

from __future__ import annotations

import platform as host
from pathlib import Path

from holdfast.execution import describe_platform
from holdfast.execution.gpu import gpu_device, gpu_versions
from holdfast.identification.library.records import Machine
from holdfast.identification.platforms import LocalPlatform
from holdfast.identification.platforms.devices import obstacle
from holdfast.identification.platforms.versions import versions_of

_FIELDS = ("cpu family", "model", "stepping")


def machine_of(platform: LocalPlatform) -> Machine:
    """Return what computes a platform here: the GPU that it names, or this machine; the latter where there is none."""
    if platform.device == "cpu" or obstacle(platform) is not None:
        return machine_here(platform.runtime)
    return gpu_here(int(platform.device.partition(":")[2] or 0), platform.runtime)


def gpu_here(index: int, runtime: str) -> Machine:
    """Return one GPU of this machine with the versions of its driver and libraries and of one runtime."""
    device = gpu_device(index)
    features = (f"compute capability {device['capability']}", f"{device['multiprocessors']} multiprocessors")
    system = f"{host.system()} {host.machine()}"
    return Machine(device["name"], features, system, versions_of(runtime) | gpu_versions())


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
