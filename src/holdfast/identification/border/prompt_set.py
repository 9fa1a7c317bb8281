"""Border prompts on disk: ``prompts.json`` with what each platform said and how it was checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holdfast._files import read_bytes, write_atomic
from holdfast.errors import DigestMismatch, UnreadableArtifact, UnsupportedVersion, VerificationError
from holdfast.evidence import canonical
from holdfast.evidence.digest import digest_bytes
from holdfast.identification.border.asking import Oracle
from holdfast.identification.border.checks import Demands, Standing, standing
from holdfast.identification.border.text_oracle import Vocabulary
from holdfast.seeds import Seed

TEXT_TYPE = "holdfast.border-prompts/v2"
_WITHOUT_DIGEST = "holdfast.border-prompts/v1"
PROMPTS = "prompts.json"


@dataclass(frozen=True)
class BorderPrompt:
    """A prompt with two continuations, checked.

    Attributes:
        tokens: of the prompt.
        text: the same, as one types it; empty without a tokenizer.
        standings: what each platform answered: its label is the next token.
        continuations: greedy tokens of each platform, by name; they part at the first.
    """

    tokens: tuple[int, ...]
    text: str
    standings: tuple[Standing, ...]
    continuations: dict[str, list[int]]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self) | {"tokens": list(self.tokens), "standings": [item.to_json() for item in self.standings]}

    @classmethod
    def from_json(cls, value: object) -> BorderPrompt:
        """Read the JSON form.

        Raises:
            UnreadableArtifact: a field that is missing or of another kind; it is named.
        """
        if not isinstance(value, dict) or set(value) != {"tokens", "text", "standings", "continuations"}:
            raise UnreadableArtifact(f"{value!r:.100} is no border prompt")
        tokens, text, said, following = (value[key] for key in ("tokens", "text", "standings", "continuations"))
        if not _are_tokens(tokens) or not tokens or not isinstance(text, str):
            raise UnreadableArtifact(f"a border prompt has tokens {tokens!r:.100} and the text {text!r:.100}")
        standings = tuple(Standing.from_json(item) for item in said) if isinstance(said, list) else ()
        names = [item.platform for item in standings]
        if len(names) < 2 or not isinstance(following, dict) or sorted(following) != sorted(names):
            raise UnreadableArtifact(f"a border prompt is continued by {', '.join(names) or 'nobody'}")
        if not all(map(_are_tokens, following.values())):
            raise UnreadableArtifact(f"continuations of a border prompt are {following!r:.100}")
        return cls(tuple(tokens), text, standings, following)

    def rechecked(self, oracles: Sequence[Oracle], demands: Demands, seed: Seed | int) -> BorderPrompt:
        """Return the prompt with what the platforms say now; raises as :func:`checked_prompt`."""
        return replace(self, standings=checked_prompt(torch.tensor(self.tokens), oracles, demands, seed))


def _are_tokens(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


@dataclass(frozen=True)
class BorderPrompts:
    """Border prompts of one language model."""

    prompts: tuple[BorderPrompt, ...]
    model_digest: str
    tokenizer: str  # digest, or empty

    def rechecked(self, oracles: Sequence[Oracle], demands: Demands | None = None, *, seed: int = 0) -> BorderPrompts:
        """Check every prompt again and return the set with what was seen.

        Raises:
            VerificationError: one is no border prompt any more.
        """
        again = [item.rechecked(oracles, demands or Demands(), seed) for item in self.prompts]
        return replace(self, prompts=tuple(again))

    def save(
        self, folder: Path | str, oracles: Sequence[Oracle], demands: Demands | None = None, *, seed: int = 0
    ) -> BorderPrompts:
        """Check every prompt once more and write ``prompts.json``; return what was written.

        Raises:
            VerificationError: one is no border prompt any more; nothing was written.
        """
        final = self.rechecked(oracles, demands, seed=seed)
        write_checked(final, Path(folder))
        return final

    @classmethod
    def load(cls, folder: Path | str) -> BorderPrompts:
        """Read border prompts back.

        Raises:
            UnsupportedVersion: no border prompts of a version that is known.
            DigestMismatch: what is said of them was changed.
            UnreadableArtifact: a missing or malformed file.
        """
        value = canonical.loads(read_bytes(Path(folder) / PROMPTS, "border prompts"), what=PROMPTS)
        if not isinstance(value, dict) or value.get("type") not in (TEXT_TYPE, _WITHOUT_DIGEST):
            raise UnsupportedVersion(f"{folder} holds no {TEXT_TYPE}")
        body = {key: item for key, item in value.items() if key not in ("type", "digest")}
        if value["type"] == TEXT_TYPE and value.get("digest") != digest_bytes(canonical.dumps(body)):
            raise DigestMismatch(f"{Path(folder) / PROMPTS} was changed after it was written")
        model, tokenizer, prompts = (body.get(key) for key in ("model", "tokenizer", "prompts"))
        if not isinstance(model, str) or not isinstance(tokenizer, str) or not isinstance(prompts, list):
            raise UnreadableArtifact(f"{PROMPTS} in {folder} lacks its model, tokenizer or prompts")
        return cls(tuple(map(BorderPrompt.from_json, prompts)), model, tokenizer)


def write_checked(kept: BorderPrompts, folder: Path) -> None:
    """Write prompts that were checked just now."""
    body = {
        "model": kept.model_digest,
        "tokenizer": kept.tokenizer,
        "prompts": [item.to_json() for item in kept.prompts],
    }
    value = body | {"type": TEXT_TYPE, "digest": digest_bytes(canonical.dumps(body))}
    write_atomic(folder / PROMPTS, canonical.dumps(value))


def checked_prompt(
    prompt: Tensor, oracles: Sequence[Oracle], demands: Demands, seed: Seed | int
) -> tuple[Standing, ...]:
    """Return what each platform says after ``prompt`` (t,), the first two of which must differ.

    Raises:
        VerificationError: one of the two does not keep its token in every check, or both give the same.
    """
    size = int(oracles[0].logits(prompt.expand(oracles[0].batch, -1)).shape[1])
    space = Vocabulary(size, len(prompt))
    found = tuple(standing(oracle, prompt, space, demands, seed) for oracle in oracles)
    if complaints := [item.complaint for item in found[:2] if item.complaint]:
        raise VerificationError(f"no border prompt: {'; '.join(complaints)}")
    if found[0].label == found[1].label:
        raise VerificationError(f"no border prompt: both platforms go on with token {found[0].label}")
    return found
