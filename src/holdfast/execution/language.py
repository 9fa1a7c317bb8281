"""Language models under faults: perplexity, and greedy text, over simulated chips."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.data import Text
from holdfast.errors import InvalidConfig
from holdfast.execution.chips import ChipRun, Chips, Entry, Stop
from holdfast.execution.condition import Fault
from holdfast.execution.executors import build_executor
from holdfast.execution.injection import population_of
from holdfast.execution.over_text import LanguageRobustness, edit_distance, require_threshold
from holdfast.execution.run import Progress, beside, device_of, one_thread
from holdfast.execution.sensitivity import Restricted, groups
from holdfast.execution.statistics import MeanEstimate
from holdfast.models import card
from holdfast.models.outputs import logits_of
from holdfast.models.sites import TRACED
from holdfast.models.subject import evaluating


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a language model is measured.

    Attributes:
        windows: how much text its perplexity is measured on; each is ``context`` tokens long.
        context: tokens that the model sees, the start token included; None: what the model was made for.
        prompts: how many beginnings it continues.
        prompt_tokens: length of each, the start token included.
        new_tokens: how many tokens it adds, each the most likely one.
        batch_size: windows per forward pass.
    """

    windows: int = 32
    context: int | None = None
    prompts: int = 8
    prompt_tokens: int = 16
    new_tokens: int = 32
    batch_size: int = 16

    def __post_init__(self) -> None:
        counts = (self.windows, self.prompts, self.prompt_tokens, self.new_tokens, self.batch_size)
        if min(counts) < 1:
            raise InvalidConfig("windows, prompts, tokens and batches are counted from one", hint="see Reading")

    def length(self, model: nn.Module) -> int:
        """Return the tokens of a window.

        Raises:
            InvalidConfig: the model does not say, or a continued prompt would be longer.
        """
        shape = card(model).input_shape
        length = self.context or (shape[0] if shape is not None and len(shape) == 1 else None)
        if length is None and shape is not None:
            size = "x".join(map(str, shape))
            raise InvalidConfig(f"the model takes samples of {size}: it is no language model", hint="give it images")
        if length is None:
            hint = "if it is a language model, Reading(context=...) says so in Python"
            raise InvalidConfig("the model does not say how long a context it takes", hint=hint)
        if self.prompt_tokens + self.new_tokens > length:
            raise InvalidConfig(
                f"{self.prompt_tokens} + {self.new_tokens} tokens are more than the context of {length}",
                hint="continue shorter prompts, or by fewer tokens",
            )
        return length


def perplexity(model: nn.Module, text: Text, *, reading: Reading | None = None) -> MeanEstimate:
    """Return the mean negative log-likelihood of a token, in nats, with Student's t interval over windows.

    Perplexity is its exponential. Windows do not overlap and each begins with the start token, so every token counts
    once. The value is infinite when a logit is NaN or infinite.

    Raises:
        InvalidConfig: a text shorter than a window, or a model that does not give (batch, tokens, vocabulary).
    """
    losses, _ = _read(model, beside(model, text), reading or Reading())
    if not bool(torch.isfinite(losses).all()):
        return MeanEstimate(math.inf, -math.inf, math.inf, len(losses), math.nan)
    return MeanEstimate.student_t(losses.tolist())


def _read(model: nn.Module, text: Text, how: Reading) -> tuple[Tensor, Tensor]:
    """Return the mean loss of each window, float64 (windows,), and the likeliest tokens, int64 (windows, context).

    A loss is infinite where a logit is not finite.
    """
    losses, likeliest = [], []
    with evaluating(model):
        for rows in text.windows(how.length(model), how.windows).split(how.batch_size):
            logits = _logits(model, rows, text.vocabulary)
            chosen = torch.log_softmax(logits[:, :-1].double(), -1).gather(2, rows[:, 1:, None]).squeeze(2)
            finite = torch.isfinite(logits).flatten(1).all(1)
            losses.append(torch.where(finite, -chosen.mean(1), torch.inf))
            likeliest.append(logits.argmax(-1))
    return torch.cat(losses), torch.cat(likeliest)


def _logits(model: nn.Module, tokens: Tensor, vocabulary: int) -> Tensor:
    """Return (batch, tokens, vocabulary), from a tensor or from the ``logits`` of a transformers output."""
    with torch.no_grad():
        output = model(tokens)
    logits = logits_of(output)
    if not isinstance(logits, Tensor) or logits.shape[:2] != tokens.shape or logits.dim() != 3:
        raise InvalidConfig("a language model returns (batch, tokens, vocabulary)", hint="or an object with .logits")
    if logits.shape[2] < vocabulary:
        raise InvalidConfig(f"the text has {vocabulary} tokens, the model only {logits.shape[2]}")
    return logits


