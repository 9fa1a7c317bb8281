"""The dialects in which servers are asked, by name."""

from __future__ import annotations

from types import MappingProxyType

from holdfast._registry import unknown
from holdfast.identification.collectors.dialects.openai import PROMPT_LOGPROBS, Chat, Completions
from holdfast.identification.collectors.dialects.reading import Dialect, Reading
from holdfast.identification.collectors.dialects.sglang import SGLang
from holdfast.identification.collectors.dialects.tgi import TextGenerationInference

# numbers instead of texts: vLLM too merges tokens that look alike, and these do not
_VLLM = {"return_tokens_as_token_ids": True, "return_token_ids": True, "repetition_penalty": 1.0}
# servers take such defaults from a model's files, or have their own: llama-cpp-python's is 1.1
_PLAIN = {"repeat_penalty": 1.0}
_ALL: tuple[Dialect, ...] = (
    Completions(name="completions"),
    Chat(name="chat"),
    Chat(name="openai", limit="max_completion_tokens"),
    Completions(name="vllm", extra=_VLLM, prompts=PROMPT_LOGPROBS),
    Chat(name="vllm-chat", extra=_VLLM, prompts=PROMPT_LOGPROBS),
    Completions(name="llama.cpp", extra=_PLAIN, prompts=None, scored="n_probs"),
    Completions(name="llama-cpp-python", extra=_PLAIN),
    SGLang(),
    TextGenerationInference(),
)
DIALECTS = MappingProxyType({dialect.name: dialect for dialect in _ALL})


def dialect_named(name: str) -> Dialect:
    """Return a dialect; raise :class:`~holdfast.errors.UnknownName` with the nearest ones."""
    if name not in DIALECTS:
        raise unknown("dialect", name, DIALECTS)
    return DIALECTS[name]


__all__ = ["DIALECTS", "Dialect", "Reading", "dialect_named"]
