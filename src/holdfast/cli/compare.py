"""``holdfast compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli._common import Architecture, Json, Seed, emit, make_app, say
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.identification.equality import TwoSample
    from holdfast.identification.token_difr import TokenDivergence

app = make_app()

_SAYS = {
    "texts": "model equality (MMD of texts)",
    "logprobs": "log-probability drift (mean of the first token's)",
}


@app.command(
    epilog="Example: holdfast compare answers-monday/ answers-today/   # the same prompts, several answers each"
)
def compare(
    one: Annotated[Path, typer.Argument(help="Answers of one server, from holdfast run URL.")],
    other: Annotated[Path, typer.Argument(help="Answers of another, or of another time; or the model it should be.")],
    error: Annotated[float, typer.Option(help="Chance of calling one service two, over all tests together.")] = 0.05,
    permutations: Annotated[int, typer.Option(help="Relabellings per test.", min=99)] = 2000,
    tokens: Annotated[int | None, typer.Option(help="Tokens of an answer that count; all of them by default.")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Tokenizer of the model, such as tok512.bin, where answers lack prompt tokens.")
    ] = None,
    arch: Architecture = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Test whether two collections of answers come from one service; exit 1 when they do not.

    Texts are compared by the MMD test of model equality, log-probabilities by that of drift tracking. Each takes its
    share of the error, so that both together keep it. Log-probabilities see far smaller changes, where there are any.

    Beside a model, the tokens of greedy answers are scored by how far that model is from saying them (Token-DiFR).
    """
    from holdfast.identification.answers import DESCRIPTION, Collection
    from holdfast.identification.comparison import compare_answers
    from holdfast.identification.samples import require_same_question, shared_seeds

    if not 0 < error < 1:
        raise UsageError(f"an error lies between 0 and 1, not {error}")
    for side in (one, other):
        if (side / "trace.json").exists():
            raise UsageError(
                f"{side} is a trace of a model on this machine, and answers of servers are compared",
                hint=f"holdfast identify {side} --against shipped, a library or a folder of traces",
            )
    if not (other / DESCRIPTION).exists() and other.exists():
        _audit(one, other, error, tokenizer=tokenizer, arch=arch, seed=seed, json=json)
        return
    sides = Collection.load(one), Collection.load(other)
    require_same_question(*sides)
    if shared := shared_seeds(*sides):
        say(f"warning: {shared} seeds of sampling are the same on both sides: answers are copies, and texts say little")
    found = compare_answers(*sides, error=error, permutations=permutations, tokens=tokens, seed=seed)
    for kind, test in found.tests.items():
        say(f"{_SAYS[kind]}: {_line(test)}")
    verdict = "different services" if found.differ else "no difference found"
    say(f"{verdict} at error {error:g} over {len(found.tests)} test(s)")
    if json:
        tests = {kind: _told(test) for kind, test in found.tests.items()}
        emit({"differ": found.differ, "error": error, "tests": tests})
    if found.differ:
        raise typer.Exit(1)


def _line(test: TwoSample) -> str:
    sizes = f"{test.samples[0]} and {test.samples[1]} answers to {test.prompts} prompts"
    return f"p = {test.p_value:.3g}, statistic {test.statistic:.4g}, {sizes}"


def _told(test: TwoSample) -> dict[str, Any]:
    return {
        "p_value": test.p_value,
        "permutation_interval": [test.sure.low, test.sure.high],
        "statistic": test.statistic,
        "permutations": test.permutations,
        "prompts": test.prompts,
        "samples": list(test.samples),
    }


def _audit(
    answers: Path, model: Path, error: float, *, tokenizer: Path | None, arch: str | None, seed: int, json: bool
) -> None:
    """Say whether greedy answers are those of a model."""
    from holdfast.data.tokenizer import read_tokenizer
    from holdfast.identification.answers import Collection
    from holdfast.identification.audit import audit_model
    from holdfast.models import load

    words = None if tokenizer is None else read_tokenizer(tokenizer)
    found = audit_model(Collection.load(answers), load(model, arch=arch).eval(), tokenizer=words, seed=seed)
    differ = found.diverges(error)
    for name, share, margin in (
        ("answers", found.agreement, found.margin),
        ("model in bf16", found.honest_agreement, found.honest_margin),
    ):
        say(
            f"{name}: {share.value:.2%} of {share.n} tokens as the model would say "
            f"[{share.low:.2%}, {share.high:.2%}], mean margin {margin.value:.3g} nats"
        )
    say(f"AUC of answers of {found.tokens} tokens {found.auc.value:.3f} [{found.auc.low:.3f}, {found.auc.high:.3f}]")
    say(f"{'not this model' if differ else 'no difference found'} at error {error:g}: p = {found.p_value:.3g}")
    if json:
        emit({"differ": differ, "error": error, "token_difr": _told_divergence(found)})
    if differ:
        raise typer.Exit(1)


def _told_divergence(found: TokenDivergence) -> dict[str, Any]:
    parts = ("agreement", "honest_agreement", "margin", "honest_margin", "auc")
    told = {name: getattr(found, name).measurement().to_json() for name in parts}
    return {"p_value": found.p_value, "tokens": found.tokens} | told
