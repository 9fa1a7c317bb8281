"""OpenAI's two ways to ask, ``/v1/completions`` and ``/v1/chat/completions``, with what vLLM and llama.cpp add to them.

Options are sent only to the servers that know them: hosted services refuse unknown ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.errors import InvalidConfig, UnreadableArtifact
from holdfast.identification.answers import TOKEN_ID, TokenAnswer
from holdfast.identification.collectors.dialects.reading import (
    Reading,
    read_logprobs,
    read_says,
    read_usage,
    require_logprobs,
    token_number,
)
from holdfast.identification.collectors.raw_json import Object, as_integer, as_list, as_number, as_object, as_text
from holdfast.identification.collectors.request import ServerRequest

ECHO, PROMPT_LOGPROBS = "echo", "prompt_logprobs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Completions:
    """``/v1/completions``: the prompt is continued as it stands.

    Attributes:
        name: of the dialect.
        extra: options beyond OpenAI's.
        prompts: how log-probabilities of the prompt are asked for: ``echo``, ``prompt_logprobs`` (vLLM), or None.
        scored: the name of the number of top log-probabilities, besides ``logprobs``.
    """

    name: str
    path: str = "v1/completions"
    extra: Mapping[str, Any] = field(default_factory=dict)
    prompts: str | None = ECHO
    scored: str | None = None

    def body(self, asked: ServerRequest, prompt: str, repeat: int) -> dict[str, Any]:
        """Return the JSON body of a request."""
        body = _sampling(asked, repeat) | {"prompt": prompt, "logprobs": asked.top} | dict(self.extra)
        if self.scored is not None:
            body[self.scored] = asked.top
        if asked.prompt_logprobs:
            body |= _of_prompt(self.prompts, self.name, asked)
        return body

    def read(self, reply: Object, asked: ServerRequest) -> Reading:
        """Read a reply; raises as :class:`~.reading.Dialect` says."""
        choice = _choice(reply)
        found = read_logprobs(require_logprobs(choice.get("logprobs"), asked))
        found = _numbered(found, choice)
        used, text = read_usage(reply), as_text(choice.get("text"), "text")
        prompt: tuple[TokenAnswer, ...] = ()
        if asked.prompt_logprobs and self.prompts == ECHO:
            count = _echoed(found, used, asked)
            prompt, found = tuple(found[:count]), found[count:]
            text = text.removeprefix("".join(token.token for token in prompt))
        elif asked.prompt_logprobs:
            prompt = _prompt_tokens(choice.get(PROMPT_LOGPROBS), choice.get("prompt_token_ids"))
        return Reading(
            tokens=tuple(found),
            prompt_tokens=prompt,
            text=text,
            finish=_finish(choice),
            says=read_says(reply),
            used=used,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """``/v1/chat/completions``: the prompt is the one message of the user, and the server puts its template around it.

    Attributes:
        name: of the dialect.
        extra: options beyond OpenAI's.
        limit: the name of the limit on generated tokens; newer services take ``max_completion_tokens`` alone.
        prompts: ``prompt_logprobs`` (vLLM), or None.
    """

    name: str
    path: str = "v1/chat/completions"
    extra: Mapping[str, Any] = field(default_factory=dict)
    limit: str = "max_tokens"
    prompts: str | None = None

    def body(self, asked: ServerRequest, prompt: str, repeat: int) -> dict[str, Any]:
        """Return the JSON body of a request."""
        body = _sampling(asked, repeat) | {"messages": [{"role": "user", "content": prompt}]}
        body |= {"logprobs": True, "top_logprobs": asked.top} | dict(self.extra)
        body[self.limit] = body.pop("max_tokens")
        return body | (_of_prompt(self.prompts, self.name, asked) if asked.prompt_logprobs else {})

    def read(self, reply: Object, asked: ServerRequest) -> Reading:
        """Read a reply; raises as :class:`~.reading.Dialect` says."""
        choice = _choice(reply)
        found = read_logprobs(require_logprobs(choice.get("logprobs"), asked))
        text = as_object(choice.get("message"), "message").get("content")
        given = (reply.get(PROMPT_LOGPROBS), reply.get("prompt_token_ids"))
        return Reading(
            tokens=tuple(_numbered(found, choice)),
            prompt_tokens=_prompt_tokens(*given) if asked.prompt_logprobs else (),
            text=None if text is None else as_text(text, "content"),
            finish=_finish(choice),
            says=read_says(reply),
            used=read_usage(reply),
        )


def _sampling(asked: ServerRequest, repeat: int) -> dict[str, Any]:
    return {
        "model": asked.model,
        "max_tokens": asked.tokens,
        "temperature": asked.temperature,
        "top_p": 1.0,
        "seed": asked.seed + repeat,
        "n": 1,
        "stream": False,
    }


def _of_prompt(how: str | None, name: str, asked: ServerRequest) -> dict[str, Any]:
    if how == ECHO:
        return {"echo": True}
    if how == PROMPT_LOGPROBS:
        return {PROMPT_LOGPROBS: asked.top}
    raise InvalidConfig(
        f"servers of dialect {name} give no log-probabilities of the prompt", hint="leave out --prompt-logprobs"
    )


def _choice(reply: Object) -> Object:
    choices = as_list(reply.get("choices"), "choices")
    if not choices:
        raise UnreadableArtifact("the reply holds no choice")
    return as_object(choices[0], "a choice")


def _finish(choice: Object) -> str | None:
    value = choice.get("finish_reason")
    return None if value is None else as_text(value, "finish_reason")


def _numbered(tokens: list[TokenAnswer], choice: Object) -> list[TokenAnswer]:
    """Add the numbers of the tokens where vLLM lists them beside their texts."""
    numbers = [as_integer(item, "token_ids") for item in as_list(choice.get("token_ids"), "token_ids")]
    if len(numbers) != len(tokens):
        return tokens
    return [
        TokenAnswer(token=t.token, token_id=number, bytes_=t.bytes_, logprob=t.logprob, top=t.top)
        if t.token_id is None
        else t
        for t, number in zip(tokens, numbers, strict=True)
    ]


def _echoed(found: list[TokenAnswer], used: tuple[int, int] | None, asked: ServerRequest) -> int:
    """Return how many of the tokens are the prompt's; only the server knows how it cut the prompt."""
    if used is None:
        raise UnreadableArtifact(
            "the reply echoes the prompt but does not say how many tokens it has", hint="leave out --prompt-logprobs"
        )
    count = len(found) - used[1]
    if not 0 <= count <= used[0]:
        raise UnreadableArtifact(f"{len(found)} tokens were sent, {used[0]} of the prompt and {used[1]} generated")
    return count


