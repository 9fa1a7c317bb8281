"""Attestation evidence: damaged as it is, where accepted must mean that every claim is as before, and damaged and then
signed again by the very device, where nothing may crash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from random import Random
from typing import Any

import cbor2

from holdfast.shielding.attestation import Evidence, Policy, verify
from tests.attesting import (
    NONCE,
    NOW,
    SnpMachine,
    gpu_chain,
    gpu_evidence,
    gpu_policy,
    nitro_document,
    nitro_evidence,
    nitro_message,
    nitro_policy,
    raw_signature,
    snp_policy,
    tpm_attestation_key,
    tpm_evidence,
    tpm_policy,
    tpm_signature,
)
from tests.attesting_dcap import dcap_evidence, dcap_policy

from .driver import Target
from .mutations import mutate_bytes

LATER = NOW + timedelta(minutes=1)
Maker = Callable[[], Target]


def attestation_targets() -> list[Maker]:
    """Return makers of the targets of every kind of evidence."""
    return [
        *_both("tpm2", tpm_evidence, tpm_policy, _again_tpm),
        *_both("sev-snp", lambda: SnpMachine().evidence(), snp_policy, _again_snp),
        *_both("nitro", nitro_evidence, nitro_policy, _again_nitro),
        *_both("nvidia-gpu", gpu_evidence, gpu_policy, _again_gpu),
        *_both("sgx", lambda: dcap_evidence("sgx"), lambda: dcap_policy("sgx"), None),
        *_both("tdx", lambda: dcap_evidence("tdx"), lambda: dcap_policy("tdx"), None),
    ]


def _both(
    name: str,
    make: Callable[[], Evidence],
    policy: Callable[[], Policy],
    again: Callable[[Random, Evidence], Evidence] | None,
) -> list[Maker]:
    def damaged() -> Target:
        use = partial(_claims, policy())
        return Target(name=f"attestation {name}", good=make(), damage=_damaged, use=use)

    def signed_again() -> Target:
        lenient = replace(policy(), measurements={}, any_code=True, unfresh=True, debug=True)
        use = partial(_claims, lenient, nonce=None)
        return Target(
            name=f"attestation {name}, signed again", good=make(), damage=again or _damaged, use=use, same=False
        )

    return [damaged] if again is None else [damaged, signed_again]


def _claims(policy: Policy, evidence: Evidence, nonce: bytes | None = NONCE) -> Any:
    return verify(Evidence.from_bytes(evidence.to_bytes()), policy, nonce=nonce, at=LATER).to_json()


def _damaged(random: Random, good: Evidence) -> Evidence:
    names = [None, None, *good.collateral]  # the body as often as two other parts
    name = random.choice(names)
    if name is None:
        return replace(good, body=mutate_bytes(random, good.body))
    return replace(good, collateral=dict(good.collateral) | {name: mutate_bytes(random, good.collateral[name])})


def _again_tpm(random: Random, good: Evidence) -> Evidence:
    body = mutate_bytes(random, good.body)
    signature = tpm_signature(tpm_attestation_key(), body)
    return replace(good, body=body, collateral=dict(good.collateral) | {"signature": signature})


def _again_snp(random: Random, good: Evidence) -> Evidence:
    report = mutate_bytes(random, good.body[:0x2A0])[:0x2A0].ljust(0x2A0, b"\0")
    signature = raw_signature(SnpMachine().key, report)
    halves = b"".join(signature[at : at + 48][::-1] + bytes(24) for at in (0, 48))
    return replace(good, body=report + halves.ljust(0x200, b"\0"))


def _again_nitro(random: Random, good: Evidence) -> Evidence:
    return replace(good, body=nitro_message(mutate_bytes(random, cbor2.dumps(nitro_document()))))


def _again_gpu(random: Random, good: Evidence) -> Evidence:
    message = mutate_bytes(random, good.body[:-96])
    return replace(good, body=message + raw_signature(gpu_chain()[2].key, message))
