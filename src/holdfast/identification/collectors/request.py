"""What is asked of a server, the same for every prompt, and the digest that names each single request."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any
from urllib.parse import urlsplit

from holdfast.errors import InvalidConfig, UnreadableArtifact
from holdfast.evidence import canonical
from holdfast.evidence.digest import digest_bytes

AUTO = "auto"
# beyond these a number is a slip of the keyboard: no server takes it, and an answer would not fit into a reply
_MOST = {"tokens": 1 << 17, "top": 1 << 18, "repeat": 10_000}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRequest:
    """What to ask for.

    Attributes:
        url: address of an OpenAI-compatible server, such as ``http://127.0.0.1:8000/v1``.
        model: the name under which the server serves the model; empty for the only one it lists.
        dialect: how the server is asked, from :data:`~holdfast.identification.collectors.DIALECTS`; ``auto`` goes by
            what the server says of itself.
        tokens: how many to generate, at most.
        top: how many log-probabilities at every position.
        repeat: answers to each prompt.
        temperature: of the sampling; 0 is greedy.
        prompt_logprobs: also ask for the log-probabilities of the prompt's own tokens.
        seed: of the server's sampling, where it takes one; each repeat has the next.
    """

    url: str
    model: str = ""
    dialect: str = AUTO
    tokens: int = 16
    top: int = 20
    repeat: int = 1
    temperature: float = 0.0
    prompt_logprobs: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        _require_address(self.url)
        for name, least in (("tokens", 1), ("top", 1), ("repeat", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise InvalidConfig(f"{name} is {getattr(self, name)}; it starts at {least}")
        for name, most in _MOST.items():
            if getattr(self, name) > most:
                raise InvalidConfig(f"{name} is {getattr(self, name)}; more than {most:,} is not asked for")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InvalidConfig(f"a temperature is 0 or more, not {self.temperature}")

    @property
    def root(self) -> str:
        """The server's address without ``/v1``, where it says what it is."""
        return self.url.rstrip("/").removesuffix("/v1")

    def digest(self, number: int, prompt: str, repeat: int) -> str:
        """Return the BLAKE3 (hex) that names the request for answer ``repeat`` to prompt ``number``."""
        value = {"request": self.to_json(), "number": number, "prompt": prompt, "repeat": repeat}
        return digest_bytes(canonical.dumps(value))

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; the seed is text, since JSON numbers end at 2**53."""
        return asdict(self) | {"seed": str(self.seed)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ServerRequest:
        """Read the JSON form back; raise :class:`UnreadableArtifact` where it is none."""
        try:
            known = {field.name: value[field.name] for field in fields(cls)}
            return cls(**(known | {"seed": int(known["seed"]), "temperature": float(known["temperature"])}))
        except (KeyError, TypeError, ValueError) as error:
            raise UnreadableArtifact(f"the collection's request is malformed: {error!r}") from error


def _require_address(url: str) -> None:
    """Refuse what is no plain address: what stands in it is stored, so it must hold no secret."""
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise InvalidConfig(
            "the address of a server holds a user, a password, a query or a fragment, and addresses are stored",
            hint="give keys in the environment: --api-key-env NAME",
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidConfig(f"{url!r} is no address of a server", hint="http://127.0.0.1:8000/v1")
