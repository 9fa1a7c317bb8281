"""One model's history, made once: built, trained, quantised and hardened, each by a signer of its own."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from torch import nn

import holdfast
from holdfast._files import write_atomic
from holdfast.data import Dataset, dataset
from holdfast.evidence.lineage import Step
from holdfast.models import build_architecture, card
from holdfast.signing import generate_key, sign_statement
from holdfast.signing.keys import KeySigner
from holdfast.signing.lineage import Circumstances, origin, write_steps
from holdfast.signing.lineage.origins import resource_of
from holdfast.training.recipes import Schedule

PROVIDER, TRAINER, OPTIMISER, STRANGER = (generate_key("ed25519") for _ in range(4))
TRUST = [PROVIDER.public, TRAINER.public, OPTIMISER.public]


@cache
def data() -> Dataset:
    return dataset("digits", split="train").take(64)


@dataclass(frozen=True)
class Story:
    """Folders of the trained, quantised and hardened model, and of the data's statement."""

    trained: Path
    small: Path
    tough: Path
    origins: Path


@cache
def _made() -> Path:
    root = Path(mkdtemp(prefix="lineage-"))
    start = build_architecture("digits-cnn", seed=1)
    card(start).lineage.append(Step("build", {"architecture": "digits-cnn", "seed": "1"}))
    recipe = holdfast.Standard(schedule=Schedule(epochs=1, batch_size=32, lr=0.01))
    trained = holdfast.train(start, data(), recipe, seed=0)
    known = Circumstances(started="2026-01-02T03:04:05Z", known=(resource_of(data(), "data"),))
    save(trained, root / "trained", TRAINER, None, known)
    small = holdfast.quantize(trained, "int8")
    save(small, root / "small", OPTIMISER, root / "trained")
    bounds = holdfast.profile(small, data())
    tough = holdfast.harden(small, holdfast.RangeRestriction(bounds, slack=1.2))
    save(tough, root / "tough", OPTIMISER, root / "small")
    statement = origin(data(), kind="dataset", uri="https://example.org/digits", licence="CC-BY-4.0")
    write_atomic(root / "origins" / "digits.bundle.json", sign_statement(statement, PROVIDER))
    return root


def save(
    model: nn.Module, folder: Path, signer: KeySigner | None, source: Path | None, known: Circumstances | None = None
) -> None:
    """Save a model with the statements of how it came to be."""
    holdfast.save(model, folder)
    write_steps(folder, signer, source=source, circumstances=known)


def story(root: Path) -> Story:
    """Return a copy of the story below ``root``, to be tampered with."""
    shutil.copytree(_made(), root / "story")
    return Story(*(root / "story" / name for name in ("trained", "small", "tough", "origins")))
