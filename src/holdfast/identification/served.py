"""Identification of a server from its answers: the platform by reference collections.

Answers to the same prompt are compared position by position *up to the first token that differs*: from there on the
texts are two texts, and their log-probabilities belong to different questions (HSPI's collector compares them anyway).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from holdfast.errors import InvalidConfig
from holdfast.evidence import canonical
from holdfast.evidence.digest import digest_bytes
from holdfast.identification.answers import TOKEN_ID, Answer, Collection, TokenAnswer
from holdfast.identification.evidence import rounded, step_of
from holdfast.identification.grid_text import Rounding, rounding_of
from holdfast.identification.head import head_of
from holdfast.identification.matching import DistanceLaw, bins_of, distances
from holdfast.identification.model_names import is_same_model
from holdfast.identification.posterior import Identification, Posterior
from holdfast.identification.sequential import Decision, SequentialMatch, echo_of, run_sequential

_TEXTS = 4096  # numbers that are enough to see a rounding


class ServedAnswers:
    """A collection of answers beside collections from known platforms, each of them read once.

    Only the first answer to each prompt counts: a server that repeats itself says nothing new.

    Args:
        seen: answers to be named.
        references: labelled collections of the same prompts.

    Raises:
        InvalidConfig: no references, or references to other prompts, of another model, at another temperature, or
            with tokens named in another way.
    """

    def __init__(self, seen: Collection, references: Sequence[tuple[str, Collection]]) -> None:
        if not references:
            raise InvalidConfig("answers are identified against one reference collection or more")
        for label, other in references:
            _require_comparable(label, seen, other)
        self.head = head_of(seen)
        self._mine, self._known = _compared(seen), {label: _compared(other) for label, other in references}
        self._rounding = _rounding(self._mine)

    def identify(self, *, flaw: float = 1e-4, unknown: float = 0.05, level: float = 0.99) -> Identification:
        """Name the platform behind the answers."""
        known, rounding = self._known, self._rounding
        classes: dict[str, list[str]] = {}
        for label, answers in known.items():
            same = next((name for name in classes if _equal(answers, known[name], rounding)), label)
            classes.setdefault(same, []).append(label)
        nearest = [bins_of(_nearest(name, classes, known, rounding)) for name in classes if len(classes) > 1]
        apart = {tuple(labels): _distances(known[name], self._mine, rounding) for name, labels in classes.items()}
        law = DistanceLaw(flaw).fit(nearest)
        return Posterior(apart, law, unknown).answer(rounding, self.head.dtype, level)

    def prompt_by_prompt(self, *, error: float) -> Decision:
        """Return where the sequential test stops that looks at one prompt's answer after another, the telling first.

        Args:
            error: bound on the probability of naming a wrong one, whenever the test stops.

        Raises:
            InvalidConfig: fewer than two references that differ.
        """
        everyone = (self._mine, *self._known.values())
        shared = sorted(set(self._mine).intersection(*self._known.values()))
        depth = min(len(token.top) for every in everyone for one in every.values() for token in one.tokens)
        mine, *others = [[_digest(one[prompt], self._rounding, depth) for prompt in shared] for one in everyone]
        answers = dict(zip(self._known, others, strict=True))
        return run_sequential(SequentialMatch(answers, error=error, echo=echo_of(answers)), mine)


def identify_answers(
    seen: Collection,
    references: Sequence[tuple[str, Collection]],
    *,
    flaw: float = 1e-4,
    unknown: float = 0.05,
    level: float = 0.99,
) -> Identification:
    """Name the platform behind a collection by collections of the same prompts from known platforms.

    Raises:
        InvalidConfig: as :class:`ServedAnswers`.
    """
    return ServedAnswers(seen, references).identify(flaw=flaw, unknown=unknown, level=level)


def _digest(answer: Answer, rounding: Rounding, depth: int) -> str:
    """Return the digest of an answer's tokens and numbers, as they compare."""
    names = [(token.name, *(name for name, _ in token.top[:depth])) for token in answer.tokens]
    numbers = [float(text) for token in answer.tokens for _, text in token.top[:depth]]
    words = rounded(torch.tensor(numbers, dtype=torch.float32), rounding)
    return digest_bytes(canonical.dumps([list(row) for row in names]) + words.numpy().tobytes())


def _require_comparable(label: str, seen: Collection, other: Collection) -> None:
    if seen.digest != other.digest:
        raise InvalidConfig(f"the collection {label} was made with other prompts")
    mine, theirs = (float(item.request.get("temperature", 0.0)) for item in (seen, other))
    if mine != theirs:
        raise InvalidConfig(f"the collection {label} was asked at temperature {theirs:g}, this one at {mine:g}")
    _require_one_model(label, seen, other)
    _require_one_naming(label, seen, other)


