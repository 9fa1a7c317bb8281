"""The four promises, each answered in one sentence with its number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from holdfast.evidence.record import Measurement, Record


@dataclass(frozen=True, slots=True)
class Verdict:
    """One card at the top of the report."""

    promise: str
    figure: str
    interval: str
    sentence: str
    state: str  # "good", "warn", "bad" or "none" when it was not measured


def verdicts(records: Mapping[str, Record], signer: Mapping[str, object]) -> list[Verdict]:
    """Return the cards in the order of the promises; what was not measured says so."""
    makers: list[Callable[[Mapping[str, Record]], Verdict]] = [_platform, _holds, _shielded]
    return [_authentic(records, signer), *(make(records) for make in makers)]


def _authentic(records: Mapping[str, Record], signer: Mapping[str, object]) -> Verdict:
    digest = str(records["artifact"].subject.digest.get("blake3", ""))[:12]
    if signer.get("ephemeral"):
        sentence = "Every byte is signed, with a key made for this run: changes will show, but nobody vouches for it."
        return Verdict("Authentic", "Signed", f"ephemeral key, model {digest}", sentence, "warn")
    sentence = f"Every byte is signed by key {str(signer.get('fingerprint', ''))[:16]}."
    return Verdict("Authentic", "Signed", f"model {digest}", sentence, "good")


def _platform(records: Mapping[str, Record]) -> Verdict:
    record = records.get("platform")
    if record is None:
        return _missing("Platform")
    share = record.measured["identified"]
    name = str(record.facts.get("class", ""))
    classes = record.facts.get("classes", 0)
    sentence = f"Runs as {name}; {share.n} held-out traces against {classes} platform classes of this machine."
    return Verdict(
        "Platform", f"{share.value:.0%}", _interval(share), sentence, "good" if share.value > 0.99 else "warn"
    )


def _holds(records: Mapping[str, Record]) -> Verdict:
    plain, hard = records.get("fault-campaign"), records.get("fault-campaign-hardened")
    if plain is None:
        return _missing("Holds")
    best = (hard or plain).measured
    share = best["critical-or-due"]
    was = plain.measured["critical-or-due"]
    sentence = (
        f"Single bit flips in activations that change the answer or end in NaN; {was.value:.2%} before hardening."
    )
    return Verdict("Holds", f"{share.value:.2%}", _interval(share), sentence, "good" if share.high < 0.01 else "warn")


def _shielded(records: Mapping[str, Record]) -> Verdict:
    record = records.get("shield")
    if record is None:
        return _missing("Shielded")
    share = record.measured["detected"]
    sentence = "One-bit lies of the untrusted worker that were caught. It sees blinded inputs, but also the weights."
    state = "good" if share.value == 1 and record.facts.get("bit_equal") else "bad"
    return Verdict("Shielded", f"{share.value:.1%}", _interval(share), sentence, state)


def _missing(promise: str) -> Verdict:
    return Verdict(promise, "—", "not measured", "This assessment holds no record of it.", "none")


def _interval(item: Measurement) -> str:
    return f"95 % interval {item.low:.2%} to {item.high:.2%}, n = {item.n}"
