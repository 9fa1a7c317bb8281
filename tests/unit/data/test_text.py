"""Tokens of real text: a tokenizer against the plain algorithm, windows, digests, and broken files."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch

from holdfast.data import Text, Tokenizer, is_text, read_tokenizer, text
from holdfast.errors import InvalidConfig, UnknownName, UnreadableArtifact

SPECIAL = [b"<unk>", b"\n<s>\n", b"\n</s>\n"] + [b"<0x%02X>" % byte for byte in range(256)]


def written(path: Path, *pieces: tuple[bytes, float]) -> Path:
    entries = [(piece, 0.0) for piece in SPECIAL] + list(pieces)
    body = b"".join(struct.pack("<fi", score, len(piece)) + piece for piece, score in entries)
    path.write_bytes(struct.pack("<i", 10) + body)
    return path


@pytest.fixture
def small(tmp_path: Path) -> Tokenizer:
    pieces = [(b"a", -9.0), (b"b", -9.0), (b" ", -9.0), (b"ab", -2.0), (b" a", -1.0), (b"abab", -0.5), (b" ab", -3.0)]
    return read_tokenizer(written(tmp_path / "tok.bin", *pieces))


def plain(tokenizer: Tokenizer, content: str) -> list[int]:
    """Merge over the whole text at once: the best score first, of equals the leftmost; slow and short."""
    pieces = list(tokenizer.pieces)
    ids = {piece: number for number, piece in reversed(list(enumerate(pieces))) if number >= 259}
    tokens = []
    for letter in f" {content}" if content else "":
        octets = letter.encode()
        tokens += [ids[octets]] if octets in ids else [3 + byte for byte in octets]
    while True:
        best = None
        for place in range(len(tokens) - 1):
            token = ids.get(pieces[tokens[place]] + pieces[tokens[place + 1]])
            if token is not None and (best is None or tokenizer.scores[token] > tokenizer.scores[best[1]]):
                best = place, token
        if best is None:
            return tokens
        tokens[best[0] : best[0] + 2] = [best[1]]


def test_merges_by_hand(small: Tokenizer) -> None:
    b, space, ab, space_a, abab, space_ab = range(260, 266)
    assert small.encode("a") == [space_a]
    assert small.encode("ab") == [space_ab]  # by way of " a", which comes before "ab"
    assert small.encode("abb") == [space_ab, b]
    assert small.encode("bab") == [space, b, ab]
    assert small.encode("babab") == [space, b, abab]
    assert small.encode("") == []
    assert small.encode("é") == [space, 3 + 0xC3, 3 + 0xA9]
    assert small.decode([1, *small.encode("bab é"), 2]) == "bab é"


def test_a_word_at_a_time_equals_the_whole_at_once(small: Tokenizer) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        letters = torch.randint(0, 4, (30,), generator=generator).tolist()
        content = "".join("ab c"[letter] for letter in letters)
        assert small.encode(content) == plain(small, content)


def test_tokens_with_spaces_inside_are_found(tmp_path: Path) -> None:
    pieces = [(b"a", -9.0), (b" ", -9.0), (b" a", -1.0), (b" a a", -0.5)]
    tokenizer = read_tokenizer(written(tmp_path / "tok.bin", *pieces))
    assert tokenizer.encode("a a") == [262] == plain(tokenizer, "a a")


def test_windows() -> None:
    found = Text("t", torch.arange(10, 20), 30).windows(4)
    assert found.tolist() == [[1, 10, 11, 12], [1, 13, 14, 15], [1, 16, 17, 18]]
    assert Text("t", torch.arange(10, 20), 30).windows(4, 2).shape == (2, 4)
    with pytest.raises(InvalidConfig, match="too few"):
        Text("t", torch.arange(3), 30).windows(9)
    with pytest.raises(InvalidConfig, match="at least two"):
        Text("t", torch.arange(3), 30).windows(1)


def test_the_digest_binds_what_is_measured() -> None:
    plain_text = Text("t", torch.arange(9), 30)
    others = [plain_text.take(8), Text("t", torch.arange(9), 31), Text("t", torch.arange(9), 30, start=2)]
    assert len({plain_text.digest, *(other.digest for other in others)}) == 4
    assert Text("another name", torch.arange(9), 30).digest == plain_text.digest


def test_files_by_name(tmp_path: Path) -> None:
    tokenizer = written(tmp_path / "tok.bin", (b"a", -9.0), (b" ", -9.0))
    (tmp_path / "wiki.test.tokens").write_text("aa a")
    found = text(f"wikitext2:{tmp_path},split=test,tokenizer={tokenizer}")
    assert found.tokens.tolist() == [260, 259, 259, 260, 259]
    assert found.name == "wikitext2/test"
    assert text(f"text:{tmp_path / 'wiki.test.tokens'}", tokenizer=tokenizer).digest == found.digest
    assert is_text("wikitext2:x")
    assert not is_text("digits")


def test_bad_files_and_names(tmp_path: Path) -> None:
    tokenizer = written(tmp_path / "tok.bin", (b"a", -9.0))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    whole = tokenizer.read_bytes()
    (tmp_path / "cut.bin").write_bytes(whole[:-1])
    (tmp_path / "few.bin").write_bytes(whole[:100])
    (tmp_path / "negative.bin").write_bytes(whole[:8] + struct.pack("<i", -5) + whole[12:])
    (tmp_path / "a.txt").write_text("a")
    for name in ("cut.bin", "few.bin", "negative.bin", "missing.bin"):
        with pytest.raises(UnreadableArtifact):
            text(f"text:{tmp_path / 'a.txt'}", tokenizer=tmp_path / name)
    with pytest.raises(UnreadableArtifact, match="byte 3"):
        text(f"text:{tmp_path / 'latin.txt'}", tokenizer=tokenizer)
    with pytest.raises(UnreadableArtifact, match=r"valid\.txt"):
        text(f"wikitext2:{tmp_path}", tokenizer=tokenizer)
    with pytest.raises(InvalidConfig, match="names no tokenizer"):
        text(f"wikitext2:{tmp_path}")
    with pytest.raises(InvalidConfig, match="needs a path"):
        text("wikitext2")
    with pytest.raises(InvalidConfig, match="no option"):
        text(f"wikitext2:{tmp_path},part=valid", tokenizer=tokenizer)
    with pytest.raises(UnknownName, match="wikitext3"):
        text("wikitext3:x")
    for tokens in (torch.tensor([], dtype=torch.int64), torch.tensor([5]), torch.tensor([0.5])):
        with pytest.raises(InvalidConfig):
            Text("t", tokens, 5)


def test_wikitext_2(shared_data: Path) -> None:
    """The real text and the real tokenizer: exact round trip, and the plain algorithm agrees."""
    tokenizer = shared_data / "tiny-llama-260k" / "tok512.bin"
    found = text(f"wikitext2:{shared_data / 'wikitext-2'}", tokenizer=tokenizer)
    assert found.tokenizer is not None
    content = (shared_data / "wikitext-2" / "valid.txt").read_text()
    assert found.tokenizer.decode(found.tokens.tolist()) == content
    assert found.tokens[:400].tolist() == plain(found.tokenizer, content[:1500])[:400]
    assert found.vocabulary == 512
