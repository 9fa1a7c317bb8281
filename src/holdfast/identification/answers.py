"""What a server said: answers with the raw text of their numbers, and the folder that collects them.

A collection is a folder: ``collection.json`` says what was asked of whom, ``answers.jsonl`` is appended line by line as
answers come. Numbers stay the text that stood in the server's JSON, because the digits are evidence: they tell whether
the server rounded (:func:`~holdfast.identification.rounding_of`) and nothing is lost by reading them as floats.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast._files import read_bytes
from holdfast.errors import DigestMismatch, UnreadableArtifact, UnsupportedVersion
from holdfast.evidence import canonical
from holdfast.evidence.digest import digest_bytes
from holdfast.identification.grid_text import is_known

COLLECTION_TYPE = "holdfast.collection/v1"
DESCRIPTION, ANSWERS = "collection.json", "answers.jsonl"
TOKEN_ID = "token_id:"  # noqa: S105  how a token is named by its number, where the server gave one


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenAnswer:
    """One token and what the server said of it.

    Attributes:
        token: its text, as the server decoded it; not unique, since unfinished UTF-8 is shown as one and the same sign.
        token_id: its number in the vocabulary, where the server gave one.
        bytes_: its bytes, where the server gave them.
        logprob: natural logarithm of its probability, as the text that stood in the JSON; None where there was none.
        top: the likeliest tokens, likeliest first: (``token_id:N`` where the server gave numbers, the text otherwise,
            log-probability as text).
    """

    token: str
    token_id: int | None
    bytes_: tuple[int, ...] | None
    logprob: str | None
    top: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """The token as ``top`` would name it."""
        return self.token if self.token_id is None else f"{TOKEN_ID}{self.token_id}"

    @property
    def numbers(self) -> tuple[str, ...]:
        """The finite log-probabilities of this position, each token once: the input of the grid rules."""
        chosen = () if self.logprob is None or self._is_in_top() else (self.logprob,)
        return tuple(text for text in (*(value for _, value in self.top), *chosen) if is_known(text))

    def _is_in_top(self) -> bool:
        return any(name in (self.name, self.token) and value == self.logprob for name, value in self.top)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "token": self.token,
            "id": self.token_id,
            "bytes": None if self.bytes_ is None else bytes(self.bytes_).hex(),
            "logprob": self.logprob,
            "top": [list(pair) for pair in self.top],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TokenAnswer:
        """Read the JSON form back."""
        return cls(
            token=value["token"],
            token_id=value["id"],
            bytes_=None if value["bytes"] is None else tuple(bytes.fromhex(value["bytes"])),
            logprob=value["logprob"],
            top=tuple((name, number) for name, number in value["top"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a server answered to one prompt.

    Attributes:
        prompt: index into the collection's prompts.
        repeat: which of several answers to the same prompt, from 0.
        request_digest: BLAKE3 (hex) of the request, which names it when a collection is resumed.
        tokens: the generated tokens.
        prompt_tokens: the prompt's own tokens, where their log-probabilities were asked for; the first has none.
        finish: why the server stopped: ``length``, ``stop``, ...
        seconds: wall time from sending to the last byte, retries not included.
        server: what this answer says of the server: ``model``, ``system_fingerprint``, ``header:NAME`` of versions.
        said: the generated text as the server wrote it, where it did.
    """

    prompt: int
    repeat: int
    request_digest: str
    tokens: tuple[TokenAnswer, ...]
    prompt_tokens: tuple[TokenAnswer, ...]
    finish: str | None
    seconds: float
    server: Mapping[str, str]
    said: str | None = None

    @property
    def text(self) -> str:
        """The generated text: the server's own, or the tokens'; from bytes where tokens cut characters into pieces."""
        if self.said is not None:
            return self.said
        if any(token.bytes_ is None for token in self.tokens):
            return "".join(token.token for token in self.tokens)
        return b"".join(bytes(token.bytes_ or ()) for token in self.tokens).decode("utf-8", "replace")

    def positions(self, *, of_prompt: bool = False) -> tuple[tuple[str, ...], ...]:
        """Return the log-probabilities of every position as raw text, ready for ``dtype_from_logprobs``."""
        return tuple(token.numbers for token in (self.prompt_tokens if of_prompt else self.tokens))

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "prompt": self.prompt,
            "repeat": self.repeat,
            "request": self.request_digest,
            "tokens": [token.to_json() for token in self.tokens],
            "prompt_tokens": [token.to_json() for token in self.prompt_tokens],
            "finish": self.finish,
            "seconds": self.seconds,
            "server": dict(self.server),
            "said": self.said,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Answer:
        """Read the JSON form back."""
        return cls(
            prompt=value["prompt"],
            repeat=value["repeat"],
            request_digest=value["request"],
            tokens=tuple(map(TokenAnswer.from_json, value["tokens"])),
            prompt_tokens=tuple(map(TokenAnswer.from_json, value["prompt_tokens"])),
            finish=value["finish"],
            seconds=float(value["seconds"]),
            server=dict(value["server"]),
            said=value.get("said"),
        )


