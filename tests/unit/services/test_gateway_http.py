"""The gateway over real sockets: true answers, one clear error each for everything else, and an orderly end."""

from __future__ import annotations

import gc
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import torch

pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'holdfast[gateway]'")
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from holdfast.errors import InvalidConfig, WorkerUnreachable
from holdfast.numerics.bits import bit_equal
from holdfast.services.gateway.addresses import split_host
from holdfast.services.gateway.serving import Listen, is_loopback, serve_gateway, split
from tests.unit.services.gateways import Serving, serving_gateway
from tests.unit.shielding.gateway.places import MODEL, Gate, Threaded, dying, gateway, lying, until
from tests.unit.shielding.nets import honest, images

JSON = "application/json"
HEAD = b"POST /v1/infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def outputs(told: dict[str, object]) -> torch.Tensor:
    return torch.tensor(told["outputs"], dtype=torch.float32)


@pytest.fixture(scope="module")
def served() -> Iterator[Serving]:
    with serving_gateway(gateway(Threaded("a"), Threaded("b"), max_body=20_000), arrival=0.5) as found:
        yield found


def test_answers_are_bit_equal_to_the_plaintext_model_in_both_formats(served: Serving) -> None:
    for seed in range(5):
        status, told, _ = served.infer(images(3, seed))
        assert (status, bit_equal(outputs(told), MODEL(images(3, seed)))) == (200, True)
    kind = "application/x-safetensors"
    status, raw, headers = served.ask("POST", "/v1/infer", save({"inputs": images(2)}), content_type=kind)
    assert (status, headers["content-type"]) == (200, kind)
    assert bit_equal(load(raw)["outputs"], MODEL(images(2)))


def test_what_it_takes_and_how_it_is_doing(served: Serving) -> None:
    assert served.ask("GET", "/v1/model")[1] == {
        "shape": [1, 8, 8], "dtype": "float32", "vocabulary": None, "most": 8, "max_body": 20_000,
    }  # fmt: skip
    assert served.ask("GET", "/healthz")[:2] == (200, {"alive": True})
    until(lambda: served.ask("GET", "/readyz")[0] == 200)
    before = served.count("answered")
    served.infer(images(1))
    status, text, headers = served.ask("GET", "/metrics")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert f'holdfast_requests_total{{outcome="answered"}} {before + 1}\n'.encode() in text


@pytest.mark.parametrize(
    ("method", "path", "body", "kind", "status", "said"),
    [
        ("POST", "/v1/infer", "{", JSON, 400, "not strict JSON"),
        ("POST", "/v1/infer", '{"inputs": [1, 2]}', JSON, 400, "inputs have shape [2]"),
        ("POST", "/v1/infer", "{}", "text/plain", 400, "of type 'text/plain'"),
        ("POST", "/v1/infer", "x" * 20_001, JSON, 413, "20000 bytes at most"),
        ("GET", "/v1/infer", None, JSON, 405, ""),
        ("POST", "/v2/infer", "{}", JSON, 404, ""),
    ],
)
def test_each_bad_request_has_its_error(
    served: Serving, method: str, path: str, body: str | None, kind: str, status: int, said: str
) -> None:
    found, told, _ = served.ask(method, path, body, content_type=kind)
    assert found == status
    assert said in (told["error"] if said else "")


def test_an_oversized_body_of_unknown_length_is_cut_off(served: Serving) -> None:
    before = served.count("too-large")
    chunks = (b"x" * 5000 for _ in range(100))
    status, told, headers = served.ask("POST", "/v1/infer", chunks, content_type=JSON)
    assert (status, told["kind"], headers["connection"]) == (413, "too-large", "close")
    assert served.count("too-large") == before + 1


def test_a_head_that_trickles_is_hung_up_on(served: Serving) -> None:
    for first in (b"", b"POST /v1/infer HTTP/1.1\r\nHost: localhost\r\n"):
        start = time.monotonic()
        with socket.create_connection(("127.0.0.1", served.port), timeout=10) as sock:
            sock.sendall(first)
            assert sock.recv(1000) == b""
        assert 0.3 < time.monotonic() - start < 5


