"""Collections of answers without a server: logits of a seed, moved as platforms move them, written as servers do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from holdfast.evidence import canonical
from holdfast.identification.answers import (
    ANSWERS,
    COLLECTION_TYPE,
    DESCRIPTION,
    Answer,
    Collection,
    TokenAnswer,
    digest_of_prompts,
)
from holdfast.seeds import derive

Head = Callable[[Tensor], Tensor]
VOCABULARY, TOP = 64, 10


def logits_of(prompt: int, length: int, seed: int = 0) -> Tensor:
    """Return (length, vocabulary) logits."""
    return torch.randn(length, VOCABULARY, generator=derive(seed, "logits", prompt).torch()) * 4 + 6


def stack(number: int) -> Head:
    """Another summation order: a third of the logits keep their bits, the others move by a unit or two."""

    def head(logits: Tensor) -> Tensor:
        moves = torch.randint(-1, 2, logits.shape, generator=derive(number, "stack", len(logits)).torch())
        return (logits.view(torch.int32) + moves.int()).view(torch.float32)

    return head


def answered(logits: Tensor, prompt: int, repeat: int, *, temperature: float, places: int | None, seed: int) -> Answer:
    """Return the answer of a server: greedy, or sampled at a temperature."""
    logprobs = torch.log_softmax(logits, dim=-1)
    generator = derive(seed, "sample", prompt, repeat).torch()
    tokens = []
    for row, values in zip(logprobs, logits, strict=True):
        chosen = int(row.argmax())
        if temperature:
            chosen = int(torch.multinomial((values / temperature).softmax(-1), 1, generator=generator))
        top = row.sort(descending=True)
        pairs = [
            (f"t{index}", written(value, places))
            for value, index in zip(top.values[:TOP].tolist(), top.indices[:TOP].tolist(), strict=True)
        ]
        tokens.append(TokenAnswer(token=f"t{chosen}", token_id=None, bytes_=None,
                                  logprob=written(float(row[chosen]), places), top=tuple(pairs)))  # fmt: skip
    return answer_of(prompt, tokens, repeat)


def answer_of(prompt: int, tokens: list[TokenAnswer], repeat: int = 0) -> Answer:
    """Return an answer of these tokens."""
    return Answer(prompt=prompt, repeat=repeat, request_digest=f"{prompt:032x}{repeat:032x}", tokens=tuple(tokens),
                  prompt_tokens=(), finish="length", seconds=0.1, server={"model": "m"})  # fmt: skip


def written(value: float, places: int | None) -> str:
    return json.dumps(value if places is None else round(value, places))


def collect(
    folder: Path,
    head: Head = lambda logits: logits,
    *,
    prompts: int = 6,
    repeat: int = 1,
    length: int = 8,
    temperature: float = 0.0,
    places: int | None = None,
    seed: int = 0,
) -> Collection:
    """Write a collection and read it back."""
    asked = [f"prompt {number}" for number in range(prompts)]
    answers = [
        answered(head(logits_of(number, length)), number, turn, temperature=temperature, places=places, seed=seed)
        for turn in range(repeat)
        for number in range(prompts)
    ]
    request = {"repeat": repeat, "temperature": temperature, "tokens": length, "seed": str(seed)}
    return Collection.load(write(folder, asked, answers, request))


def write(folder: Path, asked: list[str], answers: list[Answer], request: dict | None = None) -> Path:
    """Write a collection's folder."""
    value = {"type": COLLECTION_TYPE, "prompts": asked, "digest": digest_of_prompts(asked), "client": {}, "server": {}}
    value["request"] = request or {"repeat": 1, "model": "m", "temperature": 0.0}
    folder.mkdir(parents=True)
    (folder / DESCRIPTION).write_bytes(canonical.dumps(value))
    lines = [json.dumps({"kind": "answer"} | item.to_json()) + "\n" for item in answers]
    (folder / ANSWERS).write_text("".join(lines))
    return folder
