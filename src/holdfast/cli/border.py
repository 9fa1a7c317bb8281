"""``holdfast border``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli._common import (
    Architecture,
    Json,
    Seed,
    counted,
    emit,
    make_app,
    require_other,
    require_writable,
    say,
    stages,
)
from holdfast.cli._given import refuse
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from holdfast.data import Dataset
    from holdfast.identification.border import BorderSet, Demands, Oracle, Ranks, Search

app = make_app()
_METHODS = ("lattice", "pgd", "pgd-rest")
_RANKS = ("world_size", "rendezvous", "backend", "timeout")
_SEARCHES = ("data", "out", "all_pairs", "n", "method", "batch", "split", "tokenizer", "seed", "rank", *_RANKS)


@dataclass(frozen=True)
class _Wanted:
    """What one call asks for."""

    model: nn.Module
    data: str
    platforms: list[str]
    out: Path
    n: int
    batch: int | None
    demands: Demands
    seed: int


@app.command(
    epilog="Example: holdfast border model/ --data digits --platform default --platform bf16 -o border/   "
    "# two machines: one --platform and --rank each, with --rendezvous tcp://HOST:29500"
)
def border(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="Model to find border inputs of.")],
    data: Annotated[str, typer.Option(help="Where to start: digits, cifar10:ROOT, or a text, wikitext2:ROOT.")] = "",
    platform: Annotated[
        list[str] | None,
        typer.Option(help="Settings: the first two are separated, more are asked. With --rank, the one of this rank."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write; a killed search goes on from it.")
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(help="Search nothing: ask MODEL about its inputs in this folder again, on --platform or on all."),
    ] = None,
    transfer: Annotated[
        list[Path] | None, typer.Option(help="With --check: ask other models, and write transferability.yaml.")
    ] = None,
    all_pairs: Annotated[
        bool, typer.Option("--all-pairs", help="Part every pair of the platforms, and name each from its labels.")
    ] = False,
    n: Annotated[int, typer.Option("-n", help="Inputs wanted.", min=1)] = 1,
    method: Annotated[str, typer.Option(help="lattice, or as published: pgd, pgd-rest.")] = "lattice",
    batch: Annotated[
        int | None, typer.Option(help="Inputs in one pass; 1 for a service that takes one at a time.", min=1)
    ] = None,
    margin: Annotated[float, typer.Option(help="Least margin of each label.", min=0.0)] = 0.0,
    fresh: Annotated[int, typer.Option(help="Fresh processes that must agree, too.", min=0)] = 0,
    split: Annotated[str, typer.Option(help="Part of the data.")] = "test",
    tokenizer: Annotated[Path | None, typer.Option(help="Tokenizer of a language model, such as tok512.bin.")] = None,
    rank: Annotated[int | None, typer.Option(help="This process among several; 0 searches.", min=0)] = None,
    world_size: Annotated[int, typer.Option(help="Processes in all, each with its platform.", min=2)] = 2,
    rendezvous: Annotated[str, typer.Option(help="tcp://HOST:PORT of rank 0, or file:///PATH.")] = "",
    backend: Annotated[str, typer.Option(help="gloo, or nccl between GPUs.")] = "gloo",
    timeout: Annotated[float, typer.Option(help="Seconds to wait for another rank.")] = 300.0,
    arch: Architecture = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Find inputs that two platforms answer with different labels, check them, and write those that hold.

    With --check, ask about what is written again: exit code 1 if a label is not what it was.
    """
    from holdfast.data.text import is_text
    from holdfast.identification.border import Demands, Ranks
    from holdfast.models import load

    platform = platform or []
    if check is not None:
        from holdfast.cli._border_again import check_again, check_elsewhere

        refuse(context, "saved inputs are asked about", _SEARCHES)
        if transfer:
            refuse(
                context, "other models are asked on the two platforms of each input,", ("platform", "margin", "fresh")
            )
            check_elsewhere(load(model, arch=arch), check, transfer, json)
            return
        check_again(load(model, arch=arch), check, platform, Demands(margin=margin, fresh=fresh), json)
        return
    refuse(context, "a search is made", ("transfer",))
    if rank is None:
        refuse(context, "a search in one process, which has no --rank, is made", _RANKS)
    if not data or not platform or out is None:
        raise UsageError("a search needs --data, --platform and --out", hint="or --check FOLDER, to search nothing")
    require_other(out, model)
    require_writable(out)
    search = _search(method, n)
    ranks = None
    if rank is not None:
        ranks = Ranks(rank=rank, world_size=world_size, rendezvous=rendezvous, backend=backend, timeout=timeout)
    demands = Demands(margin=margin, fresh=fresh)
    wanted = _Wanted(load(model, arch=arch), data, platform, out, n, batch, demands, seed)
    if is_text(data):
        near_ties = "prompts are found among near-ties of two platforms of this machine,"
        refuse(context, near_ties, ("rank", "method", "all_pairs", "split"))
        _tell_prompts(wanted, tokenizer, json)
        return
    refuse(context, "border inputs of images are found", ("tokenizer",))
    if all_pairs:
        if ranks is not None or n > 1:
            raise UsageError("all pairs are parted on this machine, by one input each", hint="drop --rank and -n")
        _tell_pairs(wanted, split, search, json)
        return
    found = _images(wanted, split, search, ranks)
    if found is None:
        say(f"rank {rank} has answered for {platform[0]}")
    else:
        _tell_images(wanted, found, json)


