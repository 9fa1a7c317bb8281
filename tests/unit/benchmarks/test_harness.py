"""The harness that every benchmark shares."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from benchmarks import _harness


def test_cpu_seconds_count_work_and_not_sleep():
    assert _harness.cpu_seconds(lambda: time.sleep(0.2)) < 0.1
    assert _harness.cpu_seconds(lambda: sum(range(3_000_000))) > 0.005


def test_cpu_seconds_count_children():
    code = "sum(range(5_000_000))"
    assert _harness.cpu_seconds(lambda: subprocess.run([sys.executable, "-c", code], check=True)) > 0.02


def test_pairs_alternate_who_goes_first():
    order: list[str] = []
    _harness.paired(lambda: order.append("ours"), lambda: order.append("peer"), repeats=2)
    assert order == ["ours", "peer", "ours", "peer", "peer", "ours"]


def test_ratio_is_of_medians_and_inside_its_interval():
    pairs = [(2.0, 1.0), (2.2, 1.1), (1.8, 0.9), (2.0, 1.0), (9.0, 1.0)]
    result = _harness.summarise("twice", pairs, peer_name="one")
    assert result.ratio == pytest.approx(2.0)
    assert result.low <= result.ratio <= result.high
    assert result.n == 5


@pytest.mark.slow
def test_a_benchmark_prints_one_json_object(repository: Path):
    command = [sys.executable, "-m", "benchmarks.startup", "--json"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert {"claim", "ours", "peer", "unit", "ratio", "low", "high", "n", "machine"} <= result.keys()
