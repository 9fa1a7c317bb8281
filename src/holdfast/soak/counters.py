"""What the machine says about itself: temperatures, clocks, throttling, and memory errors that ECC has seen.

Linux tells through files, NVIDIA's driver through ``nvidia-smi``. Virtual machines hide most of it; what could not be
read is listed, so that an absent counter is never taken for a counter at zero.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SYS = Path("/sys")
_GPU = {
    "temperature.gpu": "celsius",
    "clocks.sm": "mhz",
    "clocks_throttle_reasons.active": "throttle",
    "ecc.mode.current": "ecc",
    "ecc.errors.corrected.volatile.total": "corrected",
    "ecc.errors.uncorrected.volatile.total": "uncorrected",
}
_PATIENCE = 10.0  # seconds for nvidia-smi


@dataclass(frozen=True, slots=True)
class Counters:
    """One reading.

    Attributes:
        celsius: by thermal zone.
        mhz: current clock by core; ``mhz_limit`` is the highest that the governor allows.
        throttled: times that a core was slowed for heat since the system started.
        corrected, uncorrected: memory errors by controller (EDAC).
        gpu: what nvidia-smi tells, by accelerator.
        missing: what could not be read here.
    """

    celsius: dict[str, float]
    mhz: dict[str, float]
    mhz_limit: dict[str, float]
    throttled: dict[str, int]
    corrected: dict[str, int]
    uncorrected: dict[str, int]
    gpu: tuple[dict[str, str], ...]
    missing: tuple[str, ...]

    @property
    def ecc(self) -> bool:
        """Whether something here says that memory is protected: an EDAC controller, or an accelerator's mode."""
        return bool(self.corrected) or any(item.get("ecc") == "Enabled" for item in self.gpu)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        names = ("celsius", "mhz", "mhz_limit", "throttled", "corrected", "uncorrected")
        values = {name: getattr(self, name) for name in names}
        return values | {"gpu": [dict(item) for item in self.gpu], "missing": list(self.missing)}


def read_counters(root: Path = _SYS) -> Counters:
    """Read all counters below ``root``; what is not there is missing, not zero."""
    cores = root / "devices" / "system" / "cpu"
    found: dict[str, dict[str, float]] = {
        "thermal zones": {k: v / 1000 for k, v in _numbers(root / "class" / "thermal", "thermal_zone*/temp").items()},
        "core clocks": {k: v / 1000 for k, v in _numbers(cores, "cpu[0-9]*/cpufreq/scaling_cur_freq").items()},
        "clock limits": {k: v / 1000 for k, v in _numbers(cores, "cpu[0-9]*/cpufreq/scaling_max_freq").items()},
        "throttle counts": _numbers(cores, "cpu[0-9]*/thermal_throttle/core_throttle_count"),
        "corrected memory errors (EDAC)": _numbers(root / "devices/system/edac/mc", "mc[0-9]*/ce_count"),
        "uncorrected memory errors (EDAC)": _numbers(root / "devices/system/edac/mc", "mc[0-9]*/ue_count"),
    }
    gpu = _gpus()
    missing = [name for name, values in found.items() if not values] + ([] if gpu else ["nvidia-smi"])
    celsius, mhz, limit, *counts = found.values()
    throttled, corrected, uncorrected = ({key: int(value) for key, value in item.items()} for item in counts)
    return Counters(celsius, mhz, limit, throttled, corrected, uncorrected, gpu, tuple(missing))


def _numbers(folder: Path, pattern: str) -> dict[str, float]:
    """Return the number in each file that matches, by the name of its first folder."""
    found = {}
    for path in sorted(folder.glob(pattern)):
        try:
            found[path.relative_to(folder).parts[0]] = float(path.read_text())
        except (OSError, ValueError):  # a sensor may be listed and refuse to be read
            continue
    return found


def _gpus() -> tuple[dict[str, str], ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, f"--query-gpu={','.join(_GPU)}", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=_PATIENCE, check=True).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = [[cell.strip() for cell in line.split(",")] for line in said.splitlines() if line.strip()]
    return tuple(dict(zip(_GPU.values(), row, strict=True)) for row in rows if len(row) == len(_GPU))


def changes(before: Counters, after: Counters) -> dict[str, int]:
    """Return how much the event counters rose between two readings, by name; only those that did."""
    found = {}
    for kind in ("throttled", "corrected", "uncorrected"):
        old, new = getattr(before, kind), getattr(after, kind)
        for name in old.keys() & new.keys():
            if new[name] > old[name]:
                found[f"{kind}@{name}"] = new[name] - old[name]
    return dict(sorted(found.items()))
