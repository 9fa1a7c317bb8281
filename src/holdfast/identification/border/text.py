"""Border prompts: texts after which two platforms' greedy next tokens differ (HSPI, figure 7, has one and no code).

A prompt sits on the border where the two likeliest tokens are all but tied. Real text is full of such places: all
positions of many windows are ranked by their gap in one pass, the closest are asked about as prompts of their own, and
where both platforms still agree, single tokens are exchanged for those that close the gap further.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from holdfast._files import write_atomic
from holdfast.data.tokenizer import Tokenizer
from holdfast.errors import InvalidConfig, VerificationError
from holdfast.evidence import canonical
from holdfast.execution.run import evaluating
from holdfast.identification.border.checks import Asked, Demands, Standing, standing
from holdfast.identification.border.gap import Answers, margins
from holdfast.identification.border.setting import Setting
from holdfast.identification.border.text_oracle import Vocabulary, in_full_batches, open_text_oracles
from holdfast.models import manifest_of
from holdfast.seeds import Seed, derive

TEXT_TYPE = "holdfast.border-prompts/v1"
Typed = Callable[[list[int]], bool]  # whether somebody who types the text of tokens gets these tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class NearTies:
    """Search of prompts.

    Args:
        shortest: tokens of a prompt, at least.
        places: near-ties that are asked about, closest first.
        candidates: exchanged tokens that are tried in one step.
        steps: steps at one near-tie.
    """

    shortest: int = 4
    places: int = 64
    candidates: int = 32
    steps: int = 4

    def __post_init__(self) -> None:
        if min(self.shortest, self.places, self.candidates) < 1 or self.steps < 0:
            raise InvalidConfig("a search asks about one place with one candidate at least", hint="steps may be 0")

    def search(
        self, pair: tuple[Asked, Asked], model: nn.Module, windows: Tensor, typed: Typed, seed: Seed | int
    ) -> Iterator[Tensor]:
        """Yield prompts (t,) that the pair continues with different tokens; windows are int64 (w, context)."""
        size = 0
        for number, prompt in enumerate(self._near_ties(model, windows)):
            if not typed(prompt.tolist()):
                continue
            tried = prompt[None]
            generator = derive(seed, "border", "exchange", number).numpy()
            for _ in range(self.steps + 1):
                answers = Answers(*(in_full_batches(oracle, tried) for oracle in pair))
                size = answers.first.shape[1]
                border = answers.is_border()
                if border.any():
                    yield tried[int(answers.margin.where(border, -1.0).argmax())]
                    break
                closest = tried[int(margins(answers.first + answers.second).argmin())]
                tried = self._exchanged(closest, size, typed, generator)
                if not len(tried):
                    break

    def _near_ties(self, model: nn.Module, windows: Tensor) -> list[Tensor]:
        with torch.no_grad(), evaluating(model):
            gaps = torch.cat([_gaps(model(part)) for part in windows.split(16)])
        gaps[:, : self.shortest - 1] = torch.inf
        order = gaps.flatten().argsort(stable=True)[: self.places]
        return [windows[int(place) // gaps.shape[1], : int(place) % gaps.shape[1] + 1] for place in order]

    def _exchanged(self, prompt: Tensor, size: int, typed: Typed, generator: Any) -> Tensor:
        """Return prompts with one token, not the first, exchanged for another; only such as can be typed."""
        rows, tries = list[Tensor](), 0
        while len(rows) < self.candidates and tries < 8 * self.candidates and len(prompt) > 1:
            tries += 1
            row = prompt.clone()
            row[int(generator.integers(1, len(prompt)))] = int(generator.integers(size))
            if typed(row.tolist()):
                rows.append(row)
        return torch.stack(rows) if rows else prompt.new_empty((0, len(prompt)))


def _gaps(output: Any) -> Tensor:
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.dim() != 3:
        raise InvalidConfig("a language model returns (batch, tokens, vocabulary)")
    top = logits.float().topk(2, dim=2).values
    return top[:, :, 0] - top[:, :, 1]


@dataclass(frozen=True)
class BorderPrompt:
    """A prompt with two continuations, checked.

    Attributes:
        tokens: of the prompt.
        text: the same, as one types it; empty without a tokenizer.
        standings: what each platform answered: its label is the next token.
        continuations: greedy tokens of each platform, by name; they part at the first.
    """

    tokens: tuple[int, ...]
    text: str
    standings: tuple[Standing, ...]
    continuations: dict[str, list[int]]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self) | {"tokens": list(self.tokens), "standings": [item.to_json() for item in self.standings]}


@dataclass(frozen=True)
class BorderPrompts:
    """Border prompts of one language model."""

    prompts: tuple[BorderPrompt, ...]
    model_digest: str
    tokenizer: str  # digest, or empty

    def save(self, folder: Path | str, oracles: Sequence[Asked], demands: Demands | None = None) -> None:
        """Check every prompt once more and write ``prompts.json``.

        Raises:
            VerificationError: one is no border prompt any more; nothing was written.
        """
        for item in self.prompts:
            checked_prompt(torch.tensor(item.tokens), oracles, demands or Demands(), 0)
        value = {
            "type": TEXT_TYPE,
            "model": self.model_digest,
            "tokenizer": self.tokenizer,
            "prompts": [item.to_json() for item in self.prompts],
        }
        write_atomic(Path(folder) / "prompts.json", canonical.dumps(value))


def checked_prompt(
    prompt: Tensor, oracles: Sequence[Asked], demands: Demands, seed: Seed | int
) -> tuple[Standing, ...]:
    """Return what each platform says after ``prompt`` (t,), the first two of which must differ.

    Raises:
        VerificationError: one of the two does not keep its token in every check, or both give the same.
    """
    size = int(oracles[0].logits(prompt.expand(oracles[0].batch, -1)).shape[1])
    space = Vocabulary(size, len(prompt))
    found = tuple(standing(oracle, prompt, space, demands, seed) for oracle in oracles)
    if complaints := [item.complaint for item in found[:2] if item.complaint]:
        raise VerificationError(f"no border prompt: {'; '.join(complaints)}")
    if found[0].label == found[1].label:
        raise VerificationError(f"no border prompt: both platforms go on with token {found[0].label}")
    return found


def border_text(
    model: nn.Module,
    windows: Tensor,
    *,
    platforms: Sequence[str | Setting | Asked],
    tokenizer: Tokenizer | None = None,
    n: int = 1,
    search: NearTies | None = None,
    demands: Demands | None = None,
    batch: int | None = None,
    continuation: int = 8,
    seed: int = 0,
) -> BorderPrompts:
    """Find ``n`` prompts that two platforms continue with different greedy tokens.

    Args:
        model: a causal language model, int64 (batch, t) to logits (batch, t, vocabulary).
        windows: int64 (w, context), texts to look in, as ``Text.windows`` gives; each begins with the start token.
        platforms: as for :func:`border`; the first two are separated, others asked.
        tokenizer: prompts are then such that whoever types their text sends these very tokens.
        n: prompts wanted.
        search: near-ties of the windows, and exchanges of single tokens, if not given.
        demands: what each must withstand.
        batch: prompts in one pass of each local platform.
        continuation: greedy tokens kept of each platform.
        seed: of exchanged tokens and neighbours.

    Raises:
        InvalidConfig: fewer than two platforms, or no language model.
        VerificationError: fewer were found than wanted.
    """
    if len(platforms) < 2 or n < 1 or windows.dim() != 2:
        raise InvalidConfig("border prompts are looked for in windows (w, context), for two platforms or more")
    typed = _typed_by(tokenizer)
    kept, trouble = dict[tuple[int, ...], BorderPrompt](), "no near-tie was near enough"
    with open_text_oracles(model, platforms, batch=batch) as oracles:
        for prompt in (search or NearTies()).search((oracles[0], oracles[1]), model, windows, typed, seed):
            try:
                found = checked_prompt(prompt, oracles, demands or Demands(), seed)
            except VerificationError as error:
                trouble = str(error)
                continue
            tokens = tuple(prompt.tolist())
            text = tokenizer.decode(list(tokens)) if tokenizer is not None else ""
            going_on = {oracle.name: _continued(oracle, prompt, continuation) for oracle in oracles}
            kept[tokens] = BorderPrompt(tokens, text, found, going_on)
            if len(kept) == n:
                digest = tokenizer.digest if tokenizer is not None else ""
                return BorderPrompts(tuple(kept.values()), manifest_of(model).digest, digest)
    raise VerificationError(f"{len(kept)} of {n} border prompts found: {trouble}", hint="give more text or more places")


def _typed_by(tokenizer: Tokenizer | None) -> Typed:
    if tokenizer is None:
        return lambda tokens: True
    # the first token is the start token, which a server adds itself
    return lambda tokens: tokenizer.encode(tokenizer.decode(tokens)) == tokens[1:]


def _continued(oracle: Asked, prompt: Tensor, count: int) -> list[int]:
    tokens = prompt[None]
    for _ in range(count):
        following = in_full_batches(oracle, tokens)[0].argmax()
        tokens = torch.cat((tokens, following.view(1, 1)), 1)
    return [int(token) for token in tokens[0, len(prompt) :]]
