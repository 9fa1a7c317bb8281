"""``holdfast watch``."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli._common import Architecture, Json, Seed, counted, emit, make_app, password_for, say
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.signing.resident import Audit, Incident

app = make_app()
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


@app.command(epilog="Example: holdfast watch model/ --trust author.pub --budget 500MB --drill 10")
def watch(
    model: Annotated[Path, typer.Argument(help="Signed model with its model.sig2.")],
    trust: Annotated[list[str], typer.Option(help="Who must have signed; repeatable, all of them must have.")],
    arch: Architecture = None,
    budget: Annotated[str | None, typer.Option(help="Bytes read per second at most: 500MB, 2GB.")] = None,
    seconds: Annotated[float, typer.Option(help="How long to watch, after the drill.", min=0)] = 0,
    drill: Annotated[int, typer.Option(help="Flip so many random bits, one by one, and time their repair.", min=0)] = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for incident records.")] = None,
    key: Annotated[str | None, typer.Option(help="Sign the records: file:KEY.pem.")] = None,
    password_file: Annotated[str | None, typer.Option(help="File with the key's password (- asks).")] = None,
    seed: Seed = 0,
    json: Json = False,
) -> int:
    """Load a signed model and keep checking its weights in memory; exit 1 if one changed that no drill flipped."""
    from holdfast.signing import load, load_signer
    from holdfast.signing.resident import watch as watch_model

    signer = None if key is None else load_signer(key, password=password_for(password_file))
    loaded = load(model, arch=arch, trust=[*trust])
    audit = watch_model(
        loaded, model, trust=[*trust], budget=_bytes(budget), out=out, signer=signer, on_incident=_announce
    )
    latencies = _watch(audit, drill, seconds, seed)
    surprises = len(audit.incidents) - len(latencies)
    _tell(audit, latencies, surprises)
    if json:
        emit(_summary(audit, latencies, surprises))
    return 1 if surprises else 0


def _bytes(text: str | None) -> float | None:
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]*\.?[0-9]+) ?([KMG]?)B?(/s)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise UsageError(f"--budget: {text!r} is no number of bytes", hint="write 500MB or 2GB")
    return float(found[1]) * _UNITS[found[2].upper()]


def _watch(audit: Audit, flips: int, seconds: float, seed: int) -> tuple[float, ...]:
    from holdfast.signing.resident import drill

    with audit:
        found = drill(audit, flips, seed=seed).latencies if flips else ()
        until = time.monotonic() + seconds
        while audit.running and (time.monotonic() < until or not audit.sweeps):
            time.sleep(0.01)
    return found


def _announce(incident: Incident) -> None:
    places = ", ".join(f"{start}-{stop}" for start, stop in incident.ranges) or "somewhere"
    state = "mended" if incident.repaired else "NOT mended"
    say(f"incident: {incident.tensor}, bytes {places}: {counted(incident.bits, 'bit')} wrong; {state}")


def _tell(audit: Audit, latencies: tuple[float, ...], surprises: int) -> None:
    whole = [sweep for sweep in audit.sweeps if sweep.bytes == audit.bytes]
    if whole:
        mean = sum(sweep.seconds for sweep in whole) / len(whole)
        rate = audit.bytes / mean / 1e9
        size = f"{audit.bytes:,} bytes in {counted(len(audit.roots), 'tensor')}"
        say(f"watched {size}: {counted(len(whole), 'sweep')} of {mean:.3f} s, {rate:.2f} GB/s")
    if latencies:
        mean = sum(latencies) / len(latencies)
        flips = counted(len(latencies), "flip")
        say(f"drill: {flips} found and mended, {mean:.3f} s on average, {max(latencies):.3f} s at worst")
    say(counted(surprises, "incident") if surprises else "no incident")


def _summary(audit: Audit, latencies: tuple[float, ...], surprises: int) -> dict[str, Any]:
    return {
        "bytes": audit.bytes,
        "tensors": len(audit.roots),
        "sweeps": [{"bytes": sweep.bytes, "seconds": sweep.seconds} for sweep in audit.sweeps],
        "drill": list(latencies),
        "incidents": [incident.to_json() for incident in audit.incidents],
        "surprises": surprises,
    }
