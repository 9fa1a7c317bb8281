"""The demonstration: real data that ships with a dependency, a net that trains in seconds, and every stage."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from holdfast.assessment.assess import Assessment, assess
from holdfast.assessment.context import Announce, silent
from holdfast.assessment.effort import Effort
from holdfast.data import Dataset, dataset
from holdfast.errors import HoldfastError
from holdfast.models import build_architecture, card, load, save
from holdfast.signing import Signer
from holdfast.training import RandomBitErrorTraining, Recipe, Standard, recipes, train
from holdfast.training.loop import describe
from holdfast.training.recipes import Schedule

SCHEDULE = Schedule(epochs=60, lr=0.1, batch_size=64)
EFFORT = Effort(rates=(1e-4, 1e-3, 5e-3, 1e-2, 2.5e-2), images=400)


def assess_demo(
    out: Path | str, *, seed: int = 0, key: str | Signer | None = None, announce: Announce = silent
) -> Assessment:
    """Train the digits net plainly and with bit errors, then assess it; under two minutes on two cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny products lose more to hand-over than they gain
    try:
        return _assess_demo(Path(out), seed, key, announce)
    finally:
        torch.set_num_threads(threads)


def _assess_demo(folder: Path, seed: int, key: str | Signer | None, announce: Announce) -> Assessment:
    train_set, test = dataset("digits", split="train"), dataset("digits", split="test")
    model = _trained(folder / "model", Standard(schedule=SCHEDULE), train_set, seed, announce)
    recipe = RandomBitErrorTraining(rate=0.01, clip=0.5, schedule=SCHEDULE)
    robust = _trained(folder / "robust", recipe, train_set, seed, announce)
    return assess(
        model,
        test,
        out=folder,
        robust=robust,
        calibration=train_set.take(512),
        effort=EFFORT,
        seed=seed,
        key=key,
        title="A small convolutional net on handwritten digits",
        command=f"holdfast assess --demo -o {folder.name}",
        announce=announce,
    )


def _trained(folder: Path, recipe: Recipe, data: Dataset, seed: int, announce: Announce) -> nn.Module:
    """Return the trained net, from ``folder`` when an interrupted run left exactly this training there."""
    name = recipes.name_of(type(recipe))
    if (kept := _kept(folder, recipe, data, seed)) is not None:
        return kept
    model = build_architecture("digits-cnn", seed=seed)
    trained = train(model, data, recipe, seed=seed, progress=announce(f"training ({name})"))
    save(trained, folder)
    return trained


def _kept(folder: Path, recipe: Recipe, data: Dataset, seed: int) -> nn.Module | None:
    if not folder.is_dir():
        return None
    try:
        model = load(folder)
    except HoldfastError:  # half written or foreign: train again
        return None
    step = card(model).lineage[-1].to_json() if card(model).lineage else None
    wanted = {"kind": "train", "parameters": describe(recipe, seed), "inputs": {"data": data.digest}}
    return model if step == wanted else None
