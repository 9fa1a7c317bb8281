"""A gateway under load while its workers are killed at random: is an answer ever wrong, or a request ever lost?

The gateway runs as a process of its own, started by its command, with workers that it spawns. Clients ask over HTTP
without pause, hold every answer against the plaintext int8 model bit for bit, and tell errors (a status and a reason)
from requests that are lost (no complete HTTP answer). Kills are SIGKILL, one worker in four is stopped first so that
it falls silent in the middle of its work. Memory is the resident memory that the gateway itself reports; its slope is
fitted after the first third, with an interval from blocks of the residuals.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from benchmarks import _harness
from holdfast.data import dataset
from holdfast.models import build_architecture
from holdfast.numerics.bits import bit_equal
from holdfast.shielding.graph import export

MODEL, DATA = "digits-cnn", "digits"
REQUESTS, WARM_UP, EVERY, BLOCKS = 64, 1 / 3, 2.0, 12
STOPPED = 0.25  # share of kills that stop the worker first
PAUSE = 0.5  # seconds for which it is stopped


@dataclass
class Found:
    """What clients saw, and what was done to workers."""

    statuses: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    lost: int = 0
    kills: int = 0
    seconds: list[float] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def started(workers: int, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start the gateway by its command, wait until it is ready, and yield it and its port."""
    command = [sys.executable, "-c", "from holdfast.cli import entry; entry()", "serve", "gateway", MODEL]
    command += ["--data", DATA, "--workers", str(workers), "--http", "127.0.0.1:0", "--timeout", "60"]
    with log.open("w") as stderr:
        process = subprocess.Popen(command, stderr=stderr)
    try:
        while "worker-ready" not in log.read_text():
            if process.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.1)
        yield process, int(log.read_text().split("listens on http://127.0.0.1:")[1].split()[0])
    finally:
        process.kill()


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Send one request over a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method, path, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def client(port: int, bodies: list[bytes], wanted: list[torch.Tensor], found: Found, seed: int, until: float) -> None:
    """Ask without pause until the time is over."""
    draw = random.Random(seed)
    while time.monotonic() < until:
        number, start = draw.randrange(len(bodies)), time.monotonic()
        try:
            status, raw = ask(port, "POST", "/v1/infer", bodies[number])
            told = json.loads(raw)
        except (OSError, ValueError, http.client.HTTPException):
            with found.lock:
                found.lost += 1
            continue
        right = status != 200 or bit_equal(torch.tensor(told["outputs"]), wanted[number])
        with found.lock:
            found.statuses[str(status) if status == 200 else f"{status} {told['kind']}"] += 1
            found.wrong += not right
            if status == 200:
                found.seconds.append(time.monotonic() - start)


def children(process: int) -> list[int]:
    """The processes that a process started."""
    listing = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True, check=False)
    return [int(word) for word in listing.stdout.split()]


def killer(process: int, found: Found, mean: float, until: float) -> None:
    """Kill a worker at random moments, ``mean`` seconds apart in the mean."""
    draw = random.Random(0)
    while (pause := draw.expovariate(1 / mean)) < until - time.monotonic():
        time.sleep(pause)
        if not (workers := children(process)):
            continue
        victim = draw.choice(workers)
        with suppress(ProcessLookupError):
            if draw.random() < STOPPED:
                os.kill(victim, signal.SIGSTOP)
                time.sleep(PAUSE)
            os.kill(victim, signal.SIGKILL)
            found.kills += 1


def watcher(port: int, found: Found, until: float) -> None:
    """Note the gateway's memory, by its own word, every other second."""
    begin = time.monotonic()
    while time.monotonic() < until:
        found.memory.append((time.monotonic() - begin, metric(port, "process_resident_memory_bytes")))
        time.sleep(EVERY)


def metric(port: int, name: str) -> float:
    """Read one series of the gateway's metrics."""
    lines = ask(port, "GET", "/metrics")[1].decode().splitlines()
    return float(next(line for line in lines if line.startswith((name + " ", name + "{"))).split()[-1])


