"""The text that Prometheus reads."""

from __future__ import annotations

import json

import pytest

from holdfast.shielding.gateway import Audit, Metrics
from holdfast.shielding.gateway.gateway import resident
from holdfast.shielding.gateway.metrics import BUCKETS


def test_counters_gauges_and_buckets_say_what_happened() -> None:
    metrics = Metrics()
    metrics.requests.add("answered", 3)
    metrics.gauge("g", "A gauge.", lambda: {'a"\\\n': 0.5, "b": 2.0}, "label")
    for seconds in (0.005, 0.006, 0.3, 99.0):
        metrics.seconds.add(seconds)
    lines = metrics.text().splitlines()
    assert 'holdfast_requests_total{outcome="answered"} 3' in lines
    assert 'holdfast_requests_total{outcome="overloaded"} 0' in lines
    assert r'g{label="a\"\\\n"} 0.5' in lines
    assert 'g{label="b"} 2' in lines
    buckets = [line for line in lines if line.startswith("holdfast_request_seconds_bucket")]
    assert [int(line.split()[1]) for line in buckets] == [1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 4]
    assert len(buckets) == len(BUCKETS) + 1
    assert "holdfast_request_seconds_count 4" in lines


def test_the_parser_of_prometheus_reads_it() -> None:
    parser = pytest.importorskip("prometheus_client.parser", reason="prometheus-client is not installed")
    metrics = Metrics()
    metrics.failures.add("lied")
    metrics.seconds.add(0.2)
    metrics.gauge("process_resident_memory_bytes", "Memory.", resident)
    families = {family.name: family for family in parser.text_string_to_metric_families(metrics.text())}
    found = {sample.labels["reason"]: sample.value for sample in families["holdfast_worker_failures"].samples}
    assert found == {"lied": 1, "lost": 0, "unreachable": 0}
    assert families["holdfast_request_seconds"].type == "histogram"
    assert families["process_resident_memory_bytes"].samples[0].value > 2**20


def test_an_audit_line_is_one_line_whatever_a_worker_said() -> None:
    lines: list[str] = []
    Audit(lines.append)("worker-lost", worker="a", error="x\n\x1b[31m{}" + "y" * 1000, pid=None)
    assert lines[0].count("\n") == 1
    assert "\x1b" not in lines[0]
    said = json.loads(lines[0])
    assert (said["event"], len(said["error"]), said["pid"]) == ("worker-lost", 300, None)
    assert said["at"].endswith("+00:00")
