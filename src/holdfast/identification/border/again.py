"""Border inputs asked about again, from their files: what a later day, or another process, says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from holdfast.errors import DigestMismatch, InvalidConfig
from holdfast.identification.border.asking import Oracle
from holdfast.identification.border.checks import Demands, Standing, standings
from holdfast.identification.border.inputs import BorderInput, BorderSet
from holdfast.identification.border.oracle import open_oracles
from holdfast.identification.border.setting import recorded_setting, without_rank
from holdfast.models import manifest_of
from holdfast.models.subject import evaluating


@dataclass(frozen=True)
class Again:
    """One input on one platform, then and now.

    Attributes:
        number: of the input, as in its file name.
        recorded: what was written; its label is None where the platform kept none.
        found: what the platform says now.
    """

    number: int
    recorded: Standing
    found: Standing

    @property
    def holds(self) -> bool:
        """Whether the label is the recorded one, on every way of asking; nothing to hold where there was none."""
        return self.recorded.label is None or self.found.label == self.recorded.label


def recheck(
    folder: Path | str,
    model: nn.Module,
    *,
    platforms: Sequence[str] = (),
    demands: Demands | None = None,
    seed: int = 0,
) -> list[Again]:
    """Read border inputs from their PNG files and ask the platforms of this machine about them again.

    Args:
        folder: as :func:`border` wrote it; its platforms are asked in batches of the size that is recorded there.
        model: the model that it is about.
        platforms: names of those to ask; all that are recorded if none are named. What a rank answered is recorded as
            ``PLATFORM@RANK``: this machine answers for it under the setting of that name, and so says whether it is
            such a platform.
        demands: ways of asking; ``fresh`` processes are started once a platform, for all inputs.

    Raises:
        DigestMismatch: the inputs are about another model, or a file was changed.
        InvalidConfig: a platform that is not recorded, or not a setting of this machine.
    """
    kept = BorderSet.load(folder)
    require_model(kept, model)
    recorded = recorded_on(kept.inputs)
    if missing := sorted(set(platforms) - set(recorded) - set(map(without_rank, recorded))):
        raise InvalidConfig(f"{folder} says nothing about {missing[0]}", hint=f"it knows {', '.join(recorded)}")
    result = list[Again]()
    for name in [name for name in recorded if not platforms or {name, without_rank(name)} & set(platforms)]:
        setting = recorded_setting(name, recorded[name][0][1].batch)
        with evaluating(model), open_oracles(model, [setting], kept.lattice) as (oracle,):
            result.extend(_asked(oracle, kept, recorded[name], demands or Demands(), seed))
    return sorted(result, key=lambda item: item.number)


def require_model(kept: BorderSet, model: nn.Module) -> None:
    """Raise :class:`DigestMismatch` where border inputs are about another model than ``model``."""
    if (digest := manifest_of(model).digest) != kept.model_digest:
        raise DigestMismatch(f"the border inputs are about model {kept.model_digest[:19]}, not {digest[:19]}")


def recorded_on(inputs: Sequence[BorderInput]) -> dict[str, list[tuple[int, Standing]]]:
    """Return what each platform is recorded to have answered, with the number of the input."""
    found: dict[str, list[tuple[int, Standing]]] = {}
    for number, item in enumerate(inputs):
        for standing in item.standings:
            found.setdefault(standing.platform, []).append((number, standing))
    return found


def _asked(
    oracle: Oracle, kept: BorderSet, recorded: Sequence[tuple[int, Standing]], demands: Demands, seed: int
) -> list[Again]:
    images = [kept.inputs[number].image for number, _ in recorded]
    now = standings(oracle, images, kept.lattice, demands, seed)
    return [Again(number, then, found) for (number, then), found in zip(recorded, now, strict=True)]
