"""Signing and verifying a stored model: CPU-seconds and memory, against the tools that do the same, in the same run.

Every job is a process of its own, start-up included, with compiled bytecode at hand as an installation has it.
``HOLDFAST_BENCH_LARGE=1`` adds a model of 4 GiB and signing it again after its README was edited. Jobs called
``one core`` are bound to one; against the same without, their seconds tell what the others are good for.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import _harness

GIB = 1 << 30
PYTHON = sys.executable
BARE = "--no-tensors"
HOLDFAST = "import sys; from holdfast.cli import main; sys.exit(main(sys.argv[1:]))"
MODEL_SIGNING = (
    "import sys, runpy; sys.argv[0] = 'model_signing'; runpy.run_module('model_signing', run_name='__main__')"
)


@dataclass(frozen=True)
class Row:
    """One job: medians over its runs."""

    job: str
    tool: str
    cpu: float  # CPU-seconds, user and system
    wall: float  # seconds; of a shared machine
    rss: float  # MiB, the highest
    over_raw: float  # CPU-seconds over those of raw BLAKE3 on the same bytes
    n: int


@dataclass(frozen=True)
class Table(_harness.Result):
    """The headline, and all rows."""

    rows: tuple[Row, ...] = ()


def measure() -> Table:
    """Measure every job and put ``holdfast verify`` of 1 GiB against the same of ``model-signing``."""
    rows: list[Row] = []
    pairs: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _keys(folder)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
        for label, model in _models(folder):
            found = _runs(_jobs(folder, model), repeats=3)
            rows += _rows(label, found)
            if label == "1 GiB":
                pairs = list(zip(_cpu(found, "holdfast verify"), _peer(found), strict=True))
            shutil.rmtree(model)
        rows += _rows(
            "start-up",
            _runs({"python -c pass": [PYTHON, "-c", "pass"], "holdfast --version": _holdfast("--version")}, repeats=9),
        )
    for row in rows:
        print(f"{row.job:12} {row.tool:28} {row.cpu:7.3f} CPU-s {row.wall:7.3f} s {row.rss:7.1f} MiB", file=sys.stderr)
    headline = _harness.summarise(
        "holdfast verify of 1 GiB (signed BLAKE3 manifest), start-up included",
        pairs,
        peer_name="model_signing verify key" if importlib.util.find_spec("model_signing") else "openssl dgst -sha256",
    )
    return Table(**{key: getattr(headline, key) for key in headline.__dataclass_fields__}, rows=tuple(rows))


Found = dict[str, list[tuple[float, float, float]]]  # tool -> (CPU-seconds, seconds, MiB) of each run


def _holdfast(*arguments: str) -> list[str]:
    return [PYTHON, "-c", HOLDFAST, *arguments]


def _keys(folder: Path) -> None:
    from holdfast.signing.keys import generate_key, write_key

    key = generate_key("p256")
    write_key(key, folder / "k.pem")
    (folder / "k.pub").write_bytes(key.public.pem)


def _models(folder: Path) -> list[tuple[str, Path]]:
    models = [("1 GiB", _file(folder / "one", GIB)), ("1000 x 1 MiB", _tree(folder / "tree"))]
    if os.environ.get("HOLDFAST_BENCH_LARGE"):
        models.append(("4 GiB", _file(folder / "four", 4 * GIB)))
    return models


def _file(folder: Path, size: int) -> Path:
    """Write a safetensors file of 64 MiB tensors that holds ``size`` bytes of data, and a README."""
    import json

    folder.mkdir()
    tensor = 64 << 20
    header = {
        f"layers.{n}.weight": {"dtype": "F32", "shape": [4096, 4096], "data_offsets": [n * tensor, (n + 1) * tensor]}
        for n in range(size // tensor)
    }
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for _ in range(size >> 20):
            out.write(os.urandom(1 << 20))
    (folder / "README.md").write_text("a model")
    return folder


def _tree(folder: Path) -> Path:
    folder.mkdir()
    for number in range(1000):
        (folder / f"part-{number:04}.bin").write_bytes(os.urandom(1 << 20))
    return folder


def _jobs(folder: Path, model: Path) -> dict[str, list[str]]:
    """Return the commands, by tool; those that verify come after those that sign."""
    key, public, sig = str(folder / "k.pem"), str(folder / "k.pub"), str(folder / f"{model.name}.other.sig")
    files = [str(path) for path in sorted(model.iterdir())]
    jobs = {
        "raw blake3, mapped": [
            PYTHON,
            "-c",
            "import sys, blake3\nfor p in sys.argv[1:]: blake3.blake3().update_mmap(p).digest()",
            *files,
        ],
        "openssl dgst -sha256": ["openssl", "dgst", "-sha256", *files],
        "holdfast sign": _holdfast("sign", str(model), "--key", f"file:{key}"),
        "holdfast sign --hash blake3": _holdfast("sign", str(model), "--key", f"file:{key}", "--hash", "blake3"),
        "holdfast sign blake3, no tensors": [
            *_holdfast("sign", str(model), "--key", f"file:{key}"),
            "--hash",
            "blake3",
            BARE,
        ],
        "holdfast verify": _holdfast("verify", str(model), "--trust", public),
    }
    for tool in ("holdfast sign", "holdfast verify"):
        jobs |= {f"{tool}, one core": ["taskset", "-c", _first_core(), *jobs[tool]]}
    if importlib.util.find_spec("model_signing"):
        own = ["--ignore-paths", str(model / "model.sig"), "--ignore-paths", str(model / "model.sig2")]
        tool = [PYTHON, "-c", MODEL_SIGNING]
        jobs["model_signing sign key"] = [
            *tool,
            "sign",
            "key",
            str(model),
            "--private_key",
            key,
            "--signature",
            sig,
            *own,
        ]
        jobs["model_signing verify key"] = [
            *tool,
            "verify",
            "key",
            str(model),
            "--public_key",
            public,
            "--signature",
            sig,
            *own,
        ]
    if os.environ.get("HOLDFAST_BENCH_LARGE") and model.name == "four":
        jobs["holdfast resign (README)"] = _holdfast("resign", str(model), "--key", f"file:{key}", "--trust", public)
    return jobs


def _first_core() -> str:
    return str(min(os.sched_getaffinity(0)))


def _runs(jobs: dict[str, list[str]], repeats: int) -> Found:
    """Run all jobs in turn, as often as asked, so that a busy machine slows all alike; the first round warms up."""
    found: Found = {tool: [] for tool in jobs}
    for turn in range(repeats + 1):
        for tool, command in jobs.items():
            if "README" in tool:
                (Path(command[4]) / "README.md").write_text(f"edited {turn}")
            result = _run(command)
            if turn:
                found[tool].append(result)
    return found


def _run(command: list[str]) -> tuple[float, float, float]:
    before = time.perf_counter()
    with open(os.devnull, "w") as nowhere, tempfile.TemporaryFile() as errors:
        actions = [(os.POSIX_SPAWN_DUP2, nowhere.fileno(), 1), (os.POSIX_SPAWN_DUP2, errors.fileno(), 2)]
        process = os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
        _, status, usage = os.wait4(process, 0)
        wall = time.perf_counter() - before
        if os.waitstatus_to_exitcode(status):
            errors.seek(0)
            raise RuntimeError(f"{' '.join(command[:6])} failed: {errors.read().decode()[-2000:]}")
    return usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024


def _rows(job: str, found: Found) -> list[Row]:
    raw = statistics.median(_cpu(found, next(iter(found))))
    return [
        Row(
            job,
            tool,
            _median(runs, 0),
            _median(runs, 1),
            max(item[2] for item in runs),
            _median(runs, 0) - raw,
            len(runs),
        )
        for tool, runs in found.items()
    ]


def _cpu(found: Found, tool: str) -> list[float]:
    return [item[0] for item in found[tool]]


def _peer(found: Found) -> list[float]:
    return _cpu(found, "model_signing verify key" if "model_signing verify key" in found else "openssl dgst -sha256")


def _median(runs: list[tuple[float, float, float]], place: int) -> float:
    return statistics.median(item[place] for item in runs)


if __name__ == "__main__":
    _harness.main(measure)
