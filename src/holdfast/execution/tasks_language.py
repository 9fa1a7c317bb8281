"""Single faults in a causal language model: how the likelihood of a text moves, and what the model says instead.

The inputs are windows of a text. One pass over a window gives its negative log-likelihood; a greedy continuation of
its first tokens gives the text that a user would see. Every pass sees whole windows, padded behind, which a causal
model cannot look at: so a fault at token t of an activation hits the same token in every pass, which is what one
transient fault does to a decoder that keeps its keys and values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.data import Text
from holdfast.errors import InvalidConfig
from holdfast.execution.compare import Cause, Outcome, softmax_distance
from holdfast.execution.memory import is_out_of_memory, too_small
from holdfast.execution.over_text import edit_distance
from holdfast.execution.row import Verdict
from holdfast.execution.tasks import Again, Answer, Exam, tasks
from holdfast.models import card
from holdfast.models.outputs import logits_of
from holdfast.models.subject import evaluating
from holdfast.numerics import bits

_REASON = 200  # characters of torch's own words


@tasks.register("language")
@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """Windows of text in, one score per token of the vocabulary out, at every place.

    A fault is critical where the greedy text differs by more than ``edits`` tokens, or where the perplexity of the
    window is more than ``ratio`` times the golden one.

    Attributes:
        windows: how many of the text, each ``context`` tokens long.
        context: tokens that the model sees, the start token included; None: what the model was made for.
        prompt_tokens: of each window that are continued, the start token included.
        new_tokens: how many are added, each the most likely one; 0: no text is made.
        edits: insertions, deletions and substitutions of tokens that the greedy text may differ by.
        ratio: of perplexities that is still tolerable, above 1.
    """

    windows: int = 32
    context: int | None = None
    prompt_tokens: int = 16
    new_tokens: int = 16
    edits: int = 0
    ratio: float = 1.1

    def __post_init__(self) -> None:
        if min(self.windows, self.prompt_tokens) < 1 or min(self.new_tokens, self.edits) < 0 or not self.ratio > 1:
            raise InvalidConfig("windows and prompts count from 1, tokens and edits from 0, a ratio is above 1")

    def bind(self, model: nn.Module, data: Any) -> Exam:
        """Return the exam on a :class:`~holdfast.data.Text`.

        Raises:
            InvalidConfig: no text, a text or context that does not fit, or a model that is no language model.
        """
        if not isinstance(data, Text):
            raise InvalidConfig("a language model reads a text", hint="images go with Classification()")
        exam = _Windows(self, data, data.windows(self._length(model), self.windows))
        exam.require_fit(model)
        return exam

    def _length(self, model: nn.Module) -> int:
        shape = card(model).input_shape
        length = self.context or (shape[0] if shape is not None and len(shape) == 1 else None)
        if length is None:
            hint = "if it is a language model, Language(context=...) says so"
            raise InvalidConfig("the model does not say how many tokens it takes", hint=hint)
        if self.new_tokens and self.prompt_tokens + self.new_tokens > length:
            raise InvalidConfig(
                f"{self.prompt_tokens} + {self.new_tokens} tokens are more than the context of {length}",
                hint="continue shorter prompts, or by fewer tokens",
            )
        return length


class _Windows:
    def __init__(self, task: Language, text: Text, rows: Tensor) -> None:
        self._task, self._text, self._rows = task, text, rows
        self.size, self.example, self.digest = len(rows), rows[0], text.digest

    def require_fit(self, model: nn.Module) -> None:
        """Raise :class:`InvalidConfig` unless the model reads one window."""
        try:
            with torch.no_grad(), evaluating(model):
                output = model(self._rows[:1])
        except (RuntimeError, ValueError, IndexError) as error:
            if is_out_of_memory(error):
                raise too_small() from error
            reason = next(iter(str(error).splitlines()), type(error).__name__)[:_REASON]
            raise InvalidConfig(f"the model does not take windows of tokens ({reason})") from error
        logits = self.read(output)
        if logits.shape[:2] != (1, self._rows.shape[1]):
            raise InvalidConfig(
                "a language model returns (batch, tokens, vocabulary)", hint="or an object with .logits"
            )
        if logits.shape[2] < self._text.vocabulary:
            raise InvalidConfig(f"the text has {self._text.vocabulary} tokens, the model only {logits.shape[2]}")

    def batch(self, numbers: Sequence[int]) -> Tensor:
        return self._rows[torch.tensor(numbers)]

    def read(self, output: object) -> Tensor:
        logits = logits_of(output)
        if not isinstance(logits, Tensor) or logits.dim() != 3:
            raise InvalidConfig(
                "a language model returns (batch, tokens, vocabulary)", hint="or an object with .logits"
            )
        return logits

    def continued(self, numbers: Sequence[int], again: Again, golden: Answer | None) -> Tensor | None:
        """Return greedy continuations, int64, shape (batch, new_tokens).

        With the golden text known, one pass over it tells where the new text leaves it: up to there both are equal,
        so only what follows is computed token by token. A causal model gives the same tokens either way.
        """
        first, count = self._task.prompt_tokens, self._task.new_tokens
        if not count:
            return None
        tokens = self.batch(numbers).clone()
        tokens[:, first:] = self._text.start
        agreed = 0
        if golden is not None and golden.text is not None:
            tokens[:, first : first + count] = golden.text
            said = self._favourites(tokens, again)
            # up to and with the first place where any row leaves the golden text, what was said is what is said
            agreed = min(count, int((said == golden.text).all(0).long().cumprod(0).sum()) + 1)
            tokens[:, first : first + agreed] = said[:, :agreed]
            tokens[:, first + agreed :] = self._text.start
        for place in range(first + agreed, first + count):
            tokens[:, place] = self._favourites(tokens, again)[:, place - first]
        return tokens[:, first : first + count]

    def _favourites(self, tokens: Tensor, again: Again) -> Tensor:
        """Return the most likely token at every new place, (batch, new_tokens)."""
        first, count = self._task.prompt_tokens, self._task.new_tokens
        return self.read(again(tokens))[:, first - 1 : first - 1 + count].argmax(-1)

    def judge(self, numbers: Sequence[int], golden: Answer, observed: Answer) -> list[Verdict]:
        return [self._verdict(self._rows[number], golden, observed, row) for row, number in enumerate(numbers)]

    def _verdict(self, window: Tensor, golden: Answer, observed: Answer, row: int) -> Verdict:
        before, after = golden.output[row], observed.output[row]
        if not bool(torch.isfinite(after).all()):
            return Verdict(outcome=Outcome.DUE.value, cause=Cause.NON_FINITE.value)
        divergence, probability = softmax_distance(before, after)
        difference = float((before.double() - after.double()).abs().max())
        ratio = math.exp(min(_loss(after, window) - _loss(before, window), 700.0))
        edits, diverged = _texts(golden, observed, row)
        same = bits.bit_equal(before, after) and not edits
        critical = (edits or 0) > self._task.edits or ratio > self._task.ratio
        outcome = Outcome.CRITICAL if critical else Outcome.SDC
        return Verdict(
            outcome=(Outcome.MASKED if same else outcome).value,
            max_ulp=float(bits.ulp_distance(before, after).max()),
            max_relative=difference / max(float(before.double().abs().max()), 1e-300),
            max_absolute=difference,
            divergence=float(divergence.mean()),
            probability=float(probability.max()),
            top1=int(bool((before.argmax(-1) != after.argmax(-1)).any())),
            perplexity=ratio,
            edits=edits,
            diverged=diverged,
        )


def _loss(logits: Tensor, window: Tensor) -> float:
    """Return the mean negative log-likelihood of the tokens of a window but the first, in nats."""
    return -float(torch.log_softmax(logits[:-1].double(), -1).gather(1, window[1:, None]).mean())


def _texts(golden: Answer, observed: Answer, row: int) -> tuple[int | None, int | None]:
    """Return the edit distance of two greedy texts and the first place where they differ."""
    if golden.text is None or observed.text is None:
        return None, None
    one, other = golden.text[row].tolist(), observed.text[row].tolist()
    place = next((place for place, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), None)
    return edit_distance(one, other), place
