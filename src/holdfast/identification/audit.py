"""Token-DiFR on a collection of greedy answers: does a server run the model that it names.

Greedy decoding has no noise to share, so any server can be audited. The honest provider beside it is the reference
itself in another number format, which does to near ties what other hardware does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from holdfast.data.tokenizer import START, Tokenizer
from holdfast.errors import InvalidConfig
from holdfast.identification.answers import Answer, Collection
from holdfast.identification.token_difr import Logits, SharedSampling, TokenDivergence, token_divergence
from holdfast.models.outputs import logits_of
from holdfast.seeds import Seed

Encode = Callable[[str], list[int]]
_GREEDY = SharedSampling(temperature=0.0)


def audit_model(
    collection: Collection, model: nn.Module, *, tokenizer: Tokenizer | None = None, seed: Seed | int = 0
) -> TokenDivergence:
    """Hold greedy answers against ``model``; the honest provider beside it is a copy of it in bf16.

    Args:
        collection: as for :func:`audit_answers`.
        model: a causal language model, int64 (batch, t) to logits (batch, t, vocabulary), or an output with ``logits``.
        tokenizer: for servers that do not say the prompts' own tokens; they put the start token before a prompt.
        seed: of the permutations.

    Raises:
        InvalidConfig: as for :func:`audit_answers`.
    """
    encode = None if tokenizer is None else lambda text: [START, *tokenizer.encode(text)]
    honest = copy.deepcopy(model).bfloat16()
    return audit_answers(collection, _logits(model), _logits(honest), encode=encode, seed=seed)


def _logits(model: nn.Module) -> Logits:
    return lambda tokens: logits_of(model(tokens)).float()


def audit_answers(
    collection: Collection, reference: Logits, honest: Logits, *, encode: Encode | None = None, seed: Seed | int = 0
) -> TokenDivergence:
    """Hold the tokens of greedy answers against a reference model, beside those of an honest provider.

    Args:
        collection: answers with token numbers, collected at temperature 0.
        reference: the model that the server says it runs: int64 (sequences, t) to logits (sequences, t, vocabulary).
        honest: the same model as an honest provider may compute it, such as in bf16.
        encode: turns a prompt into tokens, for servers that do not say the prompt's own.
        seed: of the permutations.

    Raises:
        InvalidConfig: sampled answers, answers without token numbers, or prompts that nobody can turn into tokens.
    """
    if float(collection.request.get("temperature", 0.0)):
        raise InvalidConfig("sampled answers cannot be audited without the noise", hint="collect at --temperature 0")
    asked = {}
    for answer in collection.answers():
        if answer.prompt not in asked and answer.tokens:
            asked[answer.prompt] = _prompt(collection, answer, encode), _claimed(answer)
    if not asked:
        raise InvalidConfig(f"{collection.folder} holds no answer")
    length = min(tokens.shape[1] for _, tokens in asked.values())
    mine, theirs = [], []
    for prompt, tokens in asked.values():
        mine.append(_GREEDY.margins(reference, prompt, tokens[:, :length]))
        drawn = _GREEDY.generate(honest, prompt, length)
        theirs.append(_GREEDY.margins(reference, prompt, drawn))
    return token_divergence(torch.cat(mine), torch.cat(theirs), seed=seed)


def _prompt(collection: Collection, answer: Answer, encode: Encode | None) -> Tensor:
    ids = [token.token_id for token in answer.prompt_tokens]
    if ids and None not in ids:
        return torch.tensor([ids])
    if encode is None:
        raise InvalidConfig(
            "the answers do not hold the prompts' own tokens",
            hint="name the tokenizer, or collect with --prompt-logprobs",
        )
    return torch.tensor([encode(collection.prompts[answer.prompt])])


def _claimed(answer: Answer) -> Tensor:
    ids = [token.token_id for token in answer.tokens]
    if None in ids:
        raise InvalidConfig("the server gave no token numbers", hint="ask vLLM, SGLang or llama.cpp in their dialect")
    return torch.tensor([ids])