def test_a_second_head_on_the_same_connection_must_hurry_too(served: Serving) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in sock.recv(1000)
        sock.sendall(b"GET /healthz HT")
        rest = b""
        while part := sock.recv(1000):
            rest += part
        assert b"200 OK" not in rest


def test_a_body_that_trickles_is_an_error_in_time(served: Serving) -> None:
    before = served.count("slow")
    head = (
        b"POST /v1/infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    )
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as sock:
        sock.sendall(head)
        assert b"408" in sock.recv(1000)
    assert served.count("slow") == before + 1
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as sock:
        sock.sendall(head)
        time.sleep(0.1)
    until(lambda: served.count("gone") == 1)
    assert served.gateway._arriving == 0


def test_who_sends_little_keeps_nobody_out(served: Serving) -> None:
    """Places are for bytes that came: many bodies that trickle hold next to nothing."""
    slow = [socket.create_connection(("127.0.0.1", served.port), timeout=10) for _ in range(20)]
    try:
        for sock in slow:
            sock.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
        until(lambda: served.gateway._arriving == 20)
        assert served.infer(images(1))[0] == 200
    finally:
        for sock in slow:
            sock.close()


def test_what_arrives_at_once_is_bounded(served: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served.gateway, "_most", 50)
    before = served.count("overloaded")
    status, told, headers = served.infer(images(1))
    assert status == 429, told
    assert (status, headers["retry-after"], served.count("overloaded")) == (429, "1", before + 1)
    assert served.gateway._arriving == 0


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "0.0.0.0", "", "localhost.evil:80"])
def test_a_name_that_is_not_this_machines_is_refused(served: Serving, host: str) -> None:
    """A page in a browser here may point its own name at loopback (DNS rebinding)."""
    body = json.dumps({"inputs": images(1).tolist()})
    headers = {"content_type": "application/json", "host": host}
    assert served.ask("POST", "/v1/infer", body, **headers)[0] == 421
    assert served.ask("GET", "/metrics", host=host)[0] == 421


@pytest.mark.parametrize(
    "host",
    [
        *("[::1].evil.com", "[::1", "[::1]evil", "[::1]:80:80", "::1", "[127.0.0.1]", "[localhost]", "[::1]:evil"),
        *("localhost:evil.com", "127.0.0.1:evil@x", "user@localhost", "localhost:80:80", "localhost:-1", "unix:"),
        *("localhost/", "localhost,evil.com", "localhost evil", "localhost.", "[]", ":80"),
    ],
)
def test_half_a_name_of_this_machine_is_none(host: str) -> None:
    assert not is_loopback(split_host(host))


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:99", "127.0.0.1:8080", "[::1]:8080"])
def test_names_of_this_machine_are_answered(served: Serving, host: str) -> None:
    assert served.ask("GET", "/healthz", host=host)[0] == 200