def continue_greedily(model: nn.Module, prompts: Tensor, count: int, *, vocabulary: int) -> Tensor:
    """Return the ``count`` most likely tokens after ``prompts`` (int64, (batch, tokens)), int64 (batch, count).

    They lie where the model does, which takes the prompts from anywhere.
    """
    tokens = prompts.to(device_of(model))
    with evaluating(model):
        for _ in range(count):
            tokens = torch.cat((tokens, _logits(model, tokens, vocabulary)[:, -1:].argmax(-1)), 1)
    return tokens[:, prompts.shape[1] :]


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """Measures one model, whatever state it is in."""

    model: nn.Module
    text: Text
    how: Reading

    def likeliest(self) -> Tensor:
        """Return the likeliest token everywhere in the windows."""
        return _read(self.model, self.text, self.how)[1]

    def continued(self) -> list[list[int]]:
        """Return the greedy continuations of the prompts."""
        prompts = self.text.windows(self.how.length(self.model), self.how.prompts)[:, : self.how.prompt_tokens]
        tokens = continue_greedily(self.model, prompts, self.how.new_tokens, vocabulary=self.text.vocabulary)
        found: list[list[int]] = tokens.tolist()
        return found

    def measure(self, likeliest: Tensor, continued: list[list[int]]) -> Entry:
        """Compare with what the clean model predicts and continues."""
        losses, now = _read(self.model, self.text, self.how)
        losses = losses.cpu()
        bad = int((~torch.isfinite(losses)).sum())
        pairs = list(zip(continued, self.continued(), strict=True))
        return {
            "nll": None if bad else math.fsum(losses.tolist()) / len(losses),
            "nonfinite": bad,
            "moved": float((now != likeliest).double().mean()),
            "diverged": [_first_difference(a, b) for a, b in pairs],
            "distance": [edit_distance(a, b) for a, b in pairs],
        }


def _first_difference(first: list[int], second: list[int]) -> int | None:
    return next((place for place, (a, b) in enumerate(zip(first, second, strict=True)) if a != b), None)


def language_robustness(
    model: nn.Module,
    text: Text,
    fault: Fault,
    *,
    at: str = "weights",
    chips: int = 20,
    seed: int = 0,
    reading: Reading | None = None,
    collapse: float = 10.0,
    confidence: float = 0.95,
    executor: str = "inline",
    store: Path | str | None = None,
    name: str = "language",
    progress: Progress | None = None,
) -> LanguageRobustness:
    """Measure a causal language model on chips 0, 1, ... of ``seed``: perplexity and greedy continuations.

    Chips are those of :func:`robust_error`: the same for every model with the same sites. Torch runs on one thread.

    Args:
        model: int64 tokens (batch, tokens) to logits (batch, tokens, vocabulary), or an object with ``.logits``; on
            any device, where chips are drawn if the law can.
        text: what it reads.
        fault: the law that draws a chip.
        at: selection of stored sites that may fail.
        chips: how many; of a law without randomness, always one.
        seed: root of all chips.
        reading: how much is read and continued.
        collapse: a chip whose perplexity is more than this many times the clean one, or no better than guessing, has
            collapsed the model.
        confidence: of the intervals.
        executor: ``inline`` or ``processes:N``.
        store: SQLite file that takes finished chips; the same call resumes from it.
        name: of this measurement in the store.
        progress: called with (chips done, all) after each.

    Raises:
        InvalidConfig: no chips, sites that flow, a text that does not fit, or a store that holds other chips.
        NoSuchSite: nothing matches ``at``.
    """
    if any(part.strip().startswith(TRACED) for part in at.split(",")):
        raise InvalidConfig(f"{at!r} flows; language models fail in what they store", hint="weights or buffers")
    require_threshold(collapse)
    stop, workers, how = Stop.of(fault, chips), build_executor(executor), reading or Reading()
    reader = _Reader(model=model, text=beside(model, text), how=how)
    found: list[Entry] = []
    with one_thread():
        clean, golden = perplexity(model, reader.text, reading=how), (reader.likeliest(), reader.continued())
        if not math.isfinite(clean.value):
            raise InvalidConfig("the model gives NaN or infinity without any fault", hint="nothing can be compared")
        drawn = Chips(model=model, fault=fault, at=at, seed=seed)
        plan = drawn.plan("language", text.digest, reading=repr(how), context=how.length(model))
        run = ChipRun(
            chips=drawn,
            measure=lambda: reader.measure(*golden),
            plan=plan,
            clean=reader.measure(*golden),
            store=store,
            name=name,
        )
        with closing(run.entries(workers, stop)) as entries:
            for item in entries:
                found.append(item)
                if progress is not None:
                    progress(len(found), stop.most)
    return _summary(clean, found, text.vocabulary, how.new_tokens, collapse, confidence)


def _summary(
    clean: MeanEstimate, found: list[Entry], vocabulary: int, new_tokens: int, collapse: float, confidence: float
) -> LanguageRobustness:
    return LanguageRobustness(
        clean=clean,
        per_chip=tuple(math.inf if entry["nll"] is None else entry["nll"] for entry in found),
        vocabulary=vocabulary,
        moved=tuple(entry["moved"] for entry in found),
        diverged=tuple(tuple(entry["diverged"]) for entry in found),
        distance=tuple(tuple(entry["distance"]) for entry in found),
        new_tokens=new_tokens,
        nonfinite=tuple(entry["nonfinite"] for entry in found),
        flips=tuple(entry["flips"] for entry in found),
        threshold=collapse,
        confidence=confidence,
    )


def language_sensitivity(
    model: nn.Module,
    text: Text,
    fault: Fault,
    *,
    by: str = "field",
    at: str = "weights",
    name: str = "language",
    progress: Progress | None = None,
    **options: Any,
) -> dict[str, LanguageRobustness]:
    """Measure every group of bits by itself on the same chips; see :func:`groups` for ``by``.

    ``options`` are those of :func:`language_robustness`; ``progress`` counts groups.
    """
    parts, found = groups(population_of(model, at, None), by), dict[str, LanguageRobustness]()
    for group, masks in parts.items():
        law = Restricted(fault=fault, bits=tuple(masks.items()))
        found[group] = language_robustness(model, text, law, at=at, name=f"{name}/{by}={group}", **options)
        if progress is not None:
            progress(len(found), len(parts))
    return found
