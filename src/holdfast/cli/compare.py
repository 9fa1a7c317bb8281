"""``holdfast compare``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli._common import Json, Seed, emit, make_app, say
from holdfast.errors import InvalidConfig, UsageError

if TYPE_CHECKING:
    from holdfast.identification.answers import Collection
    from holdfast.identification.equality import TwoSample

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
    other: Annotated[Path, typer.Argument(help="Answers of another, or of the same one at another time.")],
    error: Annotated[float, typer.Option(help="Chance of calling one service two, over all tests together.")] = 0.05,
    permutations: Annotated[int, typer.Option(help="Relabellings per test.", min=99)] = 2000,
    tokens: Annotated[int | None, typer.Option(help="Tokens of an answer that count; all of them by default.")] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Test whether two collections of answers come from one service; exit 1 when they do not.

    Texts are compared by the MMD test of model equality, log-probabilities by that of drift tracking. Each takes its
    share of the error, so that both together keep it. Log-probabilities see far smaller changes, where there are any.
    """
    from holdfast.identification.answers import Collection
    from holdfast.identification.samples import require_same_question

    if not 0 < error < 1:
        raise UsageError(f"an error lies between 0 and 1, not {error}")
    sides = Collection.load(one), Collection.load(other)
    require_same_question(*sides)
    found = _tests(*sides, permutations=permutations, tokens=tokens, seed=seed)
    share = error / len(found)
    if 1 / (permutations + 1) > share:
        raise UsageError(f"{permutations} permutations cannot show an error of {share:g}", hint="more --permutations")
    differ = any(test.differ(share) for test in found.values())
    for kind, test in found.items():
        say(f"{_SAYS[kind]}: {_line(test)}")
    say(f"{'different services' if differ else 'no difference found'} at error {error:g} over {len(found)} test(s)")
    if json:
        emit({"differ": differ, "error": error, "tests": {kind: _told(test) for kind, test in found.items()}})
    if differ:
        raise typer.Exit(1)


def _tests(
    one: Collection, other: Collection, *, permutations: int, tokens: int | None, seed: int
) -> Mapping[str, TwoSample]:
    """Return the tests that the collections allow: of texts sampled or not, and of log-probabilities if any."""
    from holdfast.identification.drift import logprob_drift
    from holdfast.identification.equality import model_equality
    from holdfast.identification.samples import texts_of, tops_of

    texts = texts_of(one), texts_of(other)
    found = {"texts": model_equality(*texts, length=tokens, permutations=permutations, seed=seed)}
    tops = tops_of(one), tops_of(other)
    if bool(tops[0]) != bool(tops[1]):
        raise InvalidConfig("only one of the two collections has log-probabilities", hint="collect both alike")
    if tops[0]:
        found["logprobs"] = logprob_drift(*tops, permutations=permutations, seed=seed)
    return found


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
