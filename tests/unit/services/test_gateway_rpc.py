"""The gateway beyond this machine: gRPC and HTTPS, both with certificates on both sides or not at all."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

grpc = pytest.importorskip("grpc", reason="grpcio is not installed: pip install 'holdfast[grpc]'")
pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'holdfast[gateway]'")
from safetensors.torch import load, save  # noqa: E402

from holdfast.errors import InvalidConfig  # noqa: E402
from holdfast.numerics.bits import bit_equal  # noqa: E402
from holdfast.services.gateway import Listen  # noqa: E402
from holdfast.shielding import MutualTls  # noqa: E402
from tests.unit.services.gateways import Serving, serving_gateway  # noqa: E402
from tests.unit.services.test_remote import Authority  # noqa: E402
from tests.unit.shielding.gateway.places import MODEL, Gate, Threaded, gateway, lying, until  # noqa: E402
from tests.unit.shielding.nets import images  # noqa: E402

INFER, HEALTH = "/holdfast.Gateway/Infer", "/grpc.health.v1.Health/Check"


@dataclass
class World:
    """An authority, and a gateway that trusts it."""

    authority: Authority
    served: Serving

    def channel(self, tls: MutualTls) -> Any:
        authority, certificate, key = tls.read()
        credentials = grpc.ssl_channel_credentials(authority, key, certificate)
        name = (("grpc.ssl_target_name_override", "worker.test"),)
        return grpc.secure_channel(f"localhost:{self.served.rpc}", credentials, options=name)

    def call(self, method: str, raw: bytes, timeout: float = 20.0) -> bytes:
        with self.channel(self.authority.issue("client")) as channel:
            return channel.unary_unary(method)(raw, timeout=timeout)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    authority = Authority(tmp_path_factory.mktemp("gateway") / "ca")
    how = {"tls": authority.issue("gateway"), "grpc": "localhost:0"}
    with serving_gateway(gateway(Threaded("a")), **how) as served:
        until(lambda: served.gateway.readiness()[0])
        yield World(authority, served)


def test_answers_over_grpc_are_bit_equal(world: World) -> None:
    answer = world.call(INFER, save({"inputs": images(3)}))
    assert bit_equal(load(answer)["outputs"], MODEL(images(3)))
    assert world.call(HEALTH, b"") == b"\x08\x01"


@pytest.mark.parametrize(
    ("raw", "status", "said"),
    [
        (b"rubbish", "INVALID_ARGUMENT", "not in safetensors"),
        (save({"inputs": torch.zeros(1, 3)}), "INVALID_ARGUMENT", r"takes \[batch, 1, 8, 8\]"),
        (b"x" * 5000, "RESOURCE_EXHAUSTED", "larger than max"),
    ],
)
def test_each_bad_request_has_its_status(world: World, raw: bytes, status: str, said: str) -> None:
    with pytest.raises(grpc.RpcError, match=said) as caught:
        world.call(INFER, raw)
    assert caught.value.code().name == status


def test_strangers_reach_neither_door(world: World, tmp_path: Path) -> None:
    mine = Authority(tmp_path / "other").issue("client")
    pretender = MutualTls(
        authority=world.authority.folder / "ca.pem", certificate=mine.certificate, key=mine.key, name="worker.test"
    )
    with world.channel(pretender) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary(HEALTH)(b"", timeout=5)
    with grpc.insecure_channel(f"localhost:{world.served.rpc}") as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary(HEALTH)(b"", timeout=5)
    context = ssl.create_default_context(cafile=str(world.authority.folder / "ca.pem"))
    context.check_hostname = False
    with pytest.raises((ssl.SSLError, ConnectionError)):
        https(world.served.port, context)
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        world.served.ask("GET", "/healthz")  # in the clear


def https(port: int, context: ssl.SSLContext) -> tuple[int, Any]:
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=20)
    try:
        body = json.dumps({"inputs": images(1).tolist()})
        connection.request("POST", "/v1/infer", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_a_client_with_a_certificate_is_answered_over_https(world: World) -> None:
    tls = world.authority.issue("browser")
    context = ssl.create_default_context(cafile=str(tls.authority))
    context.check_hostname = False  # these certificates are for a name that does not exist
    context.load_cert_chain(tls.certificate, tls.key)
    status, told = https(world.served.port, context)
    assert (status, bit_equal(torch.tensor(told["outputs"]), MODEL(images(1)))) == (200, True)


def test_overload_and_lies_have_their_status(tmp_path: Path) -> None:
    authority, slow = Authority(tmp_path / "ca"), Gate()
    how = {"tls": authority.issue("gateway"), "grpc": "localhost:0"}
    with serving_gateway(gateway(Threaded("slow", slow, lying, patience=1), queue=1), **how) as served:
        world, raw = World(authority, served), save({"inputs": images(1)})
        with world.channel(authority.issue("client")) as channel:
            infer = channel.unary_unary(INFER)
            first = infer.future(raw, timeout=20)
            assert slow.asked.wait(20)
            second = infer.future(raw, timeout=20)
            until(lambda: len(served.gateway.pool.waiting) == 1)
            with pytest.raises(grpc.RpcError, match="waiting already") as caught:
                infer(raw, timeout=20)
            assert caught.value.code().name == "RESOURCE_EXHAUSTED"
            assert ("retry-after", "1") in [(item.key, item.value) for item in caught.value.trailing_metadata()]
            slow.open.set()
            for call in (first, second):
                assert bit_equal(load(call.result())["outputs"], MODEL(images(1)))
            served.terminate()
            until(lambda: served.gateway.pool.draining)


def test_without_tls_there_is_no_grpc(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="gRPC needs mutual TLS"):
        Listen(grpc="localhost:0").require_possible()
    authority, other = Authority(tmp_path / "a"), Authority(tmp_path / "b")
    mixed = MutualTls(
        authority=authority.folder / "ca.pem",
        certificate=authority.issue("one").certificate,
        key=other.issue("two").key,
    )
    with pytest.raises(InvalidConfig, match="do not fit together"):
        Listen(http="0.0.0.0:0", tls=mixed).require_possible()
    mixed.key.chmod(0o644)
    with pytest.raises(InvalidConfig, match="others than its owner"):
        Listen(http="0.0.0.0:0", tls=mixed).require_possible()