def test_what_the_server_says_is_an_event(served: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    audited: list[str] = []
    monkeypatch.setattr(served.gateway.audit, "_write", audited.append)
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as sock:
        sock.sendall(b"no request at all\r\n\r\n")
        assert b"400" in sock.recv(1000)
    until(lambda: any("http-server" in line for line in audited))
    assert all(json.loads(line)["event"] for line in audited)


@settings(max_examples=40, deadline=None)
@given(st.one_of(st.binary(max_size=300), st.binary(max_size=100).map(lambda b: b"POST /v1/infer HTTP/1.1\r\n" + b)))
def test_bytes_that_are_no_http_do_no_harm(served: Serving, raw: bytes) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as sock:
        sock.sendall(raw)
        sock.shutdown(socket.SHUT_WR)
    assert served.ask("GET", "/healthz")[0] == 200


def test_overload_is_429_with_a_time_to_come_again() -> None:
    slow = Gate()
    with serving_gateway(gateway(Threaded("slow", slow), queue=1)) as served:
        found: list[int] = []
        callers = [threading.Thread(target=lambda: found.append(served.infer(images(1))[0])) for _ in range(2)]
        callers[0].start()
        assert slow.asked.wait(20)
        callers[1].start()
        until(lambda: len(served.gateway.pool.waiting) == 1)
        status, told, headers = served.infer(images(1))
        assert (status, told["kind"]) == (429, "overloaded")
        assert int(headers["retry-after"]) == told["retry_after"] >= 1
        slow.open.set()
        for caller in callers:
            caller.join(20)
        assert found == [200, 200]
        assert (served.count("answered"), served.count("overloaded")) == (2, 1)


def test_liars_and_the_dead_are_not_noticed_by_clients() -> None:
    lines: list[str] = []
    sources = Threaded("one", lying, dying, honest), Threaded("two", dying, lying, honest)
    with serving_gateway(gateway(*sources, audit=lines, attempts=5)) as served:
        for seed in range(4):
            status, told, _ = served.infer(images(2, seed))
            assert (status, bit_equal(outputs(told), MODEL(images(2, seed)))) == (200, True)
        failures = served.gateway.metrics.failures
        events = [json.loads(line)["event"] for line in lines]
        assert failures.count("lied") == events.count("worker-quarantined")
        assert failures.count("lost") == events.count("worker-lost")
        assert served.gateway.metrics.retries.count() == failures.count("lied") + failures.count("lost") >= 2
        assert served.count("answered") == 4


def test_sigterm_answers_what_is_in_hand_and_refuses_the_rest() -> None:
    slow = Gate()
    with serving_gateway(gateway(Threaded("slow", slow))) as served:
        found: list[tuple[int, bool]] = []

        def call() -> None:
            status, told, _ = served.infer(images(2))
            found.append((status, bit_equal(outputs(told), MODEL(images(2)))))

        caller = threading.Thread(target=call)
        caller.start()
        assert slow.asked.wait(20)
        served.terminate()
        until(lambda: served.ask("GET", "/readyz")[0] == 503)
        status, told, headers = served.infer(images(1))
        assert (status, told["kind"], headers["connection"]) == (503, "draining", "close")
        assert served.ask("GET", "/healthz")[0] == 200
        slow.open.set()
        caller.join(20)
        assert found == [(200, True)]
        served.thread.join(20)
        with pytest.raises(ConnectionRefusedError):
            served.ask("GET", "/healthz")


def test_an_end_that_takes_too_long_tells_who_waits() -> None:
    slow = Gate()
    with serving_gateway(gateway(Threaded("slow", slow)), drain=0.2) as served:
        found: list[tuple[int, str]] = []
        caller = threading.Thread(
            target=lambda: found.append((lambda a: (a[0], a[1]["kind"]))(served.infer(images(1))))
        )
        caller.start()
        assert slow.asked.wait(20)
        served.terminate()
        caller.join(20)
        assert found == [(503, "draining")]
        slow.open.set()


def test_addresses_beyond_this_machine_need_tls() -> None:
    for address in ("0.0.0.0:0", "[::]:0", "192.0.2.1:80", "gateway.example:80"):
        with pytest.raises(InvalidConfig, match="needs mutual TLS"):
            serve_gateway(gateway(Threaded("a")), Listen(http=address), sessions=1)
    assert [is_loopback(host) for host in ("localhost", "127.9.9.9", "::1", "localhost.evil", "")] == [
        True, True, True, False, False,
    ]  # fmt: skip
    assert split("[::1]:80") == ("::1", 80)
    for address in ("80", ":80", "a:", "a:b", "a:65536", "a:-1"):
        with pytest.raises(InvalidConfig, match="not HOST:PORT"):
            split(address)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = Listen(http=f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(WorkerUnreachable, match="cannot listen on"):
            serve_gateway(gateway(Threaded("a")), listen, sessions=1)


def test_a_time_out_is_an_answer_and_no_noise_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    with serving_gateway(gateway(Threaded("a", gate), timeout=0.3, worker_timeout=0.2)) as served:
        status, told, _ = served.infer(images(1))
        assert (status, told["kind"]) == (504, "timed-out")
        gate.open.set()
    gc.collect()  # when asyncio complains about errors that nobody looked at
    assert [record.getMessage() for record in caplog.records] == []


def hanging(port: int, count: int, sent: bytes) -> list[socket.socket]:
    """Connections that send this much and then nothing."""
    made = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(count)]
    for sock in made:
        sock.sendall(sent)
    return made


def everything(sock: socket.socket) -> bytes:
    """What comes until the other side ends it."""
    found = b""
    while part := sock.recv(10_000):
        found += part
    return found


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /healthz HTTP/1.1\r\nHost: lo", HEAD + b"Content-Length: 100\r\n\r\n{"],
    ids=["nothing", "half a head", "half a body"],
)
def test_those_who_send_half_of_it_keep_nobody_out(sent: bytes) -> None:
    with serving_gateway(gateway(Threaded("a"), queue=4), arrival=30.0) as served:
        until(lambda: served.ask("GET", "/readyz")[0] == 200)
        slow = hanging(served.port, 300, sent)
        try:
            start = time.monotonic()
            assert served.ask("GET", "/healthz")[:2] == (200, {"alive": True})
            assert served.infer(images(1))[0] == 200
            assert served.ask("GET", "/metrics")[0] == 200
            assert time.monotonic() - start < 10  # long before anybody ran out of time
        finally:
            for sock in slow:
                sock.close()


def test_the_slowest_body_makes_room_and_is_told_so() -> None:
    with serving_gateway(gateway(Threaded("a"), queue=4), arrival=30.0) as served:
        until(lambda: served.ask("GET", "/readyz")[0] == 200)
        (first,) = hanging(served.port, 1, HEAD + b"Content-Length: 100\r\n\r\n{")
        until(lambda: served.gateway._arriving == 1)
        others = hanging(served.port, 100, HEAD + b"Content-Length: 100\r\n\r\n{")
        with first:
            head, _, body = everything(first).partition(b"\r\n\r\n")
            assert (b" 429 " in head.splitlines()[0], b"retry-after: 1" in head) == (True, True)
            assert json.loads(body)["kind"] == "overloaded"
        until(lambda: served.count("overloaded") == 31)
        assert served.gateway._arriving == 70  # a queue of four, two sessions, and 64 more
        for sock in others:
            sock.close()
        until(lambda: served.count("gone") == 70)
        assert served.count("slow") == 0  # each is counted once


def test_those_who_take_no_answers_are_hung_up_on() -> None:
    """Requests one after another, and nobody reads: what is sent fills the buffers and then waits."""
    with serving_gateway(gateway(Threaded("a")), arrival=0.3) as served:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(10)
        sock.connect(("127.0.0.1", served.port))
        ask = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100
        with sock, pytest.raises((ConnectionResetError, BrokenPipeError)):
            sock.sendall(ask * 10_000)  # a time-out, were nobody to hang up


@pytest.mark.parametrize(
    ("raw", "status", "kind"),
    [
        (b"GET /none HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 404, "invalid"),
        (b"GET /healthz/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 404, "invalid"),
        (b"GET /v1/infer HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 405, "invalid"),
        (b"no request at all\r\n\r\n", 400, "invalid"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 17_000, 400, "invalid"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nno length\r\n", 400, "gone"),
        (HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "invalid"),
    ],
    ids=["path", "slash", "method", "no HTTP", "long head", "bad chunk", "two lengths"],
)
def test_errors_of_the_server_itself_are_json_and_counted_once(
    served: Serving, raw: bytes, status: int, kind: str
) -> None:
    before = served.count(kind), sum(served.gateway.metrics.requests._counts.values())
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as sock:
        sock.sendall(raw)
        found = everything(sock)
    head, _, body = found.partition(b"\r\n\r\n")
    assert (f" {status} ".encode() in head.splitlines()[0], b"content-type: application/json" in head) == (True, True)
    assert set(json.loads(body)) == {"error", "hint", "kind"}
    until(lambda: served.count(kind) == before[0] + 1)
    assert sum(served.gateway.metrics.requests._counts.values()) == before[1] + 1


def test_a_fault_of_the_server_is_json_too(served: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served.gateway, "readiness", lambda: 1 / 0)
    before = served.count("broken")
    status, told, _ = served.ask("GET", "/readyz")
    assert (status, told["kind"], served.count("broken")) == (500, "broken", before + 1)
