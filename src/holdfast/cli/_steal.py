"""``holdfast shield steal``: what a placement is worth, measured by stealing the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from holdfast.cli._common import Architecture, DataSpec, Json, Seed, aligned, emit, say, stages
from holdfast.errors import InvalidConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from holdfast.execution.statistics import MeanEstimate, Proportion
    from holdfast.shielding.graph import IntegerModel
    from holdfast.shielding.planner import Rule
    from holdfast.shielding.theft import Curve, Theft

_BAR = "whole"
EXAMPLE = (
    "Example: holdfast shield steal victim/ --data digits --mode whole --mode tsqp --mode last-k:k=2 --budget 0,10,100"
)


def steal(
    model: Annotated[str, typer.Argument(help="The victim: model folder or file, with float weights.")],
    data: DataSpec,
    mode: Annotated[
        list[str], typer.Option(help="Placement to attack, repeatable: whole, none, tsqp, slalom, first-k:k=2, ...")
    ],
    budget: Annotated[
        str, typer.Option(help="Questions that the attacker may ask, increasing: 0,10,100.")
    ] = "0,10,100",
    public: Annotated[
        str | None, typer.Option(help="The public model that the victim was made from, which the attacker knows.")
    ] = None,
    strategy: Annotated[
        Literal["random", "adaptive"], typer.Option(help="How he chooses his questions from his images.")
    ] = "random",
    answers: Annotated[
        Literal["probabilities", "labels"], typer.Option(help="What the victim says: probabilities, or its label.")
    ] = "probabilities",
    pool: Annotated[
        str | None, typer.Option(help="The attacker's images; a half of the train split of --data by default.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Training steps of each copy that he tries.", min=1)] = 300,
    top_code: Annotated[int, typer.Option(help="Largest activation code of the deployed model.", min=1, max=127)] = 127,
    arch: Architecture = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Steal your own model under each placement, and print accuracy and fidelity of the copies by questions asked.

    The attacker keeps what the untrusted world sees (int8 codes, or everything where a layer is exposed) and asks the
    deployed int8 model about images of his own (KnockoffNets). He tries several ways to make a copy, and takes the best
    he can tell without the test split, which judges it. The mode `whole` is the black-box bar; with it among the modes,
    the last column says how far a copy is ahead of it, image by image. Intervals are 95 %.
    """
    from holdfast.data import dataset
    from holdfast.models import load
    from holdfast.shielding.graph import export
    from holdfast.shielding.planner import rules
    from holdfast.shielding.theft import Knockoff, Theft, view_under

    budgets = _budgets(budget)
    net, known = load(model, arch=arch), None if public is None else load(public, arch=arch)
    own, others = dataset(data, split="train").split(0.5, seed=seed)
    images = others if pool is None else dataset(pool, split="train")
    graph = export(net, own.example[None], own.take(256), top_code=top_code)
    knockoff = Knockoff(strategy=strategy, answers=answers, steps=steps)
    attack = Theft(victim=graph, architecture=net, pool=images, test=dataset(data, split="test"), knockoff=knockoff,
                   seed=seed)  # fmt: skip
    chosen = {spec: _rule(rules.build(spec), graph, known, top_code, own) for spec in mode}
    questions, told = attack.questions(budgets[-1]), attack.answers()
    curves = {}
    with stages() as announce:
        for spec, rule in chosen.items():
            curves[spec] = attack.curve(view_under(graph, rule), budgets, public=known, questions=questions, told=told,
                                        progress=announce(spec))  # fmt: skip
    for line in _report(attack, curves):
        say(line)
    if json:
        emit(_object(attack, curves, public is not None))


def _budgets(text: str) -> list[int]:
    """Return increasing numbers of questions."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or found != sorted(set(found)) or found[0] < 0:
        raise InvalidConfig(f"--budget is {text!r}", hint="write increasing numbers of questions, such as 0,10,100")
    return found


def _rule(rule: Rule, graph: IntegerModel, known: nn.Module | None, top_code: int, own: Any) -> Rule:
    """Return ``rule``, with the public layers where it goes by them."""
    from holdfast.shielding.graph import export
    from holdfast.shielding.planner import PrivateAdapters, public_nodes

    if not isinstance(rule, PrivateAdapters):
        return rule
    if known is None:
        raise InvalidConfig("private-adapters goes by the public model", hint="name it with --public")
    theirs = export(known, own.example[None], own.take(256), top_code=top_code)
    if not (shared := public_nodes(graph, theirs)):
        raise InvalidConfig(
            "the victim has no layer of the public model unchanged",
            hint="private-adapters offloads such layers; after fine-tuning all weights there is none",
        )
    return PrivateAdapters(public=shared)


def _report(attack: Theft, curves: dict[str, Curve]) -> Iterator[str]:
    guess = f"accuracy {_share(attack.chance())}, same answer {_share(attack.constant())}"
    yield f"victim: accuracy {_share(attack.victim_accuracy())}; always one class: {guess}"
    rows: list[tuple[str, ...]] = [
        ("placement", "hidden parameters", "questions", "accuracy of the copy", "same answer as the victim")
    ]
    rows += [
        (spec, f"{curve.hidden:,} of {curve.parameters:,}", f"{point.budget:,}", _share(point.accuracy),
         _share(point.fidelity))
        for spec, curve in curves.items()
        for point in curve.points
    ]  # fmt: skip
    if (bar := curves.get(_BAR)) is not None:
        leads = ["" if spec == _BAR else _share(point.ahead_of(black), signed=True)
                 for spec, curve in curves.items()
                 for point, black in zip(curve.points, bar.points, strict=True)]  # fmt: skip
        rows = [(*row, lead) for row, lead in zip(rows, [f"more than {_BAR}", *leads], strict=True)]
    yield from aligned(rows)


def _share(found: Proportion | MeanEstimate, *, signed: bool = False) -> str:
    plus = "+" if signed else ""
    return f"{found.value:{plus}.1%} [{found.low:{plus}.1%}, {found.high:{plus}.1%}]"


def _object(attack: Theft, curves: dict[str, Curve], prior: bool) -> dict[str, Any]:
    return {
        "victim_accuracy": attack.victim_accuracy().measurement().to_json(),
        "chance": attack.chance().measurement().to_json(),
        "public_prior": prior,
        "strategy": attack.knockoff.strategy,
        "answers": attack.knockoff.answers,
        "seed": str(attack.seed),
        "constant_answer": attack.constant().measurement().to_json(),
        "modes": {spec: curve.to_json() for spec, curve in curves.items()},
    }
