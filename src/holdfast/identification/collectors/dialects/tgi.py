"""Text Generation Inference's own ``/generate``, with details; it gives five log-probabilities by default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from holdfast.errors import UnreadableArtifact
from holdfast.identification.answers import TOKEN_ID, TokenAnswer
from holdfast.identification.collectors.dialects.reading import Reading, require_logprobs
from holdfast.identification.collectors.raw_json import Object, as_integer, as_list, as_number, as_object, as_text
from holdfast.identification.collectors.request import ServerRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class TextGenerationInference:
    """``/generate`` of a TGI server."""

    name: str = "tgi"
    path: str = "generate"

    def body(self, asked: ServerRequest, prompt: str, repeat: int) -> dict[str, Any]:
        """Return the JSON body of a request."""
        parameters: dict[str, Any] = {
            "max_new_tokens": asked.tokens,
            "details": True,
            "decoder_input_details": asked.prompt_logprobs,
            "top_n_tokens": asked.top,
            "seed": asked.seed + repeat,
            "do_sample": asked.temperature > 0,
        }
        if asked.temperature > 0:
            parameters["temperature"] = asked.temperature
        return {"inputs": prompt, "parameters": parameters}

    def read(self, reply: Object, asked: ServerRequest) -> Reading:
        """Read a reply; raises as :class:`~.reading.Dialect` says."""
        about = require_logprobs(reply.get("details"), asked)
        chosen = [as_object(item, "a token") for item in as_list(about.get("tokens"), "details.tokens")]
        tops = as_list(about.get("top_tokens"), "details.top_tokens") or [None] * len(chosen)
        if len(chosen) != len(tops):
            raise UnreadableArtifact(f"{len(chosen)} tokens have {len(tops)} lists of log-probabilities")
        prompt = [as_object(item, "a token") for item in as_list(about.get("prefill"), "details.prefill")]
        finish = about.get("finish_reason")
        return Reading(
            tokens=tuple(_token(item, top) for item, top in zip(chosen, tops, strict=True)),
            prompt_tokens=tuple(_token(item, None) for item in prompt) if asked.prompt_logprobs else (),
            text=as_text(reply.get("generated_text"), "generated_text"),
            finish=None if finish is None else str(finish),
            says={},
            used=(len(prompt), len(chosen)) if prompt else None,
        )


def _token(item: Object, top: object) -> TokenAnswer:
    rows = [as_object(row, "a top token") for row in as_list(top, "top_tokens")]
    named = [(f"{TOKEN_ID}{as_integer(row.get('id'), 'id')}", as_number(row.get("logprob"), "logprob")) for row in rows]
    return TokenAnswer(
        token=as_text(item.get("text"), "text"),
        token_id=as_integer(item.get("id"), "id"),
        bytes_=None,
        logprob=as_number(item.get("logprob"), "logprob"),
        top=tuple((name, value) for name, value in named if value is not None),
    )
