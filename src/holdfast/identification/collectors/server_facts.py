"""What a server says about itself, which is a claim and kept apart from what it computes.

Nothing of the client goes in here. The places are those of vLLM (``/version``), SGLang (``/get_server_info``),
llama.cpp (``/props``), Text Generation Inference (``/info``) and everybody (``/v1/models``).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.errors import InvalidConfig, Unavailable, UnknownName, UnreadableArtifact
from holdfast.identification.collectors.client import Client, NoReply, Reply
from holdfast.identification.collectors.raw_json import plain, read_raw
from holdfast.identification.collectors.request import ServerRequest
from holdfast.identification.collectors.secret import STRUCK, Secret

MODELS = "v1/models"
PLACES = (MODELS, "version", "get_server_info", "server_info", "get_model_info", "props", "info")
_LARGEST = 256 << 10  # bytes of one reply that are kept
_DEEPEST = 32  # levels
_TELLING = frozenset({"server", "via", "x-powered-by", "system-fingerprint", "x-compute-type"})
_SECRET = re.compile(r"(api[-_]?key|token|secret|password|credential|authorization)s?$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What the server says about itself: replies by place, and headers."""

    replies: Mapping[str, Any]
    headers: Mapping[str, str]

    @property
    def models(self) -> tuple[str, ...] | None:
        """The names of the models it lists; None where it lists none."""
        names = (row.get("id") for row in _rows(self.replies.get(MODELS)))
        return tuple(name for name in names if isinstance(name, str)) or None

    @property
    def dialect(self) -> str:
        """The dialect that fits best, ``completions`` where nothing speaks for another."""
        owners = _owners(self.replies.get(MODELS))
        if "sglang" in owners or {"get_server_info", "server_info"} & set(self.replies):
            return "sglang"
        if "vllm" in owners:
            return "vllm"
        if "llamacpp" in owners or self._says("props", "default_generation_settings"):
            return "llama.cpp"
        if owners == {"me"}:
            return "llama-cpp-python"
        if self._says("info", "model_sha"):
            return "tgi"
        return "completions"

    def _says(self, place: str, key: str) -> bool:
        reply = self.replies.get(place)
        return isinstance(reply, dict) and key in reply

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"replies": dict(self.replies), "headers": dict(self.headers)}


def _rows(listing: object) -> list[dict[str, Any]]:
    rows = listing.get("data") if isinstance(listing, dict) else None
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _owners(listing: object) -> set[str]:
    return {str(row.get("owned_by")).lower() for row in _rows(listing)}


async def ask_about(client: Client, secret: Secret) -> ServerFacts:
    """Ask a server about itself at every known place; places that do not answer are left out.

    Raises:
        Unavailable: nobody listens there, or the server does not take the key.
    """
    replies = await asyncio.gather(*(client.get(place) for place in PLACES))
    first = replies[0]
    if isinstance(first, NoReply) and all(isinstance(reply, NoReply) for reply in replies):
        raise Unavailable(f"the server does not answer: {first.reason}", hint="check the address")
    if isinstance(first, Reply):
        require_admission(first, secret)
    found = {place: _said(reply) for place, reply in zip(PLACES, replies, strict=True) if isinstance(reply, Reply)}
    headers = telling_headers(first.headers) if isinstance(first, Reply) else {}
    return ServerFacts({place: value for place, value in found.items() if value is not None}, headers)


def require_admission(reply: Reply, secret: Secret) -> None:
    """Raise :class:`Unavailable` where a server refuses whoever asks."""
    if reply.status in (401, 403):
        raise Unavailable(
            f"the server refuses ({reply.status}): " + (f"the key from {secret.source}" if secret.value else "no key"),
            hint="--api-key-env NAME names the variable that holds the key",
        )


def _said(reply: Reply) -> Any:
    if reply.status != 200 or len(reply.body) > _LARGEST:
        return None
    try:
        value = read_raw(reply.body, "metadata")
    except UnreadableArtifact:
        return None
    return _without_secrets(plain(value)) if isinstance(value, dict | list) and _is_flat(value, _DEEPEST) else None


def _is_flat(value: object, left: int) -> bool:
    """Return whether a value nests no deeper than what a description can hold."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return left > 0 and all(_is_flat(item, left - 1) for item in inner)


def _without_secrets(value: Any) -> Any:
    """Strike what servers tell anybody about their own keys: SGLang lists its start options, ``api_key`` included."""
    if isinstance(value, dict):
        return {
            key: STRUCK if _SECRET.search(key) and isinstance(item, str) and item else _without_secrets(item)
            for key, item in value.items()
        }
    return [_without_secrets(item) for item in value] if isinstance(value, list) else value


def telling_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that tell what answered: software and versions, never cookies."""
    return {
        name: str(plain(value))
        for name, value in headers.items()
        if name in _TELLING or (name.endswith("-version") and not _SECRET.search(name))
    }


def require_model(asked: ServerRequest, facts: ServerFacts) -> None:
    """Raise :class:`UnknownName` where the server lists its models and the one asked for is not among them."""
    if facts.models is not None and asked.model not in facts.models:
        listed = ", ".join(facts.models[:5]) + (", ..." if len(facts.models) > 5 else "")
        raise UnknownName(f"{asked.url} serves no {asked.model}", hint=f"it serves {listed}")


def only_model(facts: ServerFacts) -> str:
    """Return the one model that a server serves; raise :class:`InvalidConfig` where it lists none or several."""
    models = facts.models or ()
    if len(models) == 1:
        return models[0]
    listed = f"it serves {', '.join(models[:5])}" if models else "the server lists no models"
    raise InvalidConfig("which model is to answer?", hint=f"--model NAME; {listed}")
