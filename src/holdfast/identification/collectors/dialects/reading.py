"""What every dialect reads out of a reply, and the two ways in which OpenAI's dialects write log-probabilities."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from holdfast.errors import Unavailable, UnreadableArtifact
from holdfast.identification.answers import TOKEN_ID, TokenAnswer
from holdfast.identification.collectors.raw_json import Object, as_integer, as_list, as_number, as_object, as_text
from holdfast.identification.collectors.request import ServerRequest

_DIGITS = re.compile(r"[0-9]{1,18}")
NO_LOGPROBS_HINT = "llama-cpp-python needs logits_all=true; hosted services may not offer them for this model at all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One reply, read.

    Attributes:
        tokens: generated.
        prompt_tokens: the prompt's, where asked for.
        text: generated, as the server wrote it.
        finish: why it stopped.
        says: what the reply says of the server: ``model``, ``system_fingerprint``.
        used: tokens charged, (prompt, generated); None where the reply does not say.
    """

    tokens: tuple[TokenAnswer, ...]
    prompt_tokens: tuple[TokenAnswer, ...]
    text: str | None
    finish: str | None
    says: Mapping[str, str]
    used: tuple[int, int] | None


class Dialect(Protocol):
    """How one kind of server is asked and how its replies are read."""

    @property
    def name(self) -> str:
        """Under which it is known."""
        ...

    @property
    def path(self) -> str:
        """Of requests, below the server's root."""
        ...

    def body(self, asked: ServerRequest, prompt: str, repeat: int) -> dict[str, Any]:
        """Return the JSON body of a request."""
        ...

    def read(self, reply: Object, asked: ServerRequest) -> Reading:
        """Read a reply.

        Raises:
            Unavailable: it holds no log-probabilities at all.
            UnreadableArtifact: malformed, or cut short.
        """
        ...


def require_logprobs(value: object, asked: ServerRequest) -> Object:
    """Return the log-probabilities of a choice, or say that the server gives none."""
    if value is None or value == {} or value == []:
        raise Unavailable(
            f"{asked.url} gives no log-probabilities for {asked.model} ({asked.dialect})", hint=NO_LOGPROBS_HINT
        )
    return as_object(value, "logprobs")


def read_logprobs(value: Object) -> list[TokenAnswer]:
    """Read ``logprobs`` of a choice in either form: chat's ``content``, or the four lists of completions."""
    if "content" in value:
        return [read_content(as_object(item, "a token")) for item in as_list(value["content"], "logprobs.content")]
    return _read_lists(value)


def read_content(item: Object) -> TokenAnswer:
    """Read one token as chat completions and llama.cpp write it: token, bytes, logprob, top_logprobs, sometimes id."""
    text = as_text(item.get("token"), "token")
    tops = [as_object(top, "a top log-probability") for top in as_list(item.get("top_logprobs"), "top_logprobs")]
    return TokenAnswer(
        token=text,
        token_id=_number_of(item, text),
        bytes_=None if token_number(text) is not None else _bytes(item.get("bytes")),  # else those of the name
        logprob=as_number(item.get("logprob"), "logprob"),
        top=tuple((_name_of(top), _given(top.get("logprob"))) for top in tops),
    )


def _bytes(value: object) -> tuple[int, ...] | None:
    if value is None:
        return None
    found = tuple(as_integer(item, "a byte") for item in as_list(value, "bytes"))
    if any(item is None or not 0 <= item < 256 for item in found):
        raise UnreadableArtifact("bytes of a token are not 0 .. 255")
    return tuple(item for item in found if item is not None)


def _number_of(item: Object, text: str) -> int | None:
    return as_integer(item["id"], "id") if item.get("id") is not None else token_number(text)


def token_number(name: str) -> int | None:
    """Return N of ``token_id:N``, as vLLM names tokens on request; None for any other name."""
    digits = name.removeprefix(TOKEN_ID)
    return int(digits) if digits != name and _DIGITS.fullmatch(digits) else None


def _name_of(item: Object) -> str:
    text = as_text(item.get("token"), "token")
    number = _number_of(item, text)
    return text if number is None else f"{TOKEN_ID}{number}"


def _given(value: object) -> str:
    text = as_number(value, "a top log-probability")
    if text is None:
        raise UnreadableArtifact("a top log-probability is null")
    return text


def _read_lists(value: Object) -> list[TokenAnswer]:
    names = [as_text(item, "token") for item in as_list(value.get("tokens"), "logprobs.tokens")]
    numbers = as_list(value.get("token_logprobs"), "token_logprobs")
    tops = as_list(value.get("top_logprobs"), "top_logprobs") or [None] * len(names)
    if not len(names) == len(numbers) == len(tops):
        raise UnreadableArtifact(f"{len(names)} tokens have {len(numbers)} log-probabilities and {len(tops)} lists")
    return [
        TokenAnswer(
            token=name,
            token_id=token_number(name),
            bytes_=None,
            logprob=as_number(number, "a log-probability"),
            top=read_pairs(top),
        )
        for name, number, top in zip(names, numbers, tops, strict=True)
    ]


def read_pairs(value: object) -> tuple[tuple[str, str], ...]:
    """Read ``{token: log-probability}``, likeliest first; tokens that look alike stay apart."""
    if value is None:
        return ()
    pairs = [(name, _given(number)) for name, number in as_object(value, "top log-probabilities").pairs]
    return tuple(sorted(pairs, key=lambda pair: -float(pair[1])))


def read_says(reply: Object) -> dict[str, str]:
    """Return what a reply says of the server that wrote it."""
    return {name: str(reply[name]) for name in ("model", "system_fingerprint") if isinstance(reply.get(name), str)}


def read_usage(reply: Object) -> tuple[int, int] | None:
    """Return (prompt, generated) tokens as charged."""
    usage = reply.get("usage")
    if not isinstance(usage, Object):
        return None
    asked, said = (as_integer(usage.get(name), name) for name in ("prompt_tokens", "completion_tokens"))
    return None if asked is None else (asked, said or 0)