def _search(method: str, n: int) -> Search:
    from holdfast.identification.border import LatticeSearch, SignPGD

    if method not in _METHODS:
        raise UsageError(f"no method {method!r}", hint=f"choose one of {', '.join(_METHODS)}")
    if method == "lattice":
        return LatticeSearch(attempts=8 * n)
    # checked every tenth of the way: a try that has succeeded need not run to its end
    return SignPGD(objective="one-vs-rest" if method == "pgd-rest" else "one-vs-one", check_every=0.1)


def _images(wanted: _Wanted, split: str, search: Search, ranks: Ranks | None) -> BorderSet | None:
    from holdfast.data import dataset
    from holdfast.identification.border import Lattice, joined

    start = dataset(wanted.data, split=split)
    if ranks is None:
        return _found(wanted, start, wanted.platforms, search)
    if len(wanted.platforms) != 1:
        raise UsageError("each rank brings one platform", hint="give --platform once")
    with joined(ranks, wanted.model, wanted.platforms[0], Lattice.of(start), batch=wanted.batch) as oracles:
        return None if oracles is None else _found(wanted, start, oracles, search)


def _found(wanted: _Wanted, start: Dataset, platforms: Sequence[str | Oracle], search: Search) -> BorderSet:
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


def _tell_images(wanted: _Wanted, found: BorderSet, json: bool) -> None:
    for number, item in enumerate(found.inputs):
        said = [
            f"{name} {'keeps no label' if label is None else f'says {label}'}" for name, label in item.labels.items()
        ]
        say(f"border-{number:03d}.png: {', '.join(said)}; margin {item.margin:.3g}")
    say(f"wrote {wanted.out}: {len(found.inputs)} border inputs")
    if json:
        inputs = [{"labels": item.labels, "margin": item.margin, "method": item.method} for item in found.inputs]
        emit({"folder": str(wanted.out), "model": found.model_digest, "inputs": inputs})


def _tell_pairs(wanted: _Wanted, split: str, search: Search, json: bool) -> None:
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


def _tell_prompts(wanted: _Wanted, tokenizer: Path | None, json: bool) -> None:
    from holdfast.data.text import text
    from holdfast.identification.border import border_text, open_text_oracles
    from holdfast.models import card

    corpus = text(wanted.data, tokenizer=tokenizer)
    context = min((card(wanted.model).input_shape or (64,))[0], 64)
    found = border_text(
        wanted.model,
        corpus.windows(context, 64),
        platforms=wanted.platforms,
        tokenizer=corpus.tokenizer,
        n=wanted.n,
        demands=wanted.demands,
        batch=wanted.batch,
        seed=wanted.seed,
    )
    with open_text_oracles(wanted.model, wanted.platforms, batch=wanted.batch) as oracles:
        found.save(wanted.out, oracles, wanted.demands)
    for item in found.prompts:
        decode = corpus.tokenizer.decode if corpus.tokenizer is not None else str
        said = [f"{name} goes on {decode(tokens)!r}" for name, tokens in item.continuations.items()]
        say("\n  ".join((repr(item.text), *said)))
    say(f"wrote {wanted.out}: {len(found.prompts)} border prompts")
    if json:
        prompts = [{"text": item.text, "continuations": item.continuations} for item in found.prompts]
        emit({"folder": str(wanted.out), "model": found.model_digest, "prompts": prompts})