def slope(memory: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Return MiB per minute with its 95 % interval, by a moving-block bootstrap of the residuals."""
    begin = memory[-1][0] * WARM_UP
    kept = np.array([(at / 60, size / 2**20) for at, size in memory if at >= begin])
    line = np.polynomial.Polynomial.fit(kept[:, 0], kept[:, 1], 1).convert()
    fitted = line(kept[:, 0])
    residuals, draw, length = kept[:, 1] - fitted, np.random.default_rng(0), max(len(kept) // BLOCKS, 1)
    slopes = []
    for _ in range(_harness.RESAMPLES):
        starts = draw.integers(0, len(kept) - length + 1, -(-len(kept) // length))
        noise = np.concatenate([residuals[start : start + length] for start in starts])[: len(kept)]
        slopes.append(np.polynomial.Polynomial.fit(kept[:, 0], fitted + noise, 1).convert().coef[1])
    low, high = np.quantile(slopes, [0.025, 0.975])
    return float(line.coef[1]), float(low), float(high)


def load(seconds: float, clients: int, workers: int, mean: float) -> dict[str, object]:
    """Run it, and return everything found."""
    torch.set_num_threads(1)
    train = dataset(DATA, split="train").take(128)
    inputs, _ = dataset(DATA, split="test").batch(torch.arange(REQUESTS))
    model = export(build_architecture(MODEL, seed=0).eval(), train.batch(torch.tensor([0]))[0], train)
    batches = [inputs[start : start + 1 + start % 4] for start in range(REQUESTS)]
    wanted, found = [model(batch) for batch in batches], Found()
    bodies = [json.dumps({"inputs": batch.tolist()}).encode() for batch in batches]
    with tempfile.TemporaryDirectory() as folder, started(workers, log := Path(folder) / "log") as (process, port):
        until = time.monotonic() + seconds
        jobs = [(client, (port, bodies, wanted, found, seed, until)) for seed in range(clients)]
        jobs += [(killer, (process.pid, found, mean, until)), (watcher, (port, found, until))]
        threads = [threading.Thread(target=target, args=arguments) for target, arguments in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        counted = {name: metric(port, f"holdfast_{name}") for name in ("retries_total", "requests_outstanding")}
        answered = metric(port, "holdfast_requests_total")
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
        events = Counter(json.loads(line)["event"] for line in log.read_text().splitlines() if line.startswith("{"))
    rate, low, high = slope(found.memory)
    times = sorted(found.seconds)
    return {
        "seconds": seconds, "clients": clients, "workers": workers, "kills": found.kills,
        "requests": sum(found.statuses.values()) + found.lost, "statuses": dict(found.statuses),
        "wrong": found.wrong, "lost": found.lost, "retries": counted["retries_total"],
        "counted_by_gateway_as_answered": answered, "outstanding_at_the_end": counted["requests_outstanding"],
        "median_s": times[len(times) // 2], "p99_s": times[int(0.99 * len(times))], "longest_s": times[-1],
        "memory_mib": {"first": found.memory[0][1] / 2**20, "last": found.memory[-1][1] / 2**20,
                       "most": max(size for _, size in found.memory) / 2**20},
        "slope_mib_per_minute": {"estimate": rate, "low": low, "high": high},
        "memory": [(round(at, 1), size) for at, size in found.memory],
        "events": dict(events), "exit_code": code, "machine": _harness.machine(),
    }  # fmt: skip


def main() -> None:
    """Run as a command: a few sentences for people, or one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--mean", type=float, default=20.0, help="seconds between kills in the mean")
    options = parser.parse_args()
    result = load(options.seconds, options.clients, options.workers, options.mean)
    if options.json:
        print(json.dumps(result, sort_keys=True))
        return
    rate = result["slope_mib_per_minute"]
    print(f"{result['requests']} requests in {options.seconds:g} s, {result['kills']} workers killed")
    print(f"  wrong {result['wrong']}, lost {result['lost']}, statuses {result['statuses']}")
    print(f"  memory {result['memory_mib']}, slope {rate} MiB per minute")


if __name__ == "__main__":
    main()
