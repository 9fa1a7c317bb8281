"""Tests of "is it the same service": false alarms, power, delay, and Token-DiFR on a trained language model.

The claim is the CPU time of the MMD test with 1000 permutations, against scipy's permutation_test on the same
statistic. Beside it: false alarms and power of the tests of texts and of log-probabilities; the monitor's alarms while
nothing changes and its delay after a change; margins of claimed tokens for number formats of the weights, on the model
in HOLDFAST_SHARED/data/tiny-llama-260k where it is there.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

import holdfast
from benchmarks import _harness
from holdfast.execution import quantile
from holdfast.identification import DriftMonitor, SharedSampling, logprob_drift, model_equality, token_divergence
from holdfast.identification.equality import hamming_kernel
from holdfast.models import load
from holdfast.seeds import derive

RUNS = 200
PERMUTATIONS = 199
BASE = np.array([0.4, 0.3, 0.2, 0.1])


def texts(seed: int, side: str, tilt: float, n: int, *, prompts: int = 10, length: int = 16) -> dict[int, list[Any]]:
    """Completions of tokens drawn one by one; ``tilt`` is moved from the likeliest token to the rarest."""
    chances = BASE + tilt * np.array([-1, 0, 0, 1])
    drawn = derive(seed, "texts", side).numpy().choice(4, size=(prompts, n, length), p=chances)
    return {prompt: [tuple(row) for row in rows] for prompt, rows in enumerate(drawn.tolist())}


def measure() -> _harness.Result:
    """Time our permutation test and scipy's, one prompt of twice twenty answers."""
    one, other = texts(0, "a", 0.0, 20, prompts=1), texts(0, "b", 0.0, 20, prompts=1)
    kernel = hamming_kernel([*one[0], *other[0]])
    np.fill_diagonal(kernel, 0.0)

    def statistic(x: np.ndarray, y: np.ndarray) -> float:
        a, b = x.astype(int), y.astype(int)
        within = kernel[np.ix_(a, a)].sum() / (20 * 19) + kernel[np.ix_(b, b)].sum() / (20 * 19)
        return float(within - 2 * kernel[np.ix_(a, b)].mean())

    samples, generator = (np.arange(20), np.arange(20, 40)), derive(1, "scipy").numpy()
    pairs = _harness.paired(
        lambda: model_equality(one, other, permutations=1000),
        lambda: stats.permutation_test(samples, statistic, n_resamples=1000, rng=generator, alternative="greater"),
        repeats=9,
    )
    return _harness.summarise("MMD test, 1000 permutations", pairs, peer_name="scipy.stats.permutation_test")


def equality() -> Iterator[dict[str, Any]]:
    """Yield the rate of alarms at 5 % for texts, by how far the services differ and answers per prompt."""
    for tilt in (0.0, 0.05, 0.1):
        for n in (5, 10):
            found = [
                model_equality(texts(k, "a", 0.0, n), texts(k, "b", tilt, n), permutations=PERMUTATIONS, seed=k)
                for k in range(RUNS)
            ]
            yield {"tilt": tilt, "answers": n, "prompts": 10, "alarms": _harness.share([t.differ(0.05) for t in found])}


def tops(seed: int, side: str, n: int, shift: float) -> list[dict[str, float]]:
    """The first token's log-probabilities with a noise of 0.02; one of eight is shifted by a multiple of that."""
    base = derive(1, "base").numpy().normal(-3, 1, 8)
    rows = base + derive(seed, "tops", side).numpy().normal(0, 0.02, (n, 8))
    rows[:, 0] += 0.02 * shift
    return [{f"t{k}": value for k, value in enumerate(row)} for row in rows.tolist()]


def drift() -> Iterator[dict[str, Any]]:
    """Yield the rate of alarms at 5 % for log-probabilities, by the shift of one token in units of the noise."""
    for shift in (0.0, 1.0, 2.0, 5.0):
        for n in (5, 20):
            found = [
                logprob_drift({0: tops(k, "a", n, 0.0)}, {0: tops(k, "b", n, shift)}, permutations=PERMUTATIONS, seed=k)
                for k in range(RUNS)
            ]
            yield {"shift": shift, "answers": n, "alarms": _harness.share([t.differ(0.05) for t in found])}


def monitor() -> Iterator[dict[str, Any]]:
    """Yield alarms within 100 answers, and the median delay, at error 0.01; forty reference answers."""
    for shift in (0.0, 5.0, 10.0, 50.0):
        delays = []
        for k in range(100):
            watching = DriftMonitor({0: tops(k, "reference", 40, 0.0)}, error=0.01, seed=k)
            stream = tops(k, "stream", 100, shift)
            seen = (n for n, row in enumerate(stream, 1) if watching.see(0, row).alarm)
            delays.append(float(next(seen, np.inf)))
        middle = asdict(quantile(delays, 0.5, least=1.0, most=np.inf))
        shown = {key: None if value == np.inf else value for key, value in middle.items()}
        yield {"shift": shift, "alarms": _harness.share([delay < np.inf for delay in delays]), "median_answers": shown}


def tokens() -> Iterator[dict[str, Any]]:
    """Yield Token-DiFR's findings for formats of the weights, beside an honest provider in bf16 and one in fp32."""
    place = Path(os.environ.get("HOLDFAST_SHARED", "../shared")) / "data" / "tiny-llama-260k"
    if not place.is_dir():
        return
    model = load(place).eval()
    sampling = SharedSampling(seed=5)
    prompts = torch.randint(3, 512, (16, 6), generator=derive(0, "prompts").torch())

    def margins(served: torch.nn.Module, first: int = 0) -> torch.Tensor:
        drawn = sampling.generate(lambda t: served(t).float(), prompts, 60, first=first)
        return sampling.margins(lambda t: model(t).float(), prompts, drawn, first=first)

    honest = {"bf16": margins(copy.deepcopy(model).bfloat16(), 100), "fp32": margins(model, 100)}
    claimed = {"bf16": copy.deepcopy(model).bfloat16(), "fp32": model}
    claimed |= {name: holdfast.quantize(model, name) for name in ("int8", "int4")}
    for name, served in claimed.items():
        for beside, theirs in honest.items():
            found = token_divergence(margins(served), theirs, tokens=20)
            yield {
                "claimed": name,
                "honest": beside,
                "agreement": asdict(found.agreement),
                "margin": asdict(found.margin) | {"std": None},
                "auc": asdict(found.auc),
                "p_value": found.p_value,
            }


def main() -> None:
    """Run as a command: tables for people, or one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    as_json = parser.parse_args().json
    torch.set_num_threads(1)
    result = asdict(measure())
    more = {"texts": list(equality()), "logprobs": list(drift()), "monitor": list(monitor()), "tokens": list(tokens())}
    if as_json:
        print(json.dumps(result | more, sort_keys=True))
        return
    print(f"{result['claim']}: x {result['ratio']:.3f} ({result['low']:.3f} .. {result['high']:.3f})")
    for row in (*more["texts"], *more["logprobs"], *more["monitor"], *more["tokens"]):
        print(row)


if __name__ == "__main__":
    main()
