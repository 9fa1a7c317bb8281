"""The format of a head from one answer, through a server, JSON and the collector.

    python -m benchmarks.served_heads --json

Answers of sixteen tokens and twenty log-probabilities come from the tiny LLaMA run in fp32, fp16 and bf16 (where its
weights are at hand) and from made-up logits. Each answer is judged alone, and how it was asked for is known: greedily,
at temperature 2, or greedily with the log-probabilities of a prompt of twelve words. The latter two show unlikely
tokens, and with them how large the logits are. Rounded to 2, 4, 5 and 6 decimals, only ``cannot tell`` is right.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks._harness import machine
from holdfast.data.tokenizer import read_tokenizer
from holdfast.execution.statistics import Proportion
from holdfast.identification import head_of_answers
from holdfast.identification.collectors import ServerRequest, collect_answers, word_prompts
from holdfast.models import load
from holdfast.testing.simulated_replies import MadeUp, Variant
from holdfast.testing.simulated_server import SimulatedServer

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
ASKED: Mapping[str, Mapping[str, Any]] = {
    "greedy": {},
    "temperature 2": {"temperature": 2.0},
    "with the prompt": {"prompt_logprobs": True},
}
_BYTES, _PIECES, _CONTEXT = 3, 259, 120
_WORDS = 12


class TinyLlama:
    """Real logits: the tiny LLaMA, computed in one format."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self._model, self._words = load(folder).to(dtype), read_tokenizer(folder / "tok512.bin")

    def encode(self, text: str) -> list[int]:
        return [1, *self._words.encode(text)]

    def decode(self, token: int) -> bytes:
        if token < _PIECES:
            return bytes([token - _BYTES]) if token >= _BYTES else b""
        return self._words.pieces[token]

    def logits(self, tokens: Sequence[int]) -> torch.Tensor:
        with torch.no_grad():
            return self._model(torch.tensor([list(tokens)[-_CONTEXT:]]))[0, -1].float()


def variant(folder: Path | None, name: str, places: int | None) -> Variant:
    """One machine with a head of the given format."""
    if folder is None:
        return Variant(brain=MadeUp(seed=77), dtype=name, places=places)
    return Variant(brain=TinyLlama(folder, DTYPES[name]), places=places)


def said(folder: Path | None, name: str, places: int | None, answers: int, asked: str = "greedy") -> Counter[str]:
    """What each answer alone is taken for."""
    with SimulatedServer([variant(folder, name, places)], kind="vllm") as server, tempfile.TemporaryDirectory() as out:
        request = ServerRequest(url=server.url, tokens=16, top=20, **ASKED[asked])
        got = collect_answers(request, word_prompts(answers, words=_WORDS, seed=5), Path(out) / "c")
        return Counter(
            head_of_answers([answer], temperature=request.temperature).dtype for answer in got.collection.answers()
        )


def cell(folder: Path | None, name: str, places: int | None, answers: int, asked: str) -> dict[str, object]:
    """One row of the table: how often the right word was said, with a 95 % Clopper-Pearson interval."""
    found = said(folder, name, places, answers, asked)
    right = found[name if places is None else "cannot tell"]
    share = Proportion.clopper_pearson(right, answers)
    logits = "made up" if folder is None else "tiny LLaMA"
    row = {"logits": logits, "asked": asked, "head": name, "decimals": places, "right": right, "n": answers}
    return row | {"said": dict(found), "low": share.low, "high": share.high}


def main() -> None:
    """Print a row for every way of asking, head and rounding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--answers", type=int, default=100)
    parser.add_argument("--rounded", type=int, default=12, help="answers for each head and number of decimals")
    given = parser.parse_args()
    torch.set_num_threads(1)
    shared = Path(os.environ.get("HOLDFAST_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    real = shared / "data" / "tiny-llama-260k"
    rows = [
        cell(folder, name, places, given.answers if places is None else given.rounded, asked)
        for folder in ([real] if real.is_dir() else []) + [None]
        for asked in ASKED
        for places in (None, 2, 4, 5, 6)
        for name in DTYPES
    ]
    if given.json:
        print(json.dumps({"rows": rows, "machine": machine()}, sort_keys=True))
        return
    for row in rows:
        places = "in full" if row["decimals"] is None else f"{row['decimals']} decimals"
        interval = f"({row['low']:.3f} to {row['high']:.3f})"
        print(f"{row['logits']}, {row['asked']}, {row['head']}, {places}: {row['right']}/{row['n']} {interval}")


if __name__ == "__main__":
    main()
