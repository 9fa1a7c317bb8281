"""How far a beam rate is off when exposure ends at the last SDC of each log, as the field's parsers take it.

Logs with known truth: 600 s each at 10 iterations a second, events from a Poisson law with a mean of one a log. The
peer takes the AccTime of the last #SDC of each log, and nothing from logs without one; ours reads the same files.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import _harness
from holdfast.seeds import derive
from holdfast.soak import analyse, read_log
from holdfast.soak.log_lines import iteration_line, sdc_line

LOGS, SECONDS, MEAN, REPEATS = 60, 600.0, 1.0, 15
_LAST = re.compile(r"#SDC .*AccTime:(\S+)")


def measure() -> _harness.Result:
    """Estimate a known rate from the same logs in both ways; 1 is the truth."""
    pairs = [_one(repeat) for repeat in range(REPEATS)]
    claim = f"rate of events over the true one, {LOGS} logs with {MEAN:g} event each on average (theory: 2.72 too high)"
    return _harness.summarise(claim, pairs, peer_name="exposure up to the last SDC", unit="x truth")


def _one(repeat: int) -> tuple[float, float]:
    generator = derive(0, "beam-exposure", repeat).numpy()
    with tempfile.TemporaryDirectory() as folder:
        paths = [_log(Path(folder), number, generator) for number in range(LOGS)]
        ours = analyse([read_log(path).counts for path in paths]).arms[0].sdc.value
        theirs = _by_the_last_sdc(paths)
    truth = MEAN / SECONDS
    return ours / truth, theirs / truth


def _log(folder: Path, number: int, generator: np.random.Generator) -> Path:
    hits = [(float(t), True) for t in generator.uniform(0, SECONDS, size=generator.poisson(MEAN))]
    marks = sorted(hits + [(10.0 * k, False) for k in range(1, int(SECONDS) // 10 + 1)])
    body = [
        sdc_line(int(10 * t), 0.1, t, 1, place) if hit else iteration_line(int(10 * t), 0.1, t)
        for place, (t, hit) in enumerate(marks)
    ]
    path = folder / f"{number}.log"
    path.write_text("\n".join(["#HEADER model=net", *body, "#END", ""]))
    return path


def _by_the_last_sdc(paths: list[Path]) -> float:
    found = [_LAST.findall(path.read_text()) for path in paths]
    return sum(map(len, found)) / sum(float(times[-1]) for times in found if times)


if __name__ == "__main__":
    _harness.main(measure)
