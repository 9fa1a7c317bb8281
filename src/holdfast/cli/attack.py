"""``holdfast attack``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli._common import Architecture, DataSpec, Json, Seed, emit, make_app, say, stages

if TYPE_CHECKING:
    from holdfast.evidence.record import Record
    from holdfast.execution import Proportion
    from holdfast.faults.adversarial import AttackReport

app = make_app()


@app.command(
    epilog="Example: holdfast attack small/ --data digits --method progressive-bit-search --budget 20 -o attack.json"
)
def attack(
    model: Annotated[Path, typer.Argument(help="Artifact folder, .safetensors or state dict.")],
    data: DataSpec,
    out: Annotated[Path, typer.Option("--out", "-o", help="File for the flips; fixed-flips:path=FILE replays them.")],
    budget: Annotated[int, typer.Option(help="Bits that may be flipped.", min=1)] = 20,
    method: Annotated[
        str, typer.Option(help="progressive-bit-search:top=10, projected-gradient:restarts=3, bit-trojan, random-bits.")
    ] = "progressive-bit-search",
    objective: Annotated[str, typer.Option(help="untargeted, targeted:label=8,source=3, trojan:label=2.")] = (
        "untargeted"
    ),
    at: Annotated[str, typer.Option(help="Attacked sites: weights, weights:fc*, ...")] = "weights",
    rows: Annotated[int | None, typer.Option(help="DRAM rows that may be touched.", min=1)] = None,
    row_bytes: Annotated[int, typer.Option(help="Size of a row.", min=1)] = 8192,
    per_weight: Annotated[str, typer.Option(help="Flips in one weight: one, or any.")] = "one",
    images: Annotated[int, typer.Option(help="Images the attacker sees; the others measure the attack.", min=1)] = 128,
    random_draws: Annotated[int, typer.Option(help="Random draws, of which the worst stands beside it.", min=0)] = 50,
    device: Annotated[str, typer.Option(help="Where the search computes: cpu, cuda, cuda:1.")] = "cpu",
    arch: Architecture = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Search the stored bits whose flips serve an attacker most, within a budget.

    Error is measured on images the attack has not seen, beside the worst of as many random flips.
    """
    from holdfast._device import device_named
    from holdfast.data import dataset
    from holdfast.errors import InvalidConfig
    from holdfast.faults.adversarial import Budget, RandomBits, attacks, objectives
    from holdfast.faults.adversarial import attack as run
    from holdfast.models import load
    from holdfast.quantization import place

    if per_weight not in ("one", "any"):
        raise InvalidConfig(f"--per-weight is one or any, not {per_weight!r}")
    where = device_named(device, start=True)
    victim, pictures, search = load(model, arch=arch), dataset(data), attacks.build(method)
    place(victim, where)
    limits = Budget(bits=budget, rows=rows, row_bytes=row_bytes, one_per_weight=per_weight == "one")
    shared: dict[str, Any] = {"at": at, "images": images, "seed": seed}
    with stages() as announce:
        found = run(victim, pictures, search, limits, objective=objectives.build(objective),
                    progress=announce("search"), **shared)  # fmt: skip
        chance = None
        if random_draws and found.bits:
            spent = Budget(bits=found.bits, rows=rows, row_bytes=row_bytes, one_per_weight=limits.one_per_weight)
            chance = run(victim, pictures, RandomBits(restarts=random_draws), spent, objective=found.objective,
                         progress=announce("random flips"), **shared)  # fmt: skip
    procedure = {"method": method, "objective": objective, "at": at, "bits": budget, "rows": rows, "images": images,
                 "row_bytes": row_bytes, "per_weight": per_weight, "random_draws": random_draws,
                 **({} if where.type == "cpu" else {"device": str(where)})}  # fmt: skip
    record = _record(victim, found, chance, procedure, seed)
    found.fault.save(out, record=record.to_json(), trigger=_trigger(found))
    _table(found, chance, f"random, worst of {random_draws}", out)
    if json:
        emit(record)


def _record(
    model: Any, found: AttackReport, chance: AttackReport | None, procedure: dict[str, Any], seed: int
) -> Record:
    from holdfast.assessment.context import tool
    from holdfast.evidence.record import Record
    from holdfast.execution import describe_platform
    from holdfast.models import card, model_subject

    shares = {"clean-error": found.clean, "attacked-error": found.attacked,
              "success-before": found.success_before, "success": found.success}  # fmt: skip
    if chance is not None:
        shares |= {"random-error": chance.attacked, "random-success": chance.success}
    return Record(
        kind="bit-attack",
        subject=model_subject(model),
        procedure={"type": "bit-attack", "version": 1} | procedure,
        measured={name: share.measurement() for name, share in shares.items()},
        inputs={"attack": found.attack_data, "evaluation": found.evaluation_data},
        facts={
            "flips": found.fault.digest,
            "bits": found.bits,
            "rows": found.rows,
            "by_site": {site.address: len(places) for site, places in found.fault.flip_list.sites},
            "forwards": found.forwards,
            "history": [[bits, _finite(score)] for bits, score in found.history],
        },
        seed=seed,
        platform=describe_platform().to_json(),
        lineage=tuple(step.to_json() for step in card(model).lineage),
        tool=tool(),
    )


def _finite(score: float) -> float | None:
    import math

    return score if math.isfinite(score) else None


def _trigger(found: AttackReport) -> list[Any] | None:
    """Return the shaped patch (channels, size, size) of a trojan, in units of the network's input."""
    patch = getattr(found.objective, "patch", None)
    return None if patch is None else [[[float(value) for value in row] for row in plane] for plane in patch.tolist()]


def _table(found: AttackReport, chance: AttackReport | None, random: str, out: Path) -> None:
    from holdfast.faults.adversarial import Untargeted

    rows = "1 DRAM row" if found.rows == 1 else f"{found.rows} DRAM rows"
    say(f"wrote {out}: {found.bits} bits in {rows}, found in {found.forwards} forward passes")
    if found.bits:
        say(f"  {'site':<36} {'bits':>4}  flipped bits (element:bit)")
    for site, places in found.fault.flip_list.sites:
        say(f"  {site.address:<36} {len(places):>4}  " + " ".join(f"{e}:{b}" for e, b in places[:6])
            + (" ..." if len(places) > 6 else ""))  # fmt: skip
    lines: list[tuple[str, Proportion]] = [("error, clean", found.clean), ("error, attacked", found.attacked)]
    lines += [(f"error, {random}", chance.attacked)] if chance is not None else []
    if not isinstance(found.objective, Untargeted):
        lines += [("success, clean", found.success_before), ("success, attacked", found.success)]
        lines += [(f"success, {random}", chance.success)] if chance is not None else []
    for name, share in lines:
        say(f"{name:<32} {share.value:8.2%}  [{share.low:.2%}, {share.high:.2%}]  n = {share.n}")
