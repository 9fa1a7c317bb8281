"""Recordings made up for tests: outputs with habits that a classifier can or cannot learn."""

from __future__ import annotations

import torch

from holdfast.execution import Trace
from holdfast.identification.distribution import Recording
from holdfast.seeds import derive


def made(
    label: str, outputs: torch.Tensor, *, start: int = 0, run: str = "run", machine: str = "m", model: str = "net"
) -> Recording:
    names = tuple(f"input-{start + row}" for row in range(len(outputs)))
    return Recording(label, Trace(outputs, f"probes-{start}-{len(outputs)}", model, {}), names, run, machine)


def values(n: int, *, words: int = 4, seed: int = 0) -> torch.Tensor:
    """The exact outputs that every platform approximates."""
    return torch.randn(n, words, generator=derive(seed, "values").torch())


def family(n: int = 60, *, run: str = "run", start: int = 0, noise: int = 0, machine: str = "m") -> list[Recording]:
    """fp32 stacks a and b that differ by chance in their last bits, and a bf16 one, on the same inputs."""
    exact = values(n, seed=start)
    recordings = [made("bf16", exact.bfloat16().float(), run=run, start=start, machine=machine)]
    for place, label in enumerate(("fp32-a", "fp32-b")):
        steps = torch.randint(-2, 3, exact.shape, generator=derive(noise, "steps", place, start).torch())
        outputs = (exact.view(torch.int32) + steps.int()).view(torch.float32)
        recordings.append(made(label, outputs, run=run, start=start, machine=machine))
    return recordings


def telling(n: int = 60, *, start: int = 0) -> list[Recording]:
    """Two classes that one bit tells apart, whatever the input: one in the middle of every mantissa."""
    words = values(n, seed=start).view(torch.int32)
    return [
        made("even", (words & ~(1 << 12)).view(torch.float32), start=start),
        made("odd", (words | (1 << 12)).view(torch.float32), start=start),
    ]
