"""The format of a head from one response: how often it is named, and whether confidences mean what they say.

Heads of real and random nets, computed in fp32, fp16 and bf16, served as fp32 log-probabilities of eight positions,
some with a temperature, some with tokens moved by a bias: random logits of a language model's size; the trained tiny
LLaMA on WikiText-2 (``../shared/data``); a residual net and a digits net, whose logits are smaller and of ten classes.
Beside shares with 95 % intervals: accuracy in bins of confidence, and the mean surprise at the truth.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import _harness
from holdfast.data import dataset
from holdfast.data.text import text
from holdfast.identification import LogprobEvidence, dtype_from_logprobs
from holdfast.models import load
from holdfast.seeds import derive

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
HEADS = int(os.environ.get("HOLDFAST_BENCH_HEADS", "200"))  # per format and net
POSITIONS, TOKENS = int(os.environ.get("HOLDFAST_BENCH_POSITIONS", "8")), 20
TEMPERATURES = (1.0, 1.0, 1.0, 0.7, 1.3)
EDGES = (0.0, 0.9, 0.99, 0.999, 1.0)  # of confidence
SHARED = Path(os.environ.get("HOLDFAST_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
Logits = Callable[[str, int], Tensor]  # format, seed -> (positions, vocabulary)


def random_logits(name: str, seed: int) -> Tensor:
    """Return logits of a random scale and offset."""
    generator = derive(seed, "calibration", name).torch()
    scale, shift = 3 + 2 * float(torch.rand((), generator=generator)), 8 * float(torch.rand((), generator=generator))
    return (torch.randn(POSITIONS, 2048, generator=generator) * scale + shift).to(DTYPES[name])


def llama_logits(model: nn.Module, windows: Tensor) -> Logits:
    """Return logits of a language model after POSITIONS consecutive places of a window of text."""
    copies = {name: _copy(model, dtype) for name, dtype in DTYPES.items()}

    def logits(name: str, seed: int) -> Tensor:
        place = int(derive(seed, "calibration", "place").numpy().integers(8, windows.shape[1] - POSITIONS))
        with torch.no_grad():
            output = copies[name](windows[seed % len(windows)][None, : place + POSITIONS])
        found: Tensor = getattr(output, "logits", output)[0, place:]
        return found

    return logits


def class_logits(model: nn.Module, images: Tensor) -> Logits:
    """Return logits of a classifier on POSITIONS images."""
    copies = {name: _copy(model, dtype) for name, dtype in DTYPES.items()}

    def logits(name: str, seed: int) -> Tensor:
        chosen = derive(seed, "calibration", "images").numpy().integers(0, len(images), POSITIONS)
        with torch.no_grad():
            found: Tensor = copies[name](images[torch.from_numpy(chosen)].to(DTYPES[name]))
        return found

    return logits


def _copy(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    return copy.deepcopy(model).eval().to(dtype)


def nets() -> Iterator[tuple[str, Logits, float]]:
    """Yield nets with their logits and the share of unusual sizes to expect: classifiers are no language models."""
    yield "random", random_logits, 0.002
    folder = SHARED / "tiny-llama-260k"
    if folder.exists():
        corpus = text(f"wikitext2:{SHARED / 'wikitext-2'}", tokenizer=folder / "tok512.bin")
        yield "tiny-llama", llama_logits(load(folder), corpus.windows(64, HEADS)), 0.002
    digits = dataset("digits", split="test").all()[0]
    from tests.nets import trained_digits

    yield "digits-cnn", class_logits(trained_digits(), digits), 0.5
    weights = SHARED / "resnet-cifar10" / "resnet20-12fca82f.th"
    if weights.exists():
        images = torch.rand(64, 3, 32, 32, generator=derive(0, "calibration", "noise").torch()) * 4 - 2
        yield "resnet20", class_logits(load(weights, arch="cifar-resnet20"), images), 0.5


def served(logits: Tensor, seed: int, places: int | None = None) -> list[list[str]]:
    """Return raw JSON numbers of the top tokens: temperature, and a bias on two tokens of every fifth head."""
    rows = logits.float() / TEMPERATURES[seed % len(TEMPERATURES)]
    if seed % 5 == 2:
        generator = derive(seed, "calibration", "bias").numpy()
        rows[:, generator.integers(0, rows.shape[1], 2)] += float(generator.uniform(0.3, 3))
    top = torch.log_softmax(rows, -1).sort(descending=True).values[:, :TOKENS].double().tolist()
    return [[json.dumps(value if places is None else round(value, places)) for value in row] for row in top]


def judged(
    logits: Logits, unusual: float, places: int | None = None, *, told: bool = False
) -> list[tuple[str, LogprobEvidence]]:
    """Return truth and answer of every head of one net; ``told`` says its temperature to the rule."""
    found = []
    for name in DTYPES:
        for seed in range(HEADS):
            temperature = TEMPERATURES[seed % len(TEMPERATURES)] if told else None
            numbers = served(logits(name, seed), seed, places)
            found.append((name, dtype_from_logprobs(numbers, unusual=unusual, temperature=temperature)))
    return found


def summary(answers: Sequence[tuple[str, LogprobEvidence]]) -> Iterator[dict[str, Any]]:
    """Yield how often each format is named, wrongly named, left open, or refused."""
    for name in DTYPES:
        said = [found.dtype for truth, found in answers if truth == name]
        yield {
            "head": name,
            "named right": _harness.share([item == name for item in said]),
            "named wrong": _harness.share([item in DTYPES and item != name for item in said]),
            "one of": _harness.share([item.startswith("one of") for item in said]),
            "cannot tell": _harness.share([item == "cannot tell" for item in said]),
            "chance": 1 / 3,
        }


def calibration(pairs: Sequence[tuple[float, bool]]) -> list[dict[str, Any]]:
    """Return, for bins of confidence, the mean confidence and the share that was right."""
    rows = []
    for low, high in itertools.pairwise(EDGES):
        inside = [(sure, right) for sure, right in pairs if low <= sure < high or (high == 1 and sure >= low)]
        if inside:
            mean = sum(sure for sure, _ in inside) / len(inside)
            rows.append(
                {"from": low, "to": high, "confidence": mean, "right": _harness.share([right for _, right in inside])}
            )
    return rows


def confident(answers: Sequence[tuple[str, LogprobEvidence]]) -> list[tuple[float, bool]]:
    """Return the probability of the likeliest format, and whether it was the one."""
    found = []
    for truth, answer in answers:
        best = max(answer.formats.posterior, key=lambda name: answer.formats.posterior[name])
        found.append((answer.formats.posterior[best], best == truth))
    return found


def log_loss(answers: Sequence[tuple[str, LogprobEvidence]]) -> float:
    """Return the mean surprise at the truth, in nats."""
    return -sum(math.log(max(item.formats.posterior[truth], 1e-12)) for truth, item in answers) / len(answers)


def main() -> None:
    """Run as a command: tables for people, or one JSON object with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    as_json = parser.parse_args().json
    torch.set_num_threads(1)
    report: dict[str, Any] = {"heads": HEADS, "positions": POSITIONS, "machine": _harness.machine(), "nets": {}}
    everything = list[tuple[float, bool]]()
    for net, logits, unusual in nets():
        answers = judged(logits, unusual)
        everything += confident(answers)
        report["nets"][net] = {
            "unusual": unusual,
            "formats": list(summary(answers)),
            "calibration": calibration(confident(answers)),
            "log_loss": log_loss(answers),
            "temperature known": list(summary(judged(logits, unusual, told=True))),
        }
    report["calibration"] = calibration(everything)
    rounded = judged(random_logits, 0.002, places=4)
    report["rounded to 4 decimals"] = list(summary(rounded))
    if as_json:
        print(json.dumps(report, sort_keys=True))
        return
    for net, values in report["nets"].items():
        for row in (*values["formats"], *values["temperature known"], *values["calibration"]):
            print(net, row)
    for row in (*report["calibration"], *report["rounded to 4 decimals"]):
        print(row)


if __name__ == "__main__":
    main()