def digest_of_prompts(prompts: Sequence[str]) -> str:
    """Return the BLAKE3 (hex) of the prompts, in order."""
    return digest_bytes(canonical.dumps(list(prompts)))


@dataclass(frozen=True, slots=True)
class Collection:
    """A folder of answers, complete or not.

    Attributes:
        folder: where it lies.
        prompts: what was asked, in order.
        request: how: dialect, model, tokens, top, temperature, repeats, ...
        client: the platform that asked, which says nothing about the one that answered.
        server: what the server says about itself, and its address.
    """

    folder: Path
    prompts: tuple[str, ...]
    request: Mapping[str, Any]
    client: Mapping[str, Any]
    server: Mapping[str, Any]

    @classmethod
    def load(cls, path: Path | str) -> Collection:
        """Read the description of a collection; its answers are read as :meth:`answers` is iterated.

        Raises:
            UnreadableArtifact: no collection there, or a damaged one.
            UnsupportedVersion: written by a version this one does not know.
            DigestMismatch: the prompts are not those the answers belong to.
        """
        value = canonical.loads(read_bytes(Path(path) / DESCRIPTION, "collection"), what=DESCRIPTION)
        if not isinstance(value, dict) or value.get("type") != COLLECTION_TYPE:
            raise UnsupportedVersion(f"{path} holds no {COLLECTION_TYPE}")
        try:
            prompts = tuple(value["prompts"])
            digest, request, client, server = (value[key] for key in ("digest", "request", "client", "server"))
        except (KeyError, TypeError) as error:
            raise UnreadableArtifact(f"{Path(path) / DESCRIPTION} lacks {error}") from error
        if digest_of_prompts(prompts) != digest:
            raise DigestMismatch(f"the prompts in {Path(path) / DESCRIPTION} differ from their digest")
        return cls(Path(path), prompts, request, client, server)

    @property
    def digest(self) -> str:
        """BLAKE3 (hex) of the prompts: collections with the same one are comparable."""
        return digest_of_prompts(self.prompts)

    def answers(self) -> Iterator[Answer]:
        """Yield the answers in the order in which they came.

        Raises:
            UnreadableArtifact: a damaged line; a last one that a kill cut short is none, it is left out.
        """
        for number, value in self._numbered():
            if value["kind"] == "answer":
                try:
                    yield Answer.from_json(value)
                except (ValueError, KeyError, TypeError) as error:
                    raise self._damaged(number, error) from error

    def logprobs(self, *, of_prompt: bool = False) -> Iterator[tuple[Answer, tuple[tuple[str, ...], ...]]]:
        """Yield each answer with the log-probabilities of its positions as raw text."""
        for answer in self.answers():
            yield answer, answer.positions(of_prompt=of_prompt)

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield every line of the journal: answers, refusals, and the sessions that made them."""
        for _, value in self._numbered():
            yield value

    def _numbered(self) -> Iterator[tuple[int, dict[str, Any]]]:
        path = self.folder / ANSWERS
        if not path.exists():
            return
        with path.open("rb") as handle:
            for number, line in enumerate(handle, 1):
                if not line.endswith(b"\n"):
                    return  # being written when the process was killed
                try:
                    value = json.loads(line)
                    if not isinstance(value["kind"], str):
                        raise TypeError("its kind is no text")
                except (ValueError, KeyError, TypeError) as error:
                    raise self._damaged(number, error) from error
                yield number, value

    def _damaged(self, number: int, error: Exception) -> UnreadableArtifact:
        what = f"it has no field {error}" if isinstance(error, KeyError) else str(error)
        return UnreadableArtifact(f"line {number} of {self.folder / ANSWERS} is damaged: {what}")
