"""``holdfast border``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli._border_found import Wanted, find_images, find_pairs, find_prompts
from holdfast.cli._common import Architecture, Json, Seed, make_app, require_other, require_writable
from holdfast.cli._given import refuse
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from holdfast.identification.border import Demands, Search

app = make_app()
_METHODS = ("lattice", "pgd", "pgd-rest")
_RANKS = ("world_size", "rendezvous", "backend", "timeout", "device")
_SEARCHES = ("data", "out", "all_pairs", "n", "method", "batch", "split", "tokenizer", "seed", "rank", *_RANKS)


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
    device: Annotated[
        str | None, typer.Option(help="With --rank: what this rank computes on: cpu, cuda, cuda:1. [default: cpu]")
    ] = None,
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

    platform, demands = platform or [], Demands(margin=margin, fresh=fresh)
    if check is not None:
        _refuse_searching(context, transfer)
        _ask_again(load(model, arch=arch), check, transfer, platform, demands, json)
        return
    refuse(context, "a search is made", ("transfer",))
    if rank is None:
        refuse(context, "a search in one process, which has no --rank, is made", _RANKS)
    if not data or not platform or out is None:
        raise UsageError("a search needs --data, --platform and --out", hint="or --check FOLDER, to search nothing")
    require_other(out, model)
    require_writable(out)
    search, ranks = _search(method, n), None
    if rank is not None:
        ranks = Ranks(
            rank=rank,
            world_size=world_size,
            rendezvous=rendezvous,
            backend=backend,
            timeout=timeout,
            device=device,
        )
    wanted = Wanted(load(model, arch=arch), data, platform, out, n, batch, demands, seed)
    if is_text(data):
        near_ties = "prompts are found among near-ties of two platforms of this machine,"
        refuse(context, near_ties, ("rank", "method", "all_pairs", "split"))
        find_prompts(wanted, tokenizer, json)
        return
    refuse(context, "border inputs of images are found", ("tokenizer",))
    if not all_pairs:
        find_images(wanted, split, search, ranks, json)
    elif ranks is not None or n > 1:
        raise UsageError("all pairs are parted on this machine, by one input each", hint="drop --rank and -n")
    else:
        find_pairs(wanted, split, search, json)


def _refuse_searching(context: typer.Context, transfer: list[Path] | None) -> None:
    """Refuse what only a search takes, and of other models also what theirs is not asked for."""
    refuse(context, "saved inputs are asked about", _SEARCHES)
    if transfer:
        refuse(context, "other models are asked on the two platforms of each input,", ("platform", "margin", "fresh"))


def _ask_again(
    model: nn.Module, folder: Path, others: list[Path] | None, platforms: list[str], demands: Demands, json: bool
) -> None:
    from holdfast.cli._border_again import check_again, check_elsewhere

    if others:
        check_elsewhere(model, folder, others, json)
    else:
        check_again(model, folder, platforms, demands, json)


def _search(method: str, n: int) -> Search:
    from holdfast.identification.border import LatticeSearch, SignPGD

    if method not in _METHODS:
        raise UsageError(f"no method {method!r}", hint=f"choose one of {', '.join(_METHODS)}")
    if method == "lattice":
        return LatticeSearch(attempts=8 * n)
    # checked every tenth of the way: a try that has succeeded need not run to its end
    return SignPGD(objective="one-vs-rest" if method == "pgd-rest" else "one-vs-one", check_every=0.1)
