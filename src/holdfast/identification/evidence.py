"""What speaks for an answer, and which of it decided: one line for a person, nats for the arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.identification.grid import CANNOT_TELL
from holdfast.identification.grid_evidence import grid_evidence
from holdfast.identification.grid_text import Rounding, rounding_of

_WORDS = 4096  # enough to see a rounding or a grid


@dataclass(frozen=True, slots=True)
class Evidence:
    """One finding.

    Attributes:
        kind: ``word equality``, ``ULP distance``, ``grid``, ``rounding``, ``fleet`` or ``not finite``.
        finding: what was seen, in words.
        nats: by how much it puts the answer before its closest rival; 0 for what describes and does not separate.
    """

    kind: str
    finding: str
    nats: float = 0.0

    def __str__(self) -> str:
        """Return the finding."""
        return self.finding


def rounding_in(outputs: Tensor) -> Rounding:
    """Tell from float words whether a service rounded them to decimals or digits before it sent them."""
    words = outputs.detach().reshape(-1)
    words = words[torch.isfinite(words) & (words != 0)][:_WORDS]
    return rounding_of([str(word) for word in words.numpy()])


def rounded(words: Tensor, rounding: Rounding) -> Tensor:
    """Round float words as a service did; words that it did not round are returned as they are."""
    if not rounding.rounded or rounding.places is None:
        return words
    wide = words.double()
    if rounding.kind == "decimals":
        return _to_decimals(wide, rounding.places).to(words.dtype)
    top = torch.where(wide == 0, torch.ones_like(wide), wide.abs()).log10().floor()
    scale = 10.0 ** (rounding.places - 1 - top)
    return ((wide * scale).round() / scale).to(words.dtype)


def _to_decimals(wide: Tensor, places: int) -> Tensor:
    return (wide * 10.0**places).round() / 10.0**places


def step_of(words: Tensor, rounding: Rounding) -> Tensor | None:
    """Return the distance of neighbouring rounded values at each word, None where nothing was rounded."""
    if not rounding.rounded or rounding.places is None:
        return None
    wide = words.double()
    if rounding.kind == "decimals":
        return torch.full_like(wide, 10.0**-rounding.places)
    top = torch.where(wide == 0, torch.ones_like(wide), wide.abs()).log10().floor()
    return 10.0 ** (top - rounding.places + 1)


def described(rounding: Rounding, grid: str) -> list[Evidence]:
    """Return what the words themselves tell, without any reference: rounding and number format."""
    found = []
    if rounding.rounded:
        what = f"outputs rounded to {rounding.places} {'decimals' if rounding.kind == 'decimals' else 'digits'}"
        found.append(Evidence("rounding", f"{what}; references were rounded alike before they were compared"))
    return [*found, Evidence("grid", f"output grid: {grid}")]


def not_numbers(outputs: Tensor) -> list[Evidence]:
    """Return a finding if words are NaN or infinite; they agree with equal words only."""
    count = int((~torch.isfinite(outputs)).sum())
    if not count:
        return []
    return [
        Evidence("not finite", f"{count} of {outputs.numel()} words {'is' if count == 1 else 'are'} NaN or infinite")
    ]


def grid_of(outputs: Tensor, rounding: Rounding) -> str:
    """Return the number format that the words show, or ``cannot tell``."""
    if rounding.rounded or outputs.dtype != torch.float32:
        return CANNOT_TELL
    return grid_evidence(outputs.reshape(len(outputs), -1)[:_WORDS], prior={"tf32": 1e-3}).dtype