def _prompt_tokens(value: object, numbers: object) -> tuple[TokenAnswer, ...]:
    """Read vLLM's ``prompt_logprobs``: null for the first token, then {id: {logprob, rank, decoded_token}}.

    The token of the prompt stands first in each; ``numbers``, where given, say so by themselves.
    """
    known = [as_integer(item, "prompt_token_ids") for item in as_list(numbers, "prompt_token_ids")]
    rows = as_list(value, PROMPT_LOGPROBS)
    if not rows:
        raise UnreadableArtifact(
            "the reply holds no log-probabilities of the prompt", hint="leave out --prompt-logprobs"
        )
    padded = known if len(known) == len(rows) else [None] * len(rows)
    return tuple(_prompt_token(row, number) for row, number in zip(rows, padded, strict=True))


def _prompt_token(row: object, number: int | None) -> TokenAnswer:
    if row is None:
        return TokenAnswer(token="", token_id=number, bytes_=None, logprob=None, top=())
    items = [(name, as_object(item, PROMPT_LOGPROBS)) for name, item in as_object(row, PROMPT_LOGPROBS).pairs]
    if not items:
        raise UnreadableArtifact("a token of the prompt has no log-probability")
    mine = next((pair for pair in items if pair[0] == str(number)), items[0])
    named = [(f"{TOKEN_ID}{name}", as_number(item.get("logprob"), "logprob")) for name, item in items]
    top = sorted(((name, text) for name, text in named if text is not None), key=lambda pair: -float(pair[1]))
    return TokenAnswer(
        token=str(mine[1].get("decoded_token") or ""),
        token_id=token_number(f"{TOKEN_ID}{mine[0]}"),
        bytes_=None,
        logprob=as_number(mine[1].get("logprob"), "logprob"),
        top=tuple(top),
    )
