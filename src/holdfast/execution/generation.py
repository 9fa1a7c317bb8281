"""Faults while a language model makes text: in the prompt's pass, at one token, or in what is kept between tokens."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.errors import InvalidConfig, MissingExtra
from holdfast.execution.condition import Fault, Flips, Population, require_untimed
from holdfast.execution.injection import changed_by_pass, drawn_in_window
from holdfast.execution.run import device_of
from holdfast.models import KeyValueCache, select, stored
from holdfast.models.outputs import logits_of
from holdfast.models.subject import evaluating
from holdfast.seeds import Seed, derive


def generate(model: nn.Module, prompts: Tensor, count: int) -> Tensor:
    """Return the ``count`` likeliest tokens after ``prompts`` (int64, (batch, tokens)), int64 (batch, count).

    The model keeps keys and values between tokens: pass 0 reads the prompts (prefill) and gives token 0, and pass t
    reads token t - 1 and gives token t. Takes a model whose ``forward`` has ``cache``, as ours, or ``past_key_values``,
    as those of transformers. Prompts may lie anywhere; the tokens lie where the model does.

    Raises:
        InvalidConfig: the model takes no cache, no tokens are wanted, or an output is not (batch, tokens, vocabulary).
        MissingExtra: a model of transformers without transformers.
    """
    if count < 1 or prompts.dim() != 2 or not prompts.shape[1]:
        raise InvalidConfig("text is made from prompts (batch, tokens), one token or more at a time")
    cache, tokens, made = _empty_cache(model), prompts.to(device_of(model)), []
    with torch.no_grad(), evaluating(model):
        for _ in range(count):
            output = model(tokens, **cache)
            logits = logits_of(output)
            if not isinstance(logits, Tensor) or logits.dim() != 3:
                raise InvalidConfig("a language model returns (batch, tokens, vocabulary)")
            tokens = logits[:, -1:].argmax(-1)
            made.append(tokens)
    return torch.cat(made, 1)


def _empty_cache(model: nn.Module) -> dict[str, object]:
    taken = inspect.signature(model.forward).parameters
    if "past_key_values" in taken:
        try:
            from transformers import DynamicCache
        except ImportError as error:
            raise MissingExtra("a cache of transformers needs transformers", hint="pip install holdfast[hf]") from error
        return {"past_key_values": DynamicCache(), "use_cache": True}
    if "cache" in taken:
        return {"cache": KeyValueCache()}
    raise InvalidConfig(
        "the model takes no cache of keys and values", hint="its forward has no cache=, past_key_values="
    )


@contextmanager
def inject_generation(
    model: nn.Module,
    fault: Fault,
    *,
    prompt: Tensor,
    at: str,
    step: int,
    last: int | None = None,
    seed: int | Seed = 0,
) -> Iterator[nn.Module]:
    """Run the block with ``fault`` present while token ``step`` is made; afterwards every stored bit is what it was.

    Step 0 is the pass that reads the prompt. The population is that of the step: one token wide from step 1 on, and
    attention as long as the text so far. A value that was computed wrongly lives on in the cache, and a fault of the
    cache itself (``cache:layers.0.keys``) strikes at the beginning of the step, for good. Passes are counted from the
    beginning of the block, so a block makes one text.

    Args:
        model: changed in place inside the block.
        fault: the law that draws the flips.
        prompt: int64, (tokens,): as long as the prompts inside the block.
        at: selection of sites; ``cache`` is one kind more.
        step: the first token that is affected.
        last: the last one; None: only the first.
        seed: the realisation.

    Raises:
        NoSuchSite: nothing matches ``at`` in that step.
        InvalidConfig: a step before the first, a cache struck more than once, or a law with a time of its own.
    """
    last = step if last is None else last
    require_untimed(fault, "a step of a text")
    if not 0 <= step <= last:
        raise InvalidConfig(f"steps {step} to {last} are no steps of a text")
    if last != step and any(part.strip().startswith("cache") for part in at.split(",")):
        raise InvalidConfig("what strikes a cache stays there, so it strikes in one step", hint="leave last= away")
    law = _InSteps(fault, step, last)
    with changed_by_pass(model, law, step_population(model, at, prompt, step), derive(seed, "inject")):
        yield model


def step_population(model: nn.Module, at: str, prompt: Tensor, step: int) -> Population:
    """Return the bits that ``at`` selects while token ``step`` is made; makes that text to see them."""

    def run(model: nn.Module, batch: Tensor) -> object:
        return generate(model, batch, step + 1)

    found = select(model, at, prompt, run=run)
    return Population(found, lambda site: stored(model, site).codes.flatten())


@dataclass(frozen=True)
class _InSteps:
    """A law that is there in some steps."""

    law: Fault
    first: int
    last: int

    def in_pass(self, population: Population, seed: Seed, number: int) -> Sequence[Flips]:
        return drawn_in_window(self.law, population, seed, number, self.first, self.last)

    def flips(self, population: Population, seed: Seed) -> Sequence[Flips]:
        return self.law.flips(population, seed)
