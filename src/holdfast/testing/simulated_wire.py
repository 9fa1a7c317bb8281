"""Requests and replies of a simulated server in the dialect of each kind of real one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.testing.simulated_replies import (
    Asked,
    Position,
    Variant,
    content,
    details,
    lists,
    positions,
    prompt_rows,
    said,
    triples,
)

KINDS = ("openai", "vllm", "sglang", "llama.cpp", "tgi")
_OWNERS = {"openai": "openai", "vllm": "vllm", "sglang": "sglang", "llama.cpp": "llamacpp", "tgi": "tgi"}


def places_of(kind: str, model: str) -> dict[str, Any]:
    """Return what a kind of server says about itself, by path; numbers that no real one says stand for versions."""
    found: dict[str, Any] = {
        "/v1/models": {"object": "list", "data": [{"id": model, "object": "model", "owned_by": _OWNERS[kind]}]}
    }
    more: dict[str, dict[str, Any]] = {
        "vllm": {"/version": {"version": "0.0.simulated"}},
        "sglang": {
            "/get_server_info": {"dtype": "auto", "tp_size": 1, "attention_backend": "simulated", "api_key": "sk-own"}
        },
        "llama.cpp": {"/props": {"default_generation_settings": {"n_ctx": 128}, "build_info": "simulated"}},
        "tgi": {"/info": {"model_id": model, "model_sha": "0" * 40, "version": "simulated"}},
    }
    return found | more.get(kind, {})


def read_request(path: str, body: Mapping[str, Any]) -> Asked:
    """Return what a request asks for; raise ``KeyError`` where it is no request."""
    if path == "/generate" and "text" in body:
        sampling = body["sampling_params"]
        return Asked(
            prompt=body["text"],
            tokens=sampling["max_new_tokens"],
            top=body["top_logprobs_num"],
            temperature=sampling["temperature"],
            seed=sampling.get("sampling_seed", 0),
            of_prompt=body["logprob_start_len"] == 0,
            model="",
        )
    if path == "/generate":
        given = body["parameters"]
        return Asked(
            prompt=body["inputs"],
            tokens=given["max_new_tokens"],
            top=given["top_n_tokens"],
            temperature=given.get("temperature", 0),
            seed=given["seed"],
            of_prompt=given["decoder_input_details"],
            model="",
        )
    chat = path == "/v1/chat/completions"
    return Asked(
        prompt=body["messages"][-1]["content"] if chat else body["prompt"],
        tokens=body["max_tokens"] if "max_tokens" in body else body["max_completion_tokens"],
        top=body.get("top_logprobs", 0) if chat else body["logprobs"],
        temperature=body.get("temperature", 1),
        seed=body.get("seed", 0),
        of_prompt=bool(body.get("echo") or body.get("prompt_logprobs")),
        model=body["model"],
    )


def write_reply(kind: str, path: str, body: Mapping[str, Any], variant: Variant, asked: Asked) -> dict[str, Any]:
    """Return the whole reply of an honest server."""
    before, after = positions(variant, asked)
    if path == "/generate" and "text" in body:
        return _sglang(variant, before, after)
    if path == "/generate":
        return {
            "generated_text": said(variant.brain, after),
            "details": details(variant.brain, before, after),
        }
    choice, more = _choice(kind, path, body, variant, before, after)
    reply: dict[str, Any] = {"id": "simulated", "object": "text_completion", "model": variant.model or asked.model}
    if variant.fingerprint is not None:
        reply["system_fingerprint"] = variant.fingerprint
    used = {"prompt_tokens": len(variant.brain.encode(asked.prompt)), "completion_tokens": len(after)}
    return reply | {"choices": [{"index": 0, "finish_reason": "length", **choice}], "usage": used} | more


def _choice(
    kind: str,
    path: str,
    body: Mapping[str, Any],
    variant: Variant,
    before: list[Position],
    after: list[Position],
) -> tuple[dict[str, Any], dict[str, Any]]:
    brain, text = variant.brain, said(variant.brain, after)
    numbers = bool(body.get("return_tokens_as_token_ids"))
    more: dict[str, Any] = {"prompt_logprobs": prompt_rows(brain, before)} if body.get("prompt_logprobs") else {}
    ids = {"token_ids": [item.token for item in after]} if body.get("return_token_ids") else {}
    if path == "/v1/chat/completions":
        written = content(brain, after, numbers=kind == "llama.cpp")
        return {"message": {"role": "assistant", "content": text}, "logprobs": written} | ids, more
    if kind == "llama.cpp":
        return {"text": text, "logprobs": content(brain, after, numbers=True)}, {}
    echoed = before if body.get("echo") else []
    written = lists(brain, [*echoed, *after], numbers=numbers)
    return {"text": said(brain, echoed) + text, "logprobs": written} | more | ids, {}


def _sglang(variant: Variant, before: list[Position], after: list[Position]) -> dict[str, Any]:
    about = {
        "finish_reason": {"type": "length", "length": len(after)},
        "prompt_tokens": len(before),
        "completion_tokens": len(after),
    }
    brain = variant.brain
    about |= triples(brain, before, "input") if before else {}
    return {"text": said(brain, after), "meta_info": about | triples(brain, after, "output")}


def cut(reply: dict[str, Any]) -> dict[str, Any]:
    """Return a reply that lost its second half though it says that nothing is missing: an answer cut short."""

    def half(value: Any) -> Any:
        if isinstance(value, list) and len(value) > 1:
            return value[: len(value) // 2]
        return {key: half(item) for key, item in value.items()} if isinstance(value, dict) else value

    short = dict(reply)
    for key in ("choices", "details", "meta_info"):
        if key in short:
            inner = short[key][0] if key == "choices" else short[key]
            trimmed = {name: half(value) for name, value in inner.items()}
            short[key] = [trimmed] if key == "choices" else trimmed
    return short


def without_logprobs(reply: dict[str, Any]) -> dict[str, Any]:
    """Return a reply as servers send it that compute no log-probabilities."""
    bare = {key: value for key, value in reply.items() if key != "details"}
    for choice in bare.get("choices", ()):
        choice["logprobs"] = None
    if "meta_info" in bare:
        kept = {key: value for key, value in bare["meta_info"].items() if not key.endswith("logprobs")}
        bare["meta_info"] = kept
    return bare
