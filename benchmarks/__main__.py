"""Run every benchmark in a process of its own and write ``benchmarks/results/NAME.json``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent


def names() -> list[str]:
    """Return the benchmarks, by file name; those of a GPU only where there is one."""
    left_out = ("_",) if torch.cuda.is_available() else ("_", "gpu_")
    return sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith(left_out))


def run(name: str) -> str | None:
    """Run one benchmark; return its JSON line, or None when it failed."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json"]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd=HERE.parent)
    return result.stdout if result.returncode == 0 else None


def main() -> int:
    """Run all; return 1 when any of them failed."""
    failed = []
    (HERE / "results").mkdir(exist_ok=True)
    for name in names():
        print(f"{name} ...", flush=True)
        line = run(name)
        if line is None:
            failed.append(name)
            continue
        result = json.loads(line)
        (HERE / "results" / f"{name}.json").write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
        print(f"  {result['ratio']:.3g} x {result['peer_name']} ({result['low']:.3g} .. {result['high']:.3g})")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
