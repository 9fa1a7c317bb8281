"""SGLang's own ``/generate``, whose log-probabilities carry token numbers: [log-probability, number, text]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from holdfast.errors import UnreadableArtifact
from holdfast.identification.answers import TOKEN_ID, TokenAnswer
from holdfast.identification.collectors.dialects.reading import Reading, read_says, read_usage, require_logprobs
from holdfast.identification.collectors.raw_json import Object, as_integer, as_list, as_number, as_object
from holdfast.identification.collectors.request import ServerRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class SGLang:
    """``/generate`` of an SGLang server."""

    name: str = "sglang"
    path: str = "generate"

    def body(self, asked: ServerRequest, prompt: str, repeat: int) -> dict[str, Any]:
        """Return the JSON body of a request."""
        sampling: dict[str, Any] = {"max_new_tokens": asked.tokens, "temperature": asked.temperature}
        sampling |= {"top_p": 1.0, "repetition_penalty": 1.0}
        sampling |= {"sampling_seed": asked.seed + repeat} if asked.temperature > 0 else {}
        return {
            "text": prompt,
            "sampling_params": sampling,
            "return_logprob": True,
            "top_logprobs_num": asked.top,
            "logprob_start_len": 0 if asked.prompt_logprobs else -1,
            "return_text_in_logprobs": True,
            "stream": False,
        }

    def read(self, reply: Object, asked: ServerRequest) -> Reading:
        """Read a reply; raises as :class:`~.reading.Dialect` says."""
        about = as_object(reply.get("meta_info"), "meta_info")
        require_logprobs(about if about.get("output_token_logprobs") else None, asked)
        prompt = _tokens(about, "input") if asked.prompt_logprobs else ()
        text = reply.get("text")
        return Reading(
            tokens=_tokens(about, "output"),
            prompt_tokens=prompt,
            text=text if isinstance(text, str) else None,
            finish=_finish(about.get("finish_reason")),
            says=read_says(reply),
            used=read_usage(Object([("usage", about)])),
        )


def _finish(value: object) -> str | None:
    return str(value.get("type")) if isinstance(value, dict) else None if value is None else str(value)


def _tokens(about: Object, side: str) -> tuple[TokenAnswer, ...]:
    chosen = as_list(about.get(f"{side}_token_logprobs"), f"{side}_token_logprobs")
    tops = as_list(about.get(f"{side}_top_logprobs"), f"{side}_top_logprobs") or [None] * len(chosen)
    if len(chosen) != len(tops):
        raise UnreadableArtifact(f"{len(chosen)} tokens have {len(tops)} lists of log-probabilities")
    return tuple(_token(item, top) for item, top in zip(chosen, tops, strict=True))


def _token(item: object, top: object) -> TokenAnswer:
    logprob, number, text = _triple(item)
    rows = [_triple(row) for row in as_list(top, "top log-probabilities")]
    return TokenAnswer(
        token=text,
        token_id=number,
        bytes_=None,
        logprob=logprob,
        top=tuple((f"{TOKEN_ID}{token}", value) for value, token, _ in rows if value is not None),
    )


def _triple(item: object) -> tuple[str | None, int, str]:
    parts = as_list(item, "a log-probability")
    if len(parts) != 3:
        raise UnreadableArtifact("a log-probability is not [value, token, text]")
    number = as_integer(parts[1], "a token")
    if number is None:
        raise UnreadableArtifact("a token has no number")
    return as_number(parts[0], "a log-probability"), number, parts[2] if isinstance(parts[2], str) else ""
