"""Running a whole experiment: every arm on the same data and the same chips, and what came out as JSON and a table."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast._files import write_atomic
from holdfast.data import Dataset, dataset, datasets
from holdfast.errors import InvalidConfig, UnknownName, UsageError
from holdfast.evidence import canonical
from holdfast.evidence.record import Record
from holdfast.execution import Progress
from holdfast.signing import Signer
from holdfast.training.compute import Compute, Precision
from holdfast.training.experiments.arms import Announce, Setting, run_arm
from holdfast.training.experiments.experiment import Experiment
from holdfast.training.experiments.table import comparison, markdown

RESULTS, TABLE = "results.json", "table.md"
RESULTS_TYPE = "holdfast.experiment-results/v1"


def run_experiment(
    experiment: Experiment,
    folder: Path | str,
    *,
    root: Path | str | None = None,
    seed: int = 0,
    device: str = "cpu",
    announce: Announce | None = None,
    finished: Callable[[Record], None] | None = None,
    signer: Signer | None = None,
    precision: Precision = "float32",
    compile: bool = False,
    graphs: bool = False,
) -> dict[str, Any]:
    """Train and measure every arm, and return the results as they stand in ``folder/results.json``.

    An interrupted run goes on when the same call is repeated; ``table.md`` and ``results.json`` are complete after
    every arm.

    Args:
        experiment: as read, possibly at a smaller scale or with fewer arms.
        folder: takes one folder for each arm, ``results.json`` and ``table.md``.
        root: where the data set lies, for data sets that are read from files.
        seed: of initial weights, order, augmentation, faults in training and chips in evaluation.
        device: where networks compute.
        announce: gives a progress callback for a titled piece of work.
        finished: called with the record of each arm.
        signer: signs the lineage of every model; it is written unsigned without.
        precision: of products and convolutions in training; weights stay float32.
        compile: compile the networks that are trained.
        graphs: capture their passes as CUDA graphs.

    Raises:
        MissingDevice: no such device.
        InvalidConfig: the folder holds a run with other parameters, or the data set is read from files and has no root.
        UsageError: training diverged in some arms; all others are done, and the message names the first.
    """
    compute = Compute(device=device, precision=precision, compile=compile, graphs=graphs)
    train, test = (_data(experiment, root, split) for split in ("train", "test"))
    setting = Setting(experiment, train, test, Path(folder), seed, compute, announce or _silent, signer)
    records: list[Record] = []
    diverged: dict[str, str] = {}
    for arm in experiment.arms:
        try:
            records.append(run_arm(setting, arm))
        except (InvalidConfig, UnknownName):
            raise
        except UsageError as error:  # the loss or a weight is no number any more: the other arms can still be had
            diverged[arm.name] = str(error)
        results = _written(experiment, Path(folder), records, diverged)
        if finished is not None and arm.name not in diverged:
            finished(records[-1])
    for name, reason in diverged.items():
        hint = f"{len(records)} of {len(experiment.arms)} arms are done; leave it out with --only"
        raise UsageError(f"{name} did not train: {reason}", hint=hint)
    return results


def _written(
    experiment: Experiment, folder: Path, records: Sequence[Record], diverged: Mapping[str, str]
) -> dict[str, Any]:
    results = {
        "type": RESULTS_TYPE,
        "experiment": experiment.name,
        "title": experiment.title,
        "scale": experiment.scale,
        "arms": [{**record.to_json(), "comparison": comparison(record)} for record in records],
        "diverged": dict(diverged),
    }
    write_atomic(folder / RESULTS, canonical.dumps(results))
    write_atomic(folder / TABLE, markdown(experiment, records, diverged).encode())
    return results


def _data(experiment: Experiment, root: Path | str | None, split: str) -> Dataset:
    name = experiment.data.name
    if root is None and "root" in inspect.signature(datasets.get(name)).parameters:
        raise InvalidConfig(f"the data set {name} is read from files", hint="say where they lie: --data FOLDER")
    spec = name if root is None else f"{name}:{root}"
    found = dataset(spec, split=split, **experiment.data.options)
    return found.take(experiment.train_images) if split == "train" and experiment.train_images else found


def _silent(_: str) -> Progress:
    return lambda done, total: None
