"""Accuracy, and robust error: the test error of a model whose stored bits fail, over simulated chips."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.data import Dataset, require_images
from holdfast.errors import InvalidConfig, UsageError
from holdfast.execution.chips import ChipRun, Chips, Entry, Stop, is_random
from holdfast.execution.condition import Fault, require_fault
from holdfast.execution.executors import build_executor
from holdfast.execution.fit import require_fit
from holdfast.execution.over_chips import RobustError
from holdfast.execution.run import Progress, beside, one_thread, predict
from holdfast.execution.sequences import sequence_named
from holdfast.execution.statistics import Proportion
from holdfast.models.misfit import REFUSALS


def accuracy(model: nn.Module, data: Dataset, *, batch_size: int = 128, progress: Progress | None = None) -> Proportion:
    """Return top-1 accuracy with Wilson's interval; an output with NaN counts as wrong.

    Raises:
        InvalidConfig: the data has no labels, or labels without an output, or the model does not take it.
    """
    require_images(data)
    data = beside(model, data)
    try:
        outputs = predict(model, data, batch_size=batch_size, progress=progress)
    except REFUSALS as error:
        if not isinstance(error, UsageError):
            require_fit(model, data)  # which says what is wrong if one sample alone is refused as well
        raise
    right = ~wrong_images(outputs, data)
    return Proportion.wilson(int(right.sum()), len(data))


def robust_error(
    model: nn.Module,
    data: Dataset,
    fault: Fault,
    *,
    at: str = "weights",
    chips: int = 10,
    half_width: float | None = None,
    max_chips: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    method: str = "betting",
    batch_size: int = 128,
    executor: str = "inline",
    store: Path | str | None = None,
    name: str = "robust-error",
    progress: Progress | None = None,
) -> RobustError:
    """Evaluate ``model`` on realisations of ``fault``: chips 0, 1, 2, ... of ``seed``.

    Chip k of one seed is the same for every model with the same sites, so models compare on common random numbers. An
    output with NaN counts as wrong. The result depends neither on the executor nor on interruptions; torch runs on one
    thread meanwhile.

    Args:
        model: any classifier, (batch, ...) to (batch, classes), on any device; chips are drawn there if the law can.
        data: labelled images, all of them met by every chip.
        fault: the law that draws a chip.
        at: selection of sites that may fail.
        chips: how many; with ``half_width``, how many at least; of a law without randomness, always one.
        half_width: go on until ``RobustError.anytime`` is at most this wide on each side, 0..1.
        max_chips: the end of that, in any case.
        seed: root of all chips.
        confidence: of the intervals.
        method: of ``anytime``: ``betting`` or ``empirical-bernstein``.
        batch_size: images per forward pass.
        executor: ``inline`` or ``processes:N``.
        store: SQLite file that takes finished chips; the same call resumes from it, with more chips it continues.
        name: of this measurement in the store.
        progress: called with (chips done, most chips) after each.

    Raises:
        InvalidConfig: no chips, a dataset without labels or that the model does not take, or a store that holds other
            chips under this name.
        NoSuchSite: nothing matches ``at``.
        StorageError: the store cannot be written.
    """
    require_fault(fault)
    require_images(data)
    stop, workers = Stop.of(fault, chips, half_width, max_chips), build_executor(executor)
    sequence, found = sequence_named(method, confidence), list[Entry]()
    here = beside(model, data)
    with one_thread():
        require_fit(model, here)

        def measure() -> Entry:
            return _measured(predict(model, here, batch_size=batch_size), here)

        clean = measure()
        drawn = Chips(model=model, fault=fault, at=at, seed=seed, example=here.example)
        plan = drawn.plan("robust-error", data.digest, batch_size=batch_size)
        run = ChipRun(chips=drawn, measure=measure, plan=plan, clean=clean, store=store, name=name)
        with closing(run.entries(workers, stop)) as entries:
            for entry in entries:
                found.append(entry)
                interval = sequence.add(float(_unpacked(entry, len(data)).mean()))
                if progress is not None:
                    progress(len(found), stop.most)
                if stop.reached(len(found), interval.width / 2):
                    break
    wrong = np.stack([_unpacked(entry, len(data)) for entry in found])
    return RobustError.of(
        _unpacked(clean, len(data)),
        wrong,
        anytime=sequence.estimate,
        nonfinite=[entry["nonfinite"] for entry in found],
        flips=[entry["flips"] for entry in found],
        confidence=confidence,
        question=drawn.question(data.digest) | {"classes": len(data.classes), "random": is_random(fault)},
    )


def _measured(outputs: Tensor, data: Dataset) -> Entry:
    wrong = np.packbits(wrong_images(outputs, data).cpu().numpy())
    return {"wrong": wrong.tobytes().hex(), "nonfinite": int((~torch.isfinite(outputs)).any(1).sum())}


def _unpacked(entry: Entry, images: int) -> np.ndarray:
    """Return which images are wrong, bool, shape (n,)."""
    packed = np.frombuffer(bytes.fromhex(entry["wrong"]), np.uint8)
    return np.unpackbits(packed, count=images).astype(bool)


def wrong_images(outputs: Tensor, data: Dataset) -> Tensor:
    """Return which images are classified wrongly, bool, shape (n,); an output with NaN is wrong.

    Raises:
        InvalidConfig: the data has no labels, or labels that the model has no output for.
    """
    low, high = int(data.labels.min()), int(data.labels.max())
    if low < 0:
        raise InvalidConfig(f"{data.name} has no labels to compare with", hint="error rates take labelled images")
    if high >= outputs.shape[1]:
        raise InvalidConfig(f"label {high} is outside the model's {outputs.shape[1]} classes", hint="check the dataset")
    return (outputs.argmax(1) != data.labels) | torch.isnan(outputs).any(1)
