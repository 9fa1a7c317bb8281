"""A collector that is killed outright and started again asks for what is missing, and for nothing twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from holdfast.identification.answers import ANSWERS, Collection
from holdfast.identification.collectors import ServerRequest, collect_answers, word_prompts
from holdfast.testing.simulated_server import Mischief, SimulatedServer

pytest.importorskip("httpx2", reason="the extra servers is not installed")
CHILD = """
import sys
from holdfast.identification.collectors import CollectOptions, ServerRequest, collect_answers, word_prompts
request = ServerRequest(url=sys.argv[1], tokens=2, top=3)
collect_answers(request, word_prompts(60), sys.argv[2], options=CollectOptions(concurrency=4))
"""


def written(folder: Path) -> list[dict]:
    data = (folder / ANSWERS).read_bytes() if (folder / ANSWERS).exists() else b""
    lines = [json.loads(line) for line in data.splitlines(keepends=True) if line.endswith(b"\n")]
    return [line for line in lines if line["kind"] == "answer"]


def start(url: str, folder: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", CHILD, url, str(folder)], env=os.environ | {"OMP_NUM_THREADS": "1"})


@pytest.mark.slow
def test_a_killed_collection_asks_nothing_twice(tmp_path: Path):
    folder = tmp_path / "c"
    with SimulatedServer(mischief=Mischief(delay=0.05)) as server:
        child = start(server.url, folder)
        until = time.monotonic() + 60
        while len(written(folder)) < 10 and time.monotonic() < until:
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait()
        kept = written(folder)
        assert 10 <= len(kept) < 60
        first = [json.dumps(dict(seen.body), sort_keys=True) for seen in server.asked]
        got = collect_answers(ServerRequest(url=server.url, tokens=2, top=3), word_prompts(60), folder)
        second = [json.dumps(dict(seen.body), sort_keys=True) for seen in server.asked][len(first) :]
    assert got.complete
    asked_before = {line["prompt"] for line in kept}
    prompts = {prompt: number for number, prompt in enumerate(word_prompts(60))}
    again = [prompts[json.loads(body)["prompt"]] for body in second]
    assert not asked_before & set(again)
    assert len(again) == len(set(again)) == 60 - len(kept)
    assert sum(count > 1 for count in Counter([*first, *second]).values()) <= 4  # those under way at the kill
    assert sorted(answer.prompt for answer in Collection.load(folder).answers()) == list(range(60))
