"""``holdfast border``: images, pairs of platforms and prompts are looked for and told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.cli._common import counted, emit, say, stages
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from holdfast.data import Dataset
    from holdfast.identification.border import BorderSet, Demands, Oracle, Ranks, Search


@dataclass(frozen=True)
class Wanted:
    """What one call asks for."""

    model: nn.Module
    data: str
    platforms: list[str]
    out: Path
    n: int
    batch: int | None
    demands: Demands
    seed: int


def find_images(wanted: Wanted, split: str, search: Search, ranks: Ranks | None, json: bool) -> None:
    """Look for images; a rank other than 0 answers for its platform and says so."""
    found = _images(wanted, split, search, ranks)
    if found is None:
        say(f"rank {ranks.rank if ranks else 0} has answered for {wanted.platforms[0]}")
    else:
        _tell_images(wanted, found, json)


def _images(wanted: Wanted, split: str, search: Search, ranks: Ranks | None) -> BorderSet | None:
    from holdfast.data import dataset
    from holdfast.identification.border import Lattice, joined

    start = dataset(wanted.data, split=split)
    if ranks is None:
        return _found(wanted, start, wanted.platforms, search)
    if len(wanted.platforms) != 1:
        raise UsageError("each rank brings one platform", hint="give --platform once")
    with joined(ranks, wanted.model, wanted.platforms[0], Lattice.of(start), batch=wanted.batch) as oracles:
        return None if oracles is None else _found(wanted, start, oracles, search)


def _found(wanted: Wanted, start: Dataset, platforms: Sequence[str | Oracle], search: Search) -> BorderSet:
    from holdfast.identification.border import border as find

    with stages() as announce:
        return find(
            wanted.model,
            start,
            platforms=platforms,
            n=wanted.n,
            search=search,
            demands=wanted.demands,
            batch=wanted.batch,
            seed=wanted.seed,
            folder=wanted.out,
            progress=announce("searching"),
        )


def _tell_images(wanted: Wanted, found: BorderSet, json: bool) -> None:
    for number, item in enumerate(found.inputs):
        said = [
            f"{name} {'keeps no label' if label is None else f'says {label}'}" for name, label in item.labels.items()
        ]
        say(f"border-{number:03d}.png: {', '.join(said)}; margin {item.margin:.3g}")
    say(f"wrote {wanted.out}: {len(found.inputs)} border inputs")
    if json:
        inputs = [{"labels": item.labels, "margin": item.margin, "method": item.method} for item in found.inputs]
        emit({"folder": str(wanted.out), "model": found.model_digest, "inputs": inputs})


def find_pairs(wanted: Wanted, split: str, search: Search, json: bool) -> None:
    """Look for an input of every pair of platforms, and name each platform from its labels."""
    from holdfast.data import dataset
    from holdfast.identification.border import border_pairs

    start = dataset(wanted.data, split=split)
    with stages() as announce:
        found = border_pairs(
            wanted.model,
            start,
            platforms=wanted.platforms,
            search=search,
            demands=wanted.demands,
            batch=wanted.batch,
            seed=wanted.seed,
            folder=wanted.out,
            progress=announce("pairs"),
        )
    for pair, reason in found.alike.items():
        say(f"not parted: {' and '.join(pair)}: {reason}")
    groups = "; ".join(" = ".join(group) for group in found.chosen.classes)
    say(f"wrote {wanted.out}: {counted(len(found.inputs), 'input')}; {len(found.chosen.inputs)} tell apart: {groups}")
    say(f"labels of fresh processes name {sum(found.right.values())} of {len(found.right)} platforms right")
    if json:
        emit(found.to_json() | {"folder": str(wanted.out)})


def find_prompts(wanted: Wanted, tokenizer: Path | None, json: bool) -> None:
    """Look for prompts in a text."""
    from holdfast.data.text import text
    from holdfast.identification.border import border_text, windows_for

    corpus = text(wanted.data, tokenizer=tokenizer)
    with stages() as announce:
        found = border_text(
            wanted.model,
            windows_for(wanted.model, corpus),
            platforms=wanted.platforms,
            tokenizer=corpus.tokenizer,
            n=wanted.n,
            demands=wanted.demands,
            batch=wanted.batch,
            seed=wanted.seed,
            folder=wanted.out,
            progress=announce("searching"),
        )
    for item in found.prompts:
        decode = corpus.tokenizer.decode if corpus.tokenizer is not None else str
        said = [f"{name} goes on {decode(tokens)!r}" for name, tokens in item.continuations.items()]
        say("\n  ".join((repr(item.text), *said)))
    say(f"wrote {wanted.out}: {len(found.prompts)} border prompts")
    if json:
        prompts = [{"text": item.text, "continuations": item.continuations} for item in found.prompts]
        emit({"folder": str(wanted.out), "model": found.model_digest, "prompts": prompts})
