"""The simulated server repeats itself exactly, and does what it is told to do wrong."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from holdfast.errors import InvalidConfig
from holdfast.testing.simulated_replies import MadeUp, Variant
from holdfast.testing.simulated_server import Mischief, SimulatedServer


def ask(server: SimulatedServer, prompt: str) -> tuple[int, bytes]:
    body = {"model": "simulated", "prompt": prompt, "max_tokens": 2, "logprobs": 3, "temperature": 0}
    request = urllib.request.Request(f"{server.url}/completions", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_what_happens_depends_on_the_request_and_not_on_the_order():
    prompts = [f"prompt {number}" for number in range(24)]
    fleet = [Variant(fingerprint="a"), Variant(fingerprint="b", dtype="bf16")]
    seen = []
    for order in (prompts, prompts[::-1]):
        with (
            SimulatedServer(fleet, mischief=Mischief(limited=0.3, failing=0.2), seed=2) as server,
            ThreadPoolExecutor(4) as pool,
        ):
            replies = [pool.submit(ask, server, prompt) for prompt in order]
            seen.append({prompt: reply.result() for prompt, reply in zip(order, replies, strict=True)})
    assert seen[0] == seen[1]
    assert {status for status, _ in seen[0].values()} == {200, 429, 500}
    assert {json.loads(body).get("system_fingerprint") for _, body in seen[0].values()} == {"a", "b", None}


def test_shares_are_kept_and_another_seed_is_another_drill():
    fates = [Mischief(limited=0.25, dropped=0.25).drawn(seed, f"{n}", 1) for seed in (0, 1) for n in range(400)]
    assert 0.2 < fates.count("limited") / 800 < 0.3
    assert 0.2 < fates.count("dropped") / 800 < 0.3
    assert fates[:400] != fates[400:]


def test_heads_lie_on_the_grid_they_claim():
    logits = MadeUp().logits([1, 2])
    for dtype, torch_type in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        spread = Variant(dtype=dtype).spread([1, 2])
        assert torch.equal(spread, torch.log_softmax(logits.to(torch_type).float(), -1))
        assert not torch.equal(spread, Variant().spread([1, 2]))
    assert Variant(places=3).write(-0.123456) == -0.123


def test_a_server_of_no_kind_is_refused():
    with pytest.raises(InvalidConfig, match="no simulated server of kind"):
        SimulatedServer(kind="other")
