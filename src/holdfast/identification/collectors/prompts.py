"""What is asked: prompts from a file, or made of words in an order that a seed gives."""

from __future__ import annotations

import json
from pathlib import Path

from holdfast._files import read_bytes
from holdfast.errors import InvalidConfig, UnreadableArtifact
from holdfast.seeds import derive

LARGEST = 16 << 20
MOST = 100_000  # prompts that one collection asks; its description holds all of them
_TEXT = (
    "about after again air all along also animal answer around back because before began below between book both "
    "boy bring build call carry change city close cold come could country cut day different door down draw each earth "
    "eat end enough even every example eye face family far father feet few find first follow food form found four "
    "friend from garden girl give good great green grow half hand hard head hear help high home horse house idea keep "
    "kind know land large last late learn leave letter life light line list little live long look made make many mark "
    "mean mile money morning mother mountain move much music name near never new next night north number off often old "
    "once only open other over page paper part people picture place plant play point read right river run said same "
    "saw school sea second see sentence set seven she ship short show side small song soon sound spell stand start "
    "state still stop story street study sun table take talk tell thing think three time together took town tree turn "
    "under until voice walk wall want watch water way white wind wish word work world write year young"
)
_WORDS = _TEXT.split()


def word_prompts(count: int, *, seed: int = 0, words: int = 12) -> tuple[str, ...]:
    """Return known prompts of common English words, as many as ``count``; any prefix of them is the same.

    The words follow no grammar, so no model has learnt their continuation and many positions are near ties, which tell
    platforms apart best.

    Raises:
        InvalidConfig: none, or more than :data:`MOST`.
    """
    if count < 1 or words < 1:
        raise InvalidConfig(f"{count} prompts of {words} words cannot be made")
    if count > MOST:
        raise InvalidConfig(
            f"{count} prompts are more than the {MOST:,} of one collection", hint="--probes 512 is many"
        )
    drawn = (derive(seed, "prompts", number).numpy().integers(0, len(_WORDS), words) for number in range(count))
    return tuple(" ".join(_WORDS[place] for place in places).capitalize() for places in drawn)


def read_prompts(path: Path | str) -> tuple[str, ...]:
    """Return the prompts in a file: one a line; in a ``.jsonl`` file texts or objects with a ``prompt``.

    Raises:
        UnreadableArtifact: no such file, no UTF-8, no prompt in it, or a malformed line, which is named.
        InvalidConfig: more than :data:`MOST`.
    """
    try:
        text = read_bytes(path, "prompts", limit=LARGEST, stream=True).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableArtifact(f"{path} is not UTF-8: {error}") from error
    numbered = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not numbered:
        raise UnreadableArtifact(f"{path} holds no prompt")
    if len(numbered) > MOST:
        raise InvalidConfig(f"{path} holds {len(numbered)} prompts, and one collection asks at most {MOST:,}")
    if Path(path).suffix == ".jsonl":
        return tuple(_prompt(path, number, line) for number, line in numbered)
    return tuple(line.removesuffix("\r") for _, line in numbered)


def _prompt(path: Path | str, number: int, line: str) -> str:
    try:
        value = json.loads(line)
        value = value["prompt"] if isinstance(value, dict) else value
        if not isinstance(value, str) or not value:
            raise TypeError("it is no text")
        value.encode()
    except (ValueError, KeyError, TypeError) as error:
        raise UnreadableArtifact(f"line {number} of {path} is no prompt: {error}") from error
    return value
