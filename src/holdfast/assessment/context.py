"""What every stage of an assessment shares, and how a stage is kept, found again and not repeated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from holdfast._files import read_bytes, write_atomic
from holdfast.assessment.effort import Effort
from holdfast.data import Dataset
from holdfast.errors import ArtifactError
from holdfast.evidence.record import Measurement, Record
from holdfast.execution import Progress, describe_platform
from holdfast.models import card, model_subject

Findings = tuple[dict[str, Measurement], dict[str, Any]]
Announce = Callable[[str], Progress]


def tool() -> dict[str, str]:
    """Return what records say about the program that made them."""
    return {"name": "holdfast", "version": version("holdfast")}


def silent(title: str) -> Progress:
    """Announce a stage to nobody."""
    return lambda done, total: None


@dataclass
class Context:
    """One assessment in progress.

    ``calibration`` and ``evaluation`` are disjoint: what sets a bound never judges it.
    """

    folder: Path
    model: nn.Module
    test: Dataset
    calibration: Dataset
    evaluation: Dataset
    effort: Effort
    seed: int
    robust: nn.Module | None = None  # trained with bit errors, when there was training data
    announce: Announce = silent
    records: list[Record] = field(default_factory=list)

    @property
    def store(self) -> Path:
        """The campaign store."""
        return self.folder / "campaign.sqlite"

    def stage(
        self, kind: str, parameters: Mapping[str, Any], inputs: Mapping[str, str], measure: Callable[[], Findings]
    ) -> Record:
        """Return the record of one stage: the kept one if nothing it depends on changed, else a new measurement."""
        subject = model_subject(self.model)
        procedure = {"type": kind, "version": 1, **parameters}
        platform = describe_platform().to_json()
        kept = self._kept(kind)
        wanted = (subject.to_json(), procedure, dict(inputs), self.seed, platform)
        if (
            kept is None
            or (kept.subject.to_json(), dict(kept.procedure), dict(kept.inputs), kept.seed, kept.platform) != wanted
        ):
            measured, facts = measure()
            kept = Record(
                kind=kind,
                subject=subject,
                procedure=procedure,
                measured=measured,
                inputs=inputs,
                facts=facts,
                seed=self.seed,
                platform=platform,
                lineage=tuple(step.to_json() for step in card(self.model).lineage),
                tool=tool(),
            )
            write_atomic(self._path(kind), kept.to_bytes())
        self.records.append(kept)
        return kept

    def _kept(self, kind: str) -> Record | None:
        if not self._path(kind).is_file():
            return None
        try:
            return Record.from_bytes(read_bytes(self._path(kind), "record"))
        except ArtifactError:  # an older or damaged record is measured again
            return None

    def _path(self, kind: str) -> Path:
        return self.folder / "records" / f"{kind}.json"
