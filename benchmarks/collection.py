"""Collecting saturates a server: requests a second against those of a load generator that does nothing else.

    python -m benchmarks.collection --json

The server is llama.cpp's over the tiny LLaMA, in a process of its own. Without it, and on a machine too busy for its
throughput to mean anything, ``--server paced`` takes 50 ms for every reply and works on eight at a time, so that its
maximum is 160 requests a second; ``canned`` takes no time at all and shows how fast the collector itself is. Each round
lets the load generator and the collector ask the same 512 prompts, in alternating order; the server's maximum is that
of the load generator at its best concurrency, and the collector has twice as many requests under way.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from benchmarks._harness import summarise
from benchmarks._llama_server import free_port, interpreter, llama_server, wait_for, write_gguf
from benchmarks._load import load
from holdfast.identification.collectors import CollectOptions, ServerRequest, collect_answers, word_prompts
from holdfast.identification.collectors.dialects import dialect_named

PROMPTS, TOKENS, TOP, LEVELS = 512, 16, 20, (1, 2, 4, 8, 16)
PACE = 0.05
NAMES = {
    "llama.cpp": "llama.cpp's server over the tiny LLaMA",
    "paced": "a server of eight slots, 50 ms each",
    "canned": "a server that takes no time",
}
CANNED = """
import asyncio, sys
slots = asyncio.Semaphore(SLOTS)
async def serve(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            length = [int(line[15:]) for line in head.lower().split(b"\\r\\n") if line.startswith(b"content-length:")]
            await reader.readexactly(length[0] if length else 0)
            body = BODY if length else MODELS
            if length and PACE:
                async with slots:
                    await asyncio.sleep(PACE)
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()
asyncio.run(main())
"""


def reply() -> bytes:
    """A reply of the usual size: sixteen tokens, twenty log-probabilities each."""
    top = {f"w{number}": -0.123456789012345 * (number + 1) for number in range(TOP)}
    lists = {"tokens": ["w0"] * TOKENS, "token_logprobs": [top["w0"]] * TOKENS, "top_logprobs": [top] * TOKENS}
    usage = {"prompt_tokens": 12, "completion_tokens": TOKENS}
    choice = {"index": 0, "text": "w0" * TOKENS, "finish_reason": "length", "logprobs": lists}
    return json.dumps({"model": "tiny", "choices": [choice], "usage": usage}).encode()


@contextmanager
def canned_server(pace: float) -> Iterator[str]:
    """A server without a model, which takes ``pace`` seconds for each of eight replies at a time."""
    port, models = free_port(), json.dumps({"data": [{"id": "tiny", "owned_by": "canned"}]}).encode()
    code = f"BODY, MODELS, SLOTS, PACE = {reply()!r}, {models!r}, 8, {pace}\n{CANNED}"
    process = subprocess.Popen([sys.executable, "-c", code, str(port)])
    try:
        wait_for(process, f"http://127.0.0.1:{port}/v1/models")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


@contextmanager
def real_server() -> Iterator[str]:
    """llama.cpp's server over the tiny LLaMA."""
    shared = Path(os.environ.get("HOLDFAST_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    with tempfile.TemporaryDirectory() as folder:
        path = write_gguf(shared / "data" / "tiny-llama-260k", Path(folder) / "tiny.gguf")
        with llama_server(path) as url:
            yield url


def collected(url: str, prompts: tuple[str, ...], concurrency: int) -> float:
    """Requests a second of one whole collection: metadata, answers, and everything on the disk."""

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        request = ServerRequest(url=url, tokens=TOKENS, top=TOP, dialect="completions")
        got = collect_answers(request, prompts, Path(folder) / "c", options=CollectOptions(concurrency=concurrency))
        if not got.complete:
            raise RuntimeError("the collection is not complete")
        return len(prompts) / (time.perf_counter() - start)


def measure(url: str, rounds: int, count: int) -> tuple[list[tuple[float, float]], dict[int, float]]:
    """Return (collector, load generator) requests a second for each round, and the load generator's by concurrency."""
    prompts = word_prompts(count, words=4)
    asked = ServerRequest(url=url, model="tiny", tokens=TOKENS, top=TOP, dialect="completions")
    bodies = [dialect_named("completions").body(asked, prompt, 0) for prompt in prompts]
    levels = {level: load(url, bodies[: max(64, count // 4)], concurrency=level) for level in LEVELS}
    best = max(levels, key=lambda level: levels[level])
    pairs = []
    for turn in range(rounds):
        if turn % 2:
            mine, theirs = collected(url, prompts, 2 * best), load(url, bodies, concurrency=best)
        else:
            theirs, mine = load(url, bodies, concurrency=best), collected(url, prompts, 2 * best)
        pairs.append((mine, theirs))
    return pairs, levels


def main() -> None:
    """Print requests a second of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--server", choices=tuple(NAMES), default=None)
    given = parser.parse_args()
    kind = given.server or ("paced" if interpreter() is None else "llama.cpp")
    with real_server() if kind == "llama.cpp" else canned_server(PACE if kind == "paced" else 0.0) as url:
        pairs, levels = measure(url, given.rounds, given.prompts)
    claim = f"collecting {given.prompts} prompts from {NAMES[kind]} against a load generator"
    result = summarise(claim, pairs, peer_name="load generator", unit="requests/s")
    facts = {"tokens": TOKENS, "top": TOP, "load_generator_by_concurrency": {str(k): v for k, v in levels.items()}}
    if given.json:
        print(json.dumps(asdict(result) | facts, sort_keys=True))
        return
    print(f"{claim}: {result.ours:.1f} against {result.peer:.1f} requests/s")
    print(f"  ratio {result.ratio:.3f} (95 % interval {result.low:.3f} .. {result.high:.3f}, n={result.n})")


if __name__ == "__main__":
    main()
