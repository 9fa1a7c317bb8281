"""One small model through every verb."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import holdfast
from holdfast.errors import DigestMismatch, PolicyError, VerificationError
from holdfast.identification import collect_platforms
from holdfast.models import build_architecture
from holdfast.shielding import int8_model
from holdfast.signing import generate_key
from holdfast.signing.keys import write_key


def test_one_model_through_every_verb(tmp_path: Path):
    train, test = holdfast.dataset("digits", split="train"), holdfast.dataset("digits", split="test")

    # transform: train; the same seed gives the same bits
    start, recipe = build_architecture("digits-cnn"), holdfast.Standard(schedule=holdfast.Schedule(epochs=20))
    plain, again = (holdfast.train(start, train, recipe, seed=0) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), again.parameters(), strict=True))
    accuracy = holdfast.accuracy(plain, test)
    assert accuracy.value > 0.85

    # vouch: sign, verify, load only what was signed
    author = generate_key("p256")
    key, trust = tmp_path / "author.pem", tmp_path / "author.pub"
    write_key(author, key)
    trust.write_bytes(author.public.pem)
    holdfast.save(plain, tmp_path / "model")
    holdfast.sign(tmp_path / "model", key=f"file:{key}")
    holdfast.verify(tmp_path / "model", trust=trust)
    loaded = holdfast.load(tmp_path / "model", trust=trust)
    images, _ = test.batch(range(32))
    assert torch.equal(loaded(images), plain(images))

    # transform: real integers, whose errors hurt less when they are clipped to their range
    small = holdfast.quantize(plain, "int8")
    name = next(iter(dict(plain.named_parameters())))
    assert holdfast.codes(small, name).dtype in (torch.int8, torch.uint8)
    assert abs(holdfast.accuracy(small, test).value - accuracy.value) < 0.05

    # perturb: inject, with exact undo
    before = small(images)
    with holdfast.inject(small, holdfast.BitErrors(rate=0.05), at="weights", seed=7) as faulty:
        assert not torch.equal(faulty(images), before)
    assert torch.equal(small(images), before)
    few = holdfast.robust_error(small, test, holdfast.BitErrors(rate=0.0001), chips=3, seed=0)
    many = holdfast.robust_error(small, test, holdfast.BitErrors(rate=0.05), chips=3, seed=0)
    assert few.mean.value < many.mean.value

    # observe: a campaign before and after hardening
    bounds = holdfast.profile(plain, train.take(256), at="activations:**")
    tough = holdfast.harden(plain, holdfast.RangeRestriction(bounds, slack=1.3))
    assert torch.equal(tough(train.take(256).all()[0]), plain(train.take(256).all()[0]))
    reports = [
        holdfast.campaign(model, test, holdfast.BitFlip(), at="activations:**", trials=300, seed=0)
        for model in (plain, tough)
    ]
    assert [report.trials for report in reports] == [300, 300]
    harm = [report["critical"].value + report["due"].value for report in reports]
    assert harm[1] <= harm[0]

    # observe: run, compare, identify
    probes = holdfast.probes("uniform", n=16, shape=tuple(test.example.shape), seed=0)
    trace = holdfast.run(plain, probes)
    assert bool(holdfast.compare(trace.outputs, holdfast.run(plain, probes).outputs).bit_equal.all())
    references = collect_platforms(plain, probes, ["default", "bf16", "fp16"])
    fresh = collect_platforms(plain, probes, ["bf16"])["bf16"]
    assert holdfast.Identifier().fit(list(references.items())).predict(fresh).label == "bf16"

    # perturb: two worlds, one result
    integer = int8_model(plain, train.take(128))
    with holdfast.shield(integer, worker="spawn", check=holdfast.Freivalds()) as session:
        assert torch.equal(session(images), integer(images))
        caught = holdfast.campaign(session, test.take(8), holdfast.BitFlip(), at="offload:**", trials=8, seed=0)
    assert caught["detected"].value == 1.0

    # vouch: a changed byte is found and named
    weights = tmp_path / "model" / "model.safetensors"
    octets = bytearray(weights.read_bytes())
    octets[-1] ^= 1
    weights.write_bytes(bytes(octets))
    with pytest.raises(DigestMismatch, match=r"model\.safetensors"):
        holdfast.verify(tmp_path / "model", trust=trust)
    with pytest.raises(VerificationError):
        holdfast.load(tmp_path / "model", trust=trust)


@pytest.mark.slow
def test_the_main_job_and_its_policy(tmp_path: Path):
    train, test = holdfast.dataset("digits", split="train"), holdfast.dataset("digits", split="test")
    recipe = holdfast.Standard(schedule=holdfast.Schedule(epochs=20))
    model = holdfast.train(build_architecture("digits-cnn"), train, recipe, seed=0)
    out = tmp_path / "passport"
    holdfast.assess(model, test, out=out, calibration=train.take(256), effort="quick", seed=0)
    assert holdfast.verify(out)
    policy = tmp_path / "deploy.toml"
    policy.write_text('[[require]]\nkind = "artifact"\nmeasure = "clean-accuracy"\nlow_above = 0.5\n')
    assert holdfast.check(out, policy)
    policy.write_text('[[require]]\nkind = "artifact"\nmeasure = "clean-accuracy"\nlow_above = 0.9999\n')
    with pytest.raises(PolicyError, match="clean-accuracy"):
        holdfast.check(out, policy)
