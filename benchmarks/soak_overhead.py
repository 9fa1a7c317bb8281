"""What watching costs: an iteration of the golden loop against a plain forward pass of the same batch.

The loop also times the pass, holds the output against the golden one bit for bit, and counts its heartbeat. The public
harness of MaxiMals logs a "wasted" share for the same work (copy to the CPU and comparison with a tolerance); here it
is measured against the pass alone.
"""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import torch

from benchmarks import _harness
from holdfast.data import dataset
from holdfast.models import build_architecture
from holdfast.soak.benches import model_bench
from holdfast.soak.devices import Device, usable_cores
from holdfast.soak.golden import golden_bytes, keep_golden
from holdfast.soak.worker import Loop, Orders

ITERATIONS = 100


def measure() -> _harness.Result:
    """Time the golden loop against plain forward passes of the same batches."""
    torch.set_num_threads(1)
    images = dataset("synthetic:n=16,size=32,channels=3")
    bench = model_bench("resnet20", build_architecture("cifar-resnet20"), images, samples=16)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        golden = keep_golden(Path(folder), golden_bytes([bench]), [bench], {})
        orders = Orders(Device("cpu", usable_cores()[0]), (bench,), golden, limit=ITERATIONS, audit_every=1e9)
        loop = Loop(orders, lambda message: None, [0, 0])
        loop.prepare()

        def plain() -> None:
            for iteration in range(ITERATIONS):
                bench.module(bench.inputs[iteration % len(bench.inputs)])

        pairs = _harness.paired(lambda: loop.run(threading.Event()), plain, repeats=9)
    each = [(ours / ITERATIONS * 1e3, theirs / ITERATIONS * 1e3) for ours, theirs in pairs]
    claim = "one iteration of the golden loop (ResNet-20, batch 4) against one forward pass"
    return _harness.summarise(claim, each, peer_name="the forward pass alone", unit="CPU-ms")


if __name__ == "__main__":
    _harness.main(measure)
