"""Running all stages and sealing the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from torch import nn

from holdfast._files import make_folder, write_atomic
from holdfast.assessment.artifact import artifact
from holdfast.assessment.bit_errors import bit_errors
from holdfast.assessment.campaigns import campaigns
from holdfast.assessment.context import Announce, Context, silent
from holdfast.assessment.effort import Effort, effort_named
from holdfast.assessment.platform import platform
from holdfast.assessment.shield import shielded
from holdfast.data import Dataset
from holdfast.errors import InvalidConfig
from holdfast.evidence.record import Record
from holdfast.execution import describe_platform
from holdfast.execution.fit import require_fit
from holdfast.models import card, manifest_of, save
from holdfast.reporting import render
from holdfast.signing import Signer, generate_key, load_signer, write_passport
from holdfast.signing.lineage.steps import adopt
from holdfast.signing.passport import BUNDLE
from holdfast.signing.signers import require_key

_CALIBRATION = 0.2  # share of the test set that sets bounds and never judges them
_OURS = {"model", "hardened", "robust", "records", "campaign.sqlite", "report.html", BUNDLE, "passport.pub"}


@dataclass(frozen=True)
class Assessment:
    """A finished assessment: its folder and its records by kind."""

    folder: Path
    records: Mapping[str, Record]
    signer: str  # fingerprint
    ephemeral: bool


def assess(
    model: nn.Module,
    test: Dataset,
    *,
    out: Path | str,
    robust: nn.Module | None = None,
    calibration: Dataset | None = None,
    effort: str | Effort = "standard",
    seed: int = 0,
    key: str | Signer | None = None,
    title: str = "Model",
    command: str = "holdfast.assess",
    statements: Path | str | None = None,
    announce: Announce = silent,
) -> Assessment:
    """Vouch for, sweep, inject, harden, trace and shield ``model``, and leave a signed report in ``out``.

    An interrupted assessment goes on where it stopped when called again with the same arguments.

    Args:
        model: a float classifier.
        test: labelled images that the model was not trained on.
        out: folder to write; must be new, empty, or an earlier assessment.
        robust: the same architecture trained with bit errors, as one more arm.
        calibration: images for ranges and scales; by default a fifth of ``test`` that is then not evaluated.
        effort: ``quick``, ``standard``, ``thorough`` or sizes of your own.
        seed: of every random choice.
        key: ``file:KEY.pem`` or a signer; without it a key is made for this run and forgotten, and the report says so.
        title: headline of the report.
        command: shown in the report as how it was made.
        statements: the artifact that ``model`` was loaded from, whose lineage statements go along with the copy.
        announce: gets the title of each stage and returns its progress callback.

    Raises:
        InvalidConfig: ``out`` holds other files, the test set has no labels or is none that the model takes, or the
            model is quantised already.
    """
    require_fit(model, test)
    folder = _prepared(Path(out))
    signer = generate_key() if key is None else require_key(load_signer(key))
    context = _context(model, test, calibration, folder, effort, seed, robust, announce)
    if card(model).architecture is not None:
        save(model, folder / "model")
        adopt(folder / "model", statements)
    artifact(context)
    bit_errors(context)
    campaigns(context)
    platform(context)
    shielded(context)
    identity = {"fingerprint": signer.public.fingerprint, "ephemeral": key is None}
    created = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    extra = {"title": title, "signer": identity, "created": created, "command": command}
    write_atomic(folder / "report.html", render(context.records, extra))
    facts = {"model": manifest_of(model).digest, "ephemeral": key is None, "platform": describe_platform().digest}
    write_passport(folder, signer, facts=facts)
    records = {record.kind: record for record in context.records}
    return Assessment(folder, records, signer.public.fingerprint, key is None)


def _context(
    model: nn.Module,
    test: Dataset,
    calibration: Dataset | None,
    folder: Path,
    effort: str | Effort,
    seed: int,
    robust: nn.Module | None,
    announce: Announce,
) -> Context:
    if not test.classes:
        raise InvalidConfig("an assessment needs labelled data")
    if card(model).lenses:
        raise InvalidConfig("the model is quantised already", hint="assess the float model; storage formats are arms")
    evaluation = test
    if calibration is None:
        calibration, evaluation = test.split(_CALIBRATION, seed)
    sizes = effort_named(effort) if isinstance(effort, str) else effort
    known = card(model)
    known.classes, known.preprocessing = test.classes, test.preprocessing.to_json()
    return Context(folder, model.eval(), test, calibration, evaluation, sizes, seed, robust, announce)


def _prepared(folder: Path) -> Path:
    """Return the folder, made; refuse one that holds anything an assessment did not write."""
    if folder.is_dir():
        foreign = sorted(entry.name for entry in folder.iterdir() if entry.name not in _OURS)
        foreign = [name for name in foreign if not name.startswith("campaign.sqlite-")]
        if foreign:
            raise InvalidConfig(
                f"{folder} holds {foreign[0]}, which is no part of an assessment", hint="use a new folder"
            )
    elif folder.exists():
        raise InvalidConfig(f"{folder} is a file", hint="name a folder")
    return make_folder(folder)
