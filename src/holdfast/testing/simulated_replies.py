"""What a simulated server says: real log-probabilities of made-up logits, in the words of each kind of server.

A :class:`Brain` gives logits; a :class:`Variant` is one machine of a fleet: the format of its head, how it rounds, what
it claims. Two variants of the same weights differ as two platforms do, in the last bits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from holdfast.seeds import derive

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_VOCABULARY = 512
_TWINS = range(500, 504)  # tokens that cannot be shown, as parts of characters are, and so look alike


class Brain(Protocol):
    """A language model: text to tokens, tokens to logits."""

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a prompt."""
        ...

    def decode(self, token: int) -> bytes:
        """Return the bytes of a token."""
        ...

    def logits(self, tokens: Sequence[int]) -> torch.Tensor:
        """Return the fp32 logits of what follows ``tokens``, shape (vocabulary,)."""
        ...


@dataclass(frozen=True, slots=True)
class MadeUp:
    """Logits drawn from a seed: normal, of the size that language models have, the same for the same tokens."""

    seed: int = 0
    weights: str = ""  # other weights are another model

    def encode(self, text: str) -> list[int]:
        """Return a token a word."""
        return [derive(0, "word", word).key % _TWINS.start for word in text.split()] or [0]

    def decode(self, token: int) -> bytes:
        """Return the word, or a byte that is no character by itself."""
        return bytes([0x80 + token - _TWINS.start]) if token in _TWINS else f" w{token}".encode()

    def logits(self, tokens: Sequence[int]) -> torch.Tensor:
        """Return logits that depend on all tokens."""
        text = ",".join(map(str, tokens))
        drawn = derive(self.seed, "logits", self.weights, text).numpy().standard_normal(_VOCABULARY)
        return torch.from_numpy((drawn * 4 + 6).astype(np.float32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One machine of a fleet.

    Attributes:
        brain: the model it runs.
        dtype: the format of its head: fp32, fp16 or bf16.
        places: decimals to which it rounds log-probabilities, or None.
        scale: what it divides logits by before the log-probabilities: a temperature, or a lie.
        penalty: taken from the logits of tokens that were generated already, after the log-probabilities are written,
            as a repetition penalty does.
        model: the name it gives the model; the one that was asked for by default.
        fingerprint: its ``system_fingerprint``.
        share: of the requests, relative to the others.
    """

    brain: Brain = field(default_factory=MadeUp)
    dtype: str = "fp32"
    places: int | None = None
    scale: float = 1.0
    penalty: float = 0.0
    model: str | None = None
    fingerprint: str | None = None
    share: float = 1.0

    def spread(self, tokens: Sequence[int]) -> torch.Tensor:
        """Return the log-probabilities of what follows, as this machine computes them."""
        logits = self.brain.logits(tokens).to(_DTYPES[self.dtype]).float()
        return torch.log_softmax(logits / self.scale, -1)

    def write(self, value: float) -> float:
        """Return a log-probability as it is sent."""
        return value if self.places is None else round(value, self.places)


@dataclass(frozen=True, slots=True)
class Position:
    """One token: its number, its log-probability (None for the first), and the likeliest ones."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request in the server's own terms."""

    prompt: str
    tokens: int
    top: int
    temperature: float
    seed: int
    of_prompt: bool
    model: str


def positions(variant: Variant, asked: Asked) -> tuple[list[Position], list[Position]]:
    """Return the positions of the prompt (where asked for) and those generated."""
    tokens = variant.brain.encode(asked.prompt)
    before = [
        _position(variant, tokens[:k], tokens[k], asked.top) for k in range(len(tokens) if asked.of_prompt else 0)
    ]
    after: list[Position] = []
    for step in range(asked.tokens):
        spread = variant.spread(tokens)
        chosen = spread.clone()
        chosen[[item.token for item in after]] -= variant.penalty
        token = int(chosen.argmax()) if asked.temperature == 0 else _drawn(chosen, asked, step)
        after.append(_position(variant, tokens, token, asked.top, spread))
        tokens = [*tokens, token]
    return before, after


def _drawn(spread: torch.Tensor, asked: Asked, step: int) -> int:
    weights = torch.softmax(spread.double() / asked.temperature, -1).numpy()
    drawn = derive(asked.seed, "token", asked.prompt, step).numpy()
    return int(drawn.choice(len(weights), p=weights / weights.sum()))


def _position(
    variant: Variant, before: Sequence[int], token: int, top: int, spread: torch.Tensor | None = None
) -> Position:
    if not before:
        return Position(token, None, ())
    spread = variant.spread(before) if spread is None else spread
    values, places = spread.topk(min(top, len(spread)))
    pairs = zip(places.tolist(), map(variant.write, values.double().tolist()), strict=True)
    return Position(token, variant.write(float(spread[token])), tuple(pairs))


def shown(brain: Brain, token: int) -> str:
    """Return the text of a token, as servers show it: what is no character by itself looks like all others."""
    return brain.decode(token).decode("utf-8", "replace")


def said(brain: Brain, after: Sequence[Position]) -> str:
    """Return the generated text."""
    return b"".join(brain.decode(item.token) for item in after).decode("utf-8", "replace")


def lists(brain: Brain, found: Sequence[Position], *, numbers: bool) -> dict[str, Any]:
    """Return log-probabilities as completions write them; tokens that look alike are merged, as by real servers."""

    def name(token: int) -> str:
        return f"token_id:{token}" if numbers else shown(brain, token)

    return {
        "tokens": [name(item.token) for item in found],
        "token_logprobs": [item.logprob for item in found],
        "top_logprobs": [{name(t): value for t, value in item.top} if item.top else None for item in found],
        "text_offset": [0] * len(found),
    }


def content(brain: Brain, found: Sequence[Position], *, numbers: bool) -> dict[str, Any]:
    """Return log-probabilities as chat completions write them; ``numbers`` adds llama.cpp's ``id``."""

    def one(token: int, value: float | None) -> dict[str, Any]:
        item = {"token": shown(brain, token), "bytes": list(brain.decode(token)), "logprob": value}
        return item | ({"id": token} if numbers else {})

    return {
        "content": [
            one(item.token, item.logprob) | {"top_logprobs": [one(t, value) for t, value in item.top]} for item in found
        ]
    }


def triples(brain: Brain, found: Sequence[Position], side: str) -> dict[str, Any]:
    """Return log-probabilities as SGLang writes them."""
    return {
        f"{side}_token_logprobs": [[item.logprob, item.token, shown(brain, item.token)] for item in found],
        f"{side}_top_logprobs": [
            [[value, token, None] for token, value in item.top] if item.top else None for item in found
        ],
    }


def details(brain: Brain, before: Sequence[Position], after: Sequence[Position]) -> dict[str, Any]:
    """Return log-probabilities as Text Generation Inference writes them."""

    def one(token: int, value: float | None) -> dict[str, Any]:
        return {"id": token, "text": shown(brain, token), "logprob": value, "special": False}

    return {
        "finish_reason": "length",
        "generated_tokens": len(after),
        "prefill": [one(item.token, item.logprob) for item in before],
        "tokens": [one(item.token, item.logprob) for item in after],
        "top_tokens": [[one(token, value) for token, value in item.top] for item in after],
    }


def prompt_rows(brain: Brain, before: Sequence[Position]) -> list[Any]:
    """Return the prompt's log-probabilities as vLLM writes them, the token of the prompt first."""
    rows: list[Any] = []
    for item in before:
        pairs = {item.token: item.logprob} | {t: value for t, value in item.top if t != item.token}
        row = {str(t): {"logprob": value, "rank": 1, "decoded_token": shown(brain, t)} for t, value in pairs.items()}
        rows.append(row if item.top else None)
    return rows


def dump(value: Mapping[str, Any]) -> bytes:
    """Return JSON as servers send it."""
    return json.dumps(value, separators=(",", ":")).encode()
