"""Border prompts: texts after which two platforms' greedy next tokens differ (HSPI, figure 7, has one and no code).

A prompt sits on the border where the two likeliest tokens are all but tied. Real text is full of such places: all
positions of many windows are ranked by their gap in one pass, the closest are asked about as prompts of their own, and
where both platforms still agree, single tokens are exchanged for those that close the gap further.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.data.text import Text
from holdfast.data.tokenizer import Tokenizer
from holdfast.errors import InvalidConfig, VerificationError
from holdfast.execution import Progress
from holdfast.identification.border.asking import Oracle, in_full_batches
from holdfast.identification.border.checks import Demands
from holdfast.identification.border.gap import Answers, margins
from holdfast.identification.border.prompt_set import (
    PROMPTS,
    BorderPrompt,
    BorderPrompts,
    checked_prompt,
    write_checked,
)
from holdfast.identification.border.text_oracle import open_text_oracles
from holdfast.identification.settings import Setting
from holdfast.models import card, manifest_of
from holdfast.models.outputs import logits_of
from holdfast.models.subject import evaluating
from holdfast.seeds import Seed, derive

_WINDOWS, _LONGEST = 64, 64  # windows of a text that are looked in, and tokens of one
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
        self, pair: tuple[Oracle, Oracle], model: nn.Module, windows: Tensor, typed: Typed, seed: Seed | int
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
    logits = logits_of(output)
    if not isinstance(logits, Tensor) or logits.dim() != 3:
        raise InvalidConfig("a language model returns (batch, tokens, vocabulary)")
    return margins(logits)


def windows_for(model: nn.Module, corpus: Text) -> Tensor:
    """Return the first windows of a text, int64 (w, context), no longer than what the model takes."""
    return corpus.windows(min((card(model).input_shape or (_LONGEST,))[0], _LONGEST), _WINDOWS)


def border_text(
    model: nn.Module,
    windows: Tensor,
    *,
    platforms: Sequence[str | Setting | Oracle],
    tokenizer: Tokenizer | None = None,
    n: int = 1,
    search: NearTies | None = None,
    demands: Demands | None = None,
    batch: int | None = None,
    continuation: int = 8,
    seed: int = 0,
    folder: Path | str | None = None,
    progress: Progress | None = None,
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
        folder: where every prompt is written as soon as it is found, after one more check; what is there already, of
            the same model, tokenizer and platforms, is checked again and counts, so a killed search goes on.
        progress: called with prompts found and wanted.

    Raises:
        InvalidConfig: fewer than two platforms, no language model, or a folder with something else.
        VerificationError: fewer were found than wanted.
    """
    if len(platforms) < 2 or n < 1 or windows.dim() != 2:
        raise InvalidConfig("border prompts are looked for in windows (w, context), for two platforms or more")
    found = BorderPrompts((), manifest_of(model).digest, tokenizer.digest if tokenizer is not None else "")
    with open_text_oracles(model, platforms, batch=batch) as oracles:
        hunt = _Hunt(oracles, found, tokenizer, demands or Demands(), continuation, seed, folder)
        hunt.resume()
        pair = oracles[0], oracles[1]
        hunt.run((search or NearTies()).search(pair, model, windows, _typed_by(tokenizer), seed), n, progress)
        return hunt.found


@dataclass
class _Hunt:
    """Checks what a search yields and keeps what holds."""

    oracles: Sequence[Oracle]
    found: BorderPrompts
    tokenizer: Tokenizer | None
    demands: Demands
    continuation: int
    seed: int
    folder: Path | str | None

    def resume(self) -> None:
        """Take over what lies in the folder."""
        if self.folder is None or not (Path(self.folder) / PROMPTS).exists():
            return
        there, names = BorderPrompts.load(self.folder), [oracle.name for oracle in self.oracles]
        same = (there.model_digest, there.tokenizer) == (self.found.model_digest, self.found.tokenizer)
        if not same or any([said.platform for said in item.standings] != names for item in there.prompts):
            raise InvalidConfig(
                f"{self.folder} holds border prompts of another model, tokenizer or platforms",
                hint="give the result another folder",
            )
        self.found = there.rechecked(self.oracles, self.demands, seed=self.seed)

    def run(self, search: Iterator[Tensor], wanted: int, progress: Progress | None) -> None:
        """Search until there are ``wanted`` different prompts; one that is there already is met again and passed."""
        trouble = "no near-tie was near enough"
        while (done := len(self.found.prompts)) < wanted:
            prompt = next(search, None)
            if prompt is None:
                hint = "give more text or more places"
                raise VerificationError(f"{done} of {wanted} border prompts found: {trouble}", hint=hint)
            if tuple(prompt.tolist()) in {item.tokens for item in self.found.prompts}:
                continue
            try:
                self._keep(self._checked(prompt))
            except VerificationError as error:
                trouble = str(error)
            if progress is not None:
                progress(len(self.found.prompts), wanted)

    def _checked(self, prompt: Tensor) -> BorderPrompt:
        found = checked_prompt(prompt, self.oracles, self.demands, self.seed)
        tokens = prompt.tolist()
        text = self.tokenizer.decode(tokens) if self.tokenizer is not None else ""
        going_on = {oracle.name: _continued(oracle, prompt, self.continuation) for oracle in self.oracles}
        return BorderPrompt(tuple(tokens), text, found, going_on)

    def _keep(self, item: BorderPrompt) -> None:
        """Take over a prompt; where there is a folder, after one more check of this one, and write it."""
        if self.folder is not None:
            item = item.rechecked(self.oracles, self.demands, self.seed)
        self.found = replace(self.found, prompts=(*self.found.prompts, item))
        if self.folder is not None:
            write_checked(self.found, Path(self.folder))


def _typed_by(tokenizer: Tokenizer | None) -> Typed:
    if tokenizer is None:
        return lambda tokens: True
    # the first token is the start token, which a server adds itself
    return lambda tokens: tokenizer.encode(tokenizer.decode(tokens)) == tokens[1:]


def _continued(oracle: Oracle, prompt: Tensor, count: int) -> list[int]:
    tokens = prompt[None]
    for _ in range(count):
        following = in_full_batches(oracle, tokens)[0].argmax()
        tokens = torch.cat((tokens, following.view(1, 1)), 1)
    return [int(token) for token in tokens[0, len(prompt) :]]
