"""What a reply must be before it counts as an answer."""

from __future__ import annotations

from collections.abc import Mapping

from holdfast.errors import HoldfastError, InvalidConfig, Unavailable, UnknownName, UnreadableArtifact
from holdfast.identification.answers import Answer
from holdfast.identification.collectors.client import Reply
from holdfast.identification.collectors.dialects import Dialect, Reading
from holdfast.identification.collectors.dialects.reading import NO_LOGPROBS_HINT
from holdfast.identification.collectors.raw_json import Object, as_object, read_raw
from holdfast.identification.collectors.request import ServerRequest
from holdfast.identification.collectors.server_facts import telling_headers

_TIE = 0.1  # nats; bf16 logits from 8 to 16 lie 1/16 apart
_SHOWN = 300  # characters of a server's own message


def read_answer(
    reply: Reply, dialect: Dialect, asked: ServerRequest, *, prompt: int, repeat: int, digest: str
) -> tuple[Answer, tuple[int, int] | None]:
    """Return the answer in a reply of status 200, and the tokens charged for it.

    Raises:
        Unavailable: it holds no log-probabilities.
        UnreadableArtifact: malformed or cut short.
    """
    value = as_object(read_raw(reply.body, "the reply"), "the reply")
    reading = dialect.read(value, asked)
    require_whole(reading, asked)
    answer = Answer(
        prompt=prompt,
        repeat=repeat,
        request_digest=digest,
        tokens=reading.tokens,
        prompt_tokens=reading.prompt_tokens,
        finish=reading.finish,
        seconds=reply.seconds,
        server=_says(reading.says, telling_headers(reply.headers)),
        said=reading.text,
    )
    return answer, reading.used


def _says(reply: Mapping[str, str], headers: Mapping[str, str]) -> dict[str, str]:
    return {**{f"header:{name}": value for name, value in headers.items()}, **reply}


def require_whole(reading: Reading, asked: ServerRequest) -> None:
    """Refuse an answer that was cut short.

    Raises:
        UnreadableArtifact: fewer tokens than asked for or charged, though nothing ended the text.
        Unavailable: no log-probabilities.
    """
    count = len(reading.tokens)
    charged = None if reading.used is None else reading.used[1]
    if count > asked.tokens:
        raise UnreadableArtifact(f"the answer has {count} tokens, {asked.tokens} were asked for")
    if charged is not None and charged > count + 1:  # the end-of-text token is charged and not shown
        raise UnreadableArtifact(f"the answer is truncated: {charged} tokens were charged, {count} came")
    if count < asked.tokens and reading.finish in (None, "length"):
        raise UnreadableArtifact(f"the answer is truncated after {count} of {asked.tokens} tokens ({reading.finish})")
    if any(token.logprob is None for token in reading.tokens):
        raise UnreadableArtifact("a generated token has no log-probability")
    _require_top(reading, asked)


def _require_top(reading: Reading, asked: ServerRequest) -> None:
    """Where tokens are named by their text, two that look alike may be one; a server that caps does so everywhere."""
    most = max((len(token.top) for token in reading.tokens), default=asked.top)
    if most == 0:
        raise Unavailable(
            f"{asked.url} gives no top log-probabilities for {asked.model} ({asked.dialect})", hint=NO_LOGPROBS_HINT
        )
    if most < asked.top:
        raise UnreadableArtifact(
            f"the answer has {most} of {asked.top} log-probabilities at every position", hint=f"--top {most}"
        )


def is_odd(answer: Answer) -> bool:
    """Return whether a greedy answer chose what its own log-probabilities call less likely, by more than rounding.

    Then the server lists them at the wrong place, changes logits after having written them, or is not greedy.
    """
    return any(
        token.logprob is not None
        and token.top
        and float(token.logprob) < max(float(value) for _, value in token.top) - _TIE
        for token in answer.tokens
    )


def refusal(reply: Reply, asked: ServerRequest) -> HoldfastError:
    """Return the error that a status says: of the call, or of the server."""
    said = _message(reply)
    if reply.status == 404:
        return UnknownName(f"{asked.url} does not know {asked.model} or {asked.dialect}: {said}", hint=_OTHERS)
    if 400 <= reply.status < 500:
        return InvalidConfig(f"{asked.url} refuses the request ({reply.status}): {said}", hint=_OTHERS)
    return Unavailable(f"{asked.url} fails ({reply.status}): {said}", hint="the same call continues where it stopped")


_OTHERS = "--model, --top, --tokens and --dialect are what servers are particular about"


def _message(reply: Reply) -> str:
    """Return what the server gives as the reason: ``error.message`` as OpenAI has it, or the start of the body."""
    try:
        value = read_raw(reply.body, "an error")
    except UnreadableArtifact:
        value = None
    inner = value.get("error", value) if isinstance(value, Object) else None
    text = inner.get("message") if isinstance(inner, Object) else inner if isinstance(inner, str) else None
    found = text if isinstance(text, str) else reply.body.decode("utf-8", "replace")
    return (found.strip() or "no reason given")[:_SHOWN]
