"""Text as tokens, for language models: WikiText-2 (Merity et al., 2016) and plain files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from blake3 import blake3
from torch import Tensor

from holdfast._files import read_bytes
from holdfast._registry import coerce, unknown
from holdfast.data.catalogue import path_and_options
from holdfast.data.tokenizer import START, Tokenizer, read_tokenizer
from holdfast.errors import InvalidConfig, UnreadableArtifact

_CONTEXT = "holdfast 2026 text v1"
_LIMIT = 1 << 30
_FILES = ("{split}.txt", "wiki.{split}.tokens", "wiki.{split}.raw")


@dataclass(frozen=True, eq=False)
class Text:
    """One long sequence of tokens.

    Attributes:
        name: for people.
        tokens: int64, shape (n,), in 0 .. vocabulary-1.
        vocabulary: number of tokens that there are.
        start: token that a model expects before any text.
        tokenizer: turns tokens back into text, if one made them.

    Raises:
        InvalidConfig: no tokens, another dtype, or a token outside the vocabulary.
    """

    name: str
    tokens: Tensor
    vocabulary: int
    start: int = START
    tokenizer: Tokenizer | None = None

    def __post_init__(self) -> None:
        if self.tokens.dim() != 1 or self.tokens.dtype != torch.int64 or not self.tokens.numel():
            raise InvalidConfig(f"{self.name}: a text is one sequence of int64 tokens, and not empty")
        if not 0 <= int(self.tokens.min()) <= int(self.tokens.max()) < self.vocabulary:
            raise InvalidConfig(f"{self.name} holds tokens outside 0 .. {self.vocabulary - 1}")
        if not 0 <= self.start < self.vocabulary:
            raise InvalidConfig(f"{self.name}: the start {self.start} is no token of {self.vocabulary}")

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def device(self) -> torch.device:
        """Where the tokens lie."""
        return self.tokens.device

    def to(self, device: torch.device | str) -> Text:
        """Return the same tokens on ``device``, which hands out windows there; the digest stays."""
        return replace(self, tokens=self.tokens.to(device))

    def take(self, count: int) -> Text:
        """Return the first ``count`` tokens (all, if there are fewer)."""
        return replace(self, tokens=self.tokens[: max(0, count)])

    def windows(self, context: int, count: int | None = None) -> Tensor:
        """Return the text cut into windows, int64, shape (w, context); each begins with the start token.

        So every token is predicted once, from at most ``context`` - 2 tokens before it. What does not fill a window is
        left out.

        Args:
            context: tokens of a window, the start token included.
            count: of windows at most, from the beginning.

        Raises:
            InvalidConfig: a window of fewer than two tokens, or a text shorter than one window.
        """
        if context < 2 or (count is not None and count < 1):
            raise InvalidConfig("a text is cut into one window or more, of at least two tokens each")
        whole = len(self) // (context - 1)
        if not whole:
            raise InvalidConfig(f"{self.name} has {len(self)} tokens, too few for a window of {context}")
        whole = whole if count is None else min(whole, count)
        rows = self.tokens[: whole * (context - 1)].view(whole, context - 1)
        return torch.cat((rows.new_full((whole, 1), self.start), rows), 1)

    @cached_property
    def digest(self) -> str:
        """BLAKE3 (hex) binding the tokens, their order, the vocabulary's size and the start token."""
        hasher = blake3(derive_key_context=_CONTEXT)
        for part in (self.vocabulary, self.start, len(self)):
            hasher.update(part.to_bytes(8, "little"))
        hasher.update(self.tokens.cpu().numpy().astype("<i8").tobytes())
        return hasher.hexdigest()


def text(spec: str, *, tokenizer: Path | str | None = None) -> Text:
    """Return a text as tokens.

    Args:
        spec: ``wikitext2:ROOT``, a folder that holds ``valid.txt`` (or ``wiki.valid.tokens``), or ``text:FILE``; both
            take ``tokenizer=FILE``, and the first ``split=``.
        tokenizer: file in llama2.c's layout; used where the specification names none.

    Raises:
        UnknownName: another kind of text.
        InvalidConfig: no path or no tokenizer, or an option that does not exist.
        UnreadableArtifact: a missing file, one that is not UTF-8, or no tokenizer.
    """
    name, _, tail = spec.partition(":")
    if name not in TEXTS:
        raise unknown("text", name, TEXTS)
    options = coerce(TEXTS[name], path_and_options(tail), what=f"text {name!r}")
    if "root" not in options:
        raise InvalidConfig(f"the text {name} needs a path", hint=f"write {name}:PATH")
    chosen = options.pop("tokenizer", None) or tokenizer
    if chosen is None:
        raise InvalidConfig(f"{spec} names no tokenizer", hint=f"write {name}:PATH,tokenizer=FILE")
    return TEXTS[name](**options, tokenizer=str(chosen))


def is_text(spec: str) -> bool:
    """Say whether a specification of data means text rather than images."""
    return spec.partition(":")[0] in TEXTS


def wikitext2(root: str, split: str = "valid", tokenizer: str = "") -> Text:
    """Read one split of WikiText-2, as one sequence."""
    names = [name.format(split=split) for name in _FILES]
    found = next((Path(root) / name for name in names if (Path(root) / name).is_file()), None)
    if found is None:
        raise UnreadableArtifact(f"{root} holds none of {', '.join(names)}", hint="the folder of WikiText-2's files")
    return replace(plain_text(str(found), tokenizer), name=f"wikitext2/{split}")


def plain_text(root: str, tokenizer: str = "") -> Text:
    """Read a UTF-8 file as one sequence."""
    try:
        content = read_bytes(root, "text", limit=_LIMIT).decode()
    except UnicodeDecodeError as error:
        raise UnreadableArtifact(f"{root} is not UTF-8: byte {error.start}") from error
    made_by = read_tokenizer(tokenizer)
    tokens = torch.tensor(made_by.encode(content), dtype=torch.int64)
    return Text(Path(root).name, tokens, len(made_by.pieces), tokenizer=made_by)


TEXTS: dict[str, Callable[..., Text]] = {"text": plain_text, "wikitext2": wikitext2}
