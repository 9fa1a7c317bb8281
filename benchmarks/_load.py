"""A load generator that does nothing but ask: prepared bytes out, whole replies in, none of them read."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit


async def _worker(host: str, port: int, requests: list[bytes]) -> int:
    """Send requests over one connection while there are any; return the bytes that came back."""
    reader, writer = await asyncio.open_connection(host, port)
    got = 0
    while requests:
        writer.write(requests.pop())
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode(errors="replace"))
        got += len(await reader.readexactly(_length(head)))
    writer.close()
    return got


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    raise RuntimeError("the load generator reads replies that say how long they are")


def load(url: str, bodies: Sequence[dict[str, Any]], *, concurrency: int) -> float:
    """Return the requests a second at which a server answers all ``bodies``, so many at a time."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    prepared = []
    for body in bodies:
        data = json.dumps(body).encode()
        head = f"POST {parts.path}/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        prepared.append(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    left = prepared[::-1]

    async def everything() -> None:
        await asyncio.gather(*(_worker(host, port, left) for _ in range(concurrency)))

    start = time.perf_counter()
    asyncio.run(everything())
    return len(bodies) / (time.perf_counter() - start)
