"""What a machine says about itself, and what it does not say."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.soak.counters import changes, read_counters


def put(root: Path, place: str, text: str) -> None:
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_text(text)


def machine(root: Path, *, corrected: int) -> None:
    put(root, "class/thermal/thermal_zone0/temp", "54500\n")
    put(root, "class/thermal/thermal_zone1/temp", "no data\n")
    put(root, "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "2400000\n")
    put(root, "devices/system/cpu/cpu0/cpufreq/scaling_max_freq", "3700000\n")
    put(root, "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "7\n")
    put(root, "devices/system/edac/mc/mc0/ce_count", f"{corrected}\n")
    put(root, "devices/system/edac/mc/mc0/ue_count", "0\n")


def test_everything_that_is_there_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    machine(tmp_path, corrected=3)
    found = read_counters(tmp_path)
    assert found.celsius == {"thermal_zone0": 54.5}
    assert (found.mhz, found.mhz_limit) == ({"cpu0": 2400.0}, {"cpu0": 3700.0})
    assert (found.throttled, found.corrected, found.uncorrected) == ({"cpu0": 7}, {"mc0": 3}, {"mc0": 0})
    assert found.ecc
    assert found.missing == ("nvidia-smi",)


def test_what_is_hidden_is_missing_and_not_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    found = read_counters(tmp_path)
    assert len(found.missing) == 7
    assert not found.ecc
    assert changes(found, found) == {}


def test_only_what_rose_is_told(tmp_path: Path):
    machine(tmp_path / "a", corrected=3)
    machine(tmp_path / "b", corrected=5)
    assert changes(read_counters(tmp_path / "a"), read_counters(tmp_path / "b")) == {"corrected@mc0": 2}


def test_an_accelerators_counters_come_from_its_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '41, 1980, 0x0000000000000000, Enabled, 0, 0'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    found = read_counters(tmp_path)
    assert found.gpu[0]["celsius"] == "41"
    assert found.ecc
    program.write_text("#!/bin/sh\nexit 9\n")
    assert "nvidia-smi" in read_counters(tmp_path).missing
