"""A byte-pair tokenizer with scores, as llama2.c stores SentencePiece's vocabularies (``tok512.bin``).

Layout, little-endian: the length of the longest token (int32), then for each token its score (float32), its length
(int32) and its bytes. Tokens 0, 1 and 2 are unknown, start and end of text; 3 to 258 are the single bytes.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from holdfast._files import read_bytes
from holdfast.errors import UnreadableArtifact
from holdfast.evidence.digest import digest_bytes

START, END = 1, 2
_BYTES = 3  # the token of byte 0
_LIMIT = 1 << 26


@dataclass(frozen=True)
class Tokenizer:
    """Merges the pair with the best score until none is left (Sennrich et al., 2016, as SentencePiece does).

    Attributes:
        pieces: bytes of each token.
        scores: of each token; the higher, the earlier it is merged.
        digest: BLAKE3 (hex) of the file.
    """

    pieces: tuple[bytes, ...]
    scores: tuple[float, ...]
    digest: str

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        first = _BYTES + 256
        return {piece: first + number for number, piece in reversed(list(enumerate(self.pieces[first:])))}

    @cached_property
    def _words(self) -> re.Pattern[str]:
        """How a text falls into parts that no merge can join: before each space, unless a token has one inside."""
        if any(b" " in piece[1:] for piece in self._ids):
            return re.compile(r".+", re.DOTALL)
        return re.compile(r" ?[^ ]+| ")

    def encode(self, text: str) -> list[int]:
        """Return the tokens of ``text``, as if a space stood before it; start and end are not added."""
        known: dict[str, list[int]] = {}
        tokens: list[int] = []
        for word in self._words.findall(f" {text}" if text else ""):
            if word not in known:
                known[word] = self._encode_word(word)
            tokens += known[word]
        return tokens

    def _encode_word(self, word: str) -> list[int]:
        tokens = [token for letter in word for token in self._encode_letter(letter.encode())]
        while True:
            pairs = (self._ids.get(self.pieces[a] + self.pieces[b]) for a, b in pairwise(tokens))
            merges = [(self.scores[token], -place, token) for place, token in enumerate(pairs) if token is not None]
            if not merges:
                return tokens
            _, place, token = max(merges)
            tokens[-place : -place + 2] = [token]

    def _encode_letter(self, letter: bytes) -> list[int]:
        token = self._ids.get(letter)
        return [_BYTES + byte for byte in letter] if token is None else [token]

    def decode(self, tokens: list[int]) -> str:
        """Return the text of ``tokens``; start and end leave nothing, and bytes that are no text become U+FFFD."""
        parts = [
            bytes([token - _BYTES]) if _BYTES <= token < _BYTES + 256 else self.pieces[token]
            for token in tokens
            if token not in (START, END)
        ]
        return b"".join(parts).decode(errors="replace").removeprefix(" ")


def read_tokenizer(path: Path | str) -> Tokenizer:
    """Read a tokenizer in llama2.c's layout.

    Raises:
        UnreadableArtifact: missing, truncated, or with fewer tokens than the three special ones and 256 bytes.
    """
    data = read_bytes(path, "tokenizer", limit=_LIMIT)
    pieces, scores, place = list[bytes](), list[float](), 4
    while place < len(data):
        if place + 8 > len(data):
            raise UnreadableArtifact(f"{path} ends inside a token")
        score, length = struct.unpack_from("<fi", data, place)
        place += 8 + length
        if length < 0 or place > len(data):
            raise UnreadableArtifact(f"{path}: token {len(pieces)} has a length of {length} bytes")
        pieces.append(data[place - length : place])
        scores.append(score)
    if len(pieces) < _BYTES + 256:
        raise UnreadableArtifact(
            f"{path} holds {len(pieces)} tokens, fewer than the 256 bytes", hint="llama2.c's layout, as tok512.bin has"
        )
    return Tokenizer(tuple(pieces), tuple(scores), digest_bytes(data))
