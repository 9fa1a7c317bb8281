"""Run every benchmark in a process of its own and write ``benchmarks/results/NAME.json``."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks import _gpu_bars

HERE = Path(__file__).parent
RESULTS = HERE / "results"


def names(*, gpu: bool = False) -> list[str]:
    """Return the benchmarks, by file name: with ``gpu`` those of a GPU alone, else these only where there is one."""
    left_out = ("_",) if torch.cuda.is_available() else ("_", "gpu_")
    found = sorted(path.stem for path in HERE.glob("*.py"))
    return [name for name in found if (name.startswith("gpu_") if gpu else not name.startswith(left_out))]


def run(name: str, seconds: float | None = None) -> str | None:
    """Run one benchmark; return its JSON line, or None when it failed or took longer than ``seconds``."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json"]
    try:
        result = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=False, cwd=HERE.parent, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        print(f"  ended after {seconds:g} seconds", file=sys.stderr)
        return None
    return result.stdout if result.returncode == 0 else None


def measure(name: str, folder: Path, seconds: float | None) -> bool:
    """Run one benchmark and write its result into ``folder``; say whether there is one."""
    print(f"{name} ...", flush=True)
    line = run(name, seconds)
    if line is None:
        return False
    result = json.loads(line)
    (folder / f"{name}.json").write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
    print(f"  {result['ratio']:.3g} x {result['peer_name']} ({result['low']:.3g} .. {result['high']:.3g})")
    return True


def main() -> int:
    """Run all; return 1 when any of them failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--gpu", action="store_true", help="those of a GPU alone, and its bars at the end")
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="end a benchmark that takes longer")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER", help="where the results go")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    failed = [name for name in names(gpu=options.gpu) if not measure(name, options.out, options.limit)]
    if options.gpu:
        print("\n".join(_gpu_bars.table(options.out)))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