def _require_one_model(label: str, seen: Collection, other: Collection) -> None:
    """Refuse another model; a vendor's or folder's name before it makes none, nor a date behind it."""
    mine, theirs = (str(item.request.get("model") or "") for item in (seen, other))
    if mine and theirs and not is_same_model(mine, theirs):
        raise InvalidConfig(
            f"the collection {label} was asked of the model {theirs}, this one of {mine}",
            hint="platforms are told apart by one model; where it is one, serve it under one name",
        )


def _require_one_naming(label: str, seen: Collection, other: Collection) -> None:
    """Refuse tokens named by number on one side and by text on the other: none of them would match."""
    kinds = [_numbered(item) for item in (seen, other)]
    if None in kinds or kinds[0] == kinds[1]:
        return
    mine, theirs = (
        f"by {'number' if numbered else 'text'} (dialect {item.request.get('dialect', 'unknown')})"
        for numbered, item in zip(kinds, (seen, other), strict=True)
    )
    raise InvalidConfig(
        f"the collection {label} names tokens {theirs}, this one {mine}: they cannot be matched",
        hint="collect both with the same --dialect",
    )


def _numbered(collection: Collection) -> bool | None:
    """Say whether top tokens are named by number; None where there are none."""
    tops = (name for answer in collection.answers() for token in answer.tokens for name, _ in token.top)
    first = next(tops, None)
    return None if first is None else first.startswith(TOKEN_ID)


def _compared(collection: Collection) -> dict[int, Answer]:
    """Return the first answer to each prompt; of sampled ones the first token, since chance picks what follows."""
    found: dict[int, Answer] = {}
    for answer in collection.answers():
        if answer.prompt not in found or answer.repeat < found[answer.prompt].repeat:
            found[answer.prompt] = answer
    if not float(collection.request.get("temperature", 0.0)):
        return found
    # which token was drawn is chance too: the position keeps its log-probabilities under one name
    heads = {prompt: [replace(token, token="", token_id=None, logprob=None) for token in answer.tokens[:1]]
             for prompt, answer in found.items()}  # fmt: skip
    return {prompt: replace(answer, tokens=tuple(heads[prompt])) for prompt, answer in found.items()}


def _rounding(answers: dict[int, Answer]) -> Rounding:
    texts = (text for answer in answers.values() for row in answer.positions() for text in row)
    return rounding_of(list(islice(texts, _TEXTS)))


def _nearest(
    name: str, classes: dict[str, list[str]], known: dict[str, dict[int, Answer]], rounding: Rounding
) -> Tensor:
    found = [_distances(known[other], known[name], rounding) for other in classes if other != name]
    return max(found, key=lambda item: float((item == 0).sum()) / max(1.0, float((~item.isnan()).sum())))


def _equal(one: dict[int, Answer], other: dict[int, Answer], rounding: Rounding) -> bool:
    apart = _distances(one, other, rounding)
    return bool(((apart == 0) | apart.isnan()).all()) and bool((apart == 0).any())


def _distances(one: dict[int, Answer], other: dict[int, Answer], rounding: Rounding) -> Tensor:
    """Return the distances of the log-probabilities of ``other`` to ``one``, a row a prompt, NaN where none is."""
    rows = [list(_pairs(one[prompt], other[prompt])) if prompt in one else [] for prompt in sorted(other)]
    width = max((len(row) for row in rows), default=0)
    if not width:
        raise InvalidConfig("two collections have no log-probabilities of the same prompts")
    left, right = (
        torch.tensor([[pair[side] for pair in row] + [torch.nan] * (width - len(row)) for row in rows]).float()
        for side in (0, 1)
    )
    left, right = rounded(left, rounding), rounded(right, rounding)
    apart = distances(left, right, step_of(left, rounding))
    return torch.where(left.isnan() & right.isnan(), torch.nan, apart)


def _pairs(one: Answer, other: Answer) -> Iterator[tuple[float, float]]:
    """Yield the two log-probabilities of each token that is comparable; one of them NaN where only one has it."""
    for mine, theirs in zip((*one.prompt_tokens, *one.tokens), (*other.prompt_tokens, *other.tokens), strict=False):
        yield from _at(mine, theirs)
        if mine.name != theirs.name:
            yield torch.inf, 0.0  # the texts part here, and what follows answers another question
            return


def _at(one: TokenAnswer, other: TokenAnswer) -> Iterator[tuple[float, float]]:
    depth = min(len(one.top), len(other.top))
    known = dict(one.top[:depth])
    for name, text in other.top[:depth]:
        yield (float(known[name]) if name in known else torch.nan), float(text)
    named = {name for name, _ in other.top[:depth]}
    if one.name == other.name and not named & {other.name, other.token} and one.logprob and other.logprob:
        yield float(one.logprob), float(other.logprob)
