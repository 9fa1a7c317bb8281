"""The attested door of a gateway: who proves what it runs gets the inputs, and nobody else gets a byte of them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'holdfast[gateway]'")
pytest.importorskip("OpenSSL", reason="pyOpenSSL is not installed: pip install 'holdfast[tee]'")
from holdfast.cli import serve as serve_command
from holdfast.errors import (
    HoldfastError,
    IntegrityError,
    InvalidConfig,
    MissingDevice,
    PolicyError,
    SignatureInvalid,
    SignerUntrusted,
    Unavailable,
    UnreadableArtifact,
)
from holdfast.services.gateway import Listen
from holdfast.services.gateway.attested import quote_of_this_world
from holdfast.services.gateway.serving import serve_gateway
from holdfast.shielding.attestation import Evidence, bound
from holdfast.shielding.attestation.tls_channel import Channel
from holdfast.shielding.gateway import Refused, dial_gateway
from holdfast.shielding.worlds.quoting import VARIABLE
from tests.attesting import NOW, SnpMachine, flipped, snp_policy, tpm_evidence, tpm_policy
from tests.unit.services.gateways import Serving, serving_gateway
from tests.unit.shielding.gateway.places import MODEL, Gate, Threaded, gateway, until
from tests.unit.shielding.nets import images

Quote = Callable[[bytes, bytes], Evidence]


def quote(nonce: bytes, binding: bytes) -> Evidence:
    return tpm_evidence(nonce=bound(nonce, binding))


@contextmanager
def door(source: Any = None, answer: Quote = quote, **how: Any) -> Iterator[Serving]:
    settings = {name: how.pop(name) for name in ("queue", "timeout", "worker_timeout", "max_body") if name in how}
    made = gateway(source or Threaded("a"), **({"max_body": 2**16} | settings))
    with serving_gateway(made, **({"attested": "127.0.0.1:0", "quote": answer} | how)) as served:
        until(lambda: made.pool.states()["ready"] == 1)
        yield served


def dial(served: Serving, **how: Any) -> Any:
    policy, at = how.pop("policy", tpm_policy()), how.pop("at", NOW)
    return dial_gateway(served.attested, policy, at=at, **({"timeout": 5.0} | how))


def test_a_gateway_that_proved_itself_answers_bit_for_bit_many_times() -> None:
    with door() as served, dial(served) as caller:
        assert caller.claims.measurements["event.code"] == "21" * 32
        assert caller.signature == served.gateway.signature
        for count in (1, 8, 3):
            assert torch.equal(caller(images(count, count)), MODEL(images(count, count)))
        assert served.count("answered") == 3


def test_inputs_are_taken_at_the_attested_door_alone() -> None:
    with door() as served:
        assert served.infer(images(1))[0] == 404
        assert served.ask("GET", "/readyz")[0] == 200
        assert served.ask("GET", "/metrics")[0] == 200


def test_a_refused_request_says_why_and_the_session_goes_on() -> None:
    with door() as served, dial(served) as caller:
        for wrong, kind in ((torch.zeros(1, 2), "invalid"), (torch.full((1, 1, 8, 8), float("nan")), "invalid")):
            with pytest.raises(Refused) as caught:
                caller(wrong)
            assert caught.value.outcome == kind
        with pytest.raises(Refused, match="65536 bytes at most"):
            caller(torch.zeros(2**15))  # refused here, before it is sent
        caller.max_body = 2**30
        with pytest.raises(Refused, match="65536 bytes at most") as caught:
            caller(torch.zeros(2**18))  # and there, before it is kept
        assert caught.value.outcome == "too-large"
        assert torch.equal(caller(images(2)), MODEL(images(2)))
        assert served.count("invalid") == 2


def test_a_late_answer_is_never_taken_for_that_of_the_next_question() -> None:
    gate = Gate()
    with door(Threaded("a", gate)) as served, dial(served, timeout=0.5) as caller:
        with pytest.raises(Unavailable, match="silent for too long"):
            caller(images(1, 1))
        gate.open.set()
        until(lambda: served.count("answered") == 1)
        with pytest.raises(Unavailable):
            caller(images(1, 2))


def test_threads_may_share_a_session() -> None:
    with door() as served, dial(served) as caller, ThreadPoolExecutor(4) as pool:
        inputs = [images(2, seed) for seed in range(12)]
        assert all(torch.equal(MODEL(x), y) for x, y in zip(inputs, pool.map(caller, inputs), strict=True))


# ----- attacks: each ends before the client has sent anything but its nonce


class Middle:
    """Somebody between client and gateway, with a certificate of his own; keeps what the client entrusts to him."""

    def __init__(self, act: Callable[[Channel], None]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.got: list[bytes] = []
        self.thread = threading.Thread(target=self._run, args=(act,), daemon=True)
        self.thread.start()

    def _run(self, act: Callable[[Channel], None]) -> None:
        channel = Channel(self._listener.accept()[0], server=True, timeout=5.0)
        try:
            act(channel)
            while True:
                self.got.append(channel.receive())
        except HoldfastError:
            channel.close()

    def attacks(self, error: type[Exception], match: str) -> None:
        """The client must end with ``error``, and must not have told the attacker anything."""
        with pytest.raises(error, match=match):
            dial_gateway(self.address, tpm_policy(), at=NOW, timeout=5.0)
        self.thread.join(10)
        assert not self.thread.is_alive()
        assert self.got == []


def test_a_man_in_the_middle_who_relays_genuine_evidence_is_refused() -> None:
    with door() as served:
        host, _, port = served.attested.rpartition(":")  # type: ignore[union-attr]

        def relay(towards_client: Channel) -> None:
            towards_world = Channel(socket.create_connection((host, int(port))), server=False, timeout=5.0)
            towards_world.send(towards_client.receive())
            towards_client.send(towards_world.receive())

        Middle(relay).attacks(PolicyError, "of another session")
        with dial(served) as caller:  # who only forwards bytes does no harm, and the gateway goes on
            assert torch.equal(caller(images(1)), MODEL(images(1)))


def test_whoever_forwards_bytes_can_stay_in_the_middle() -> None:
    with door() as served:
        listener = socket.create_server(("127.0.0.1", 0))
        host, _, port = served.attested.rpartition(":")  # type: ignore[union-attr]
        seen: list[bytes] = []

        def pump(source: socket.socket, sink: socket.socket) -> None:
            while piece := source.recv(4096):
                seen.append(piece)
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_RDWR)

        def forward() -> None:
            near, far = listener.accept()[0], socket.create_connection((host, int(port)))
            threading.Thread(target=pump, args=(near, far), daemon=True).start()
            threading.Thread(target=pump, args=(far, near), daemon=True).start()

        threading.Thread(target=forward, daemon=True).start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with dial_gateway(address, tpm_policy(), at=NOW, timeout=5.0) as caller:
            assert torch.equal(caller(images(1)), MODEL(images(1)))
        assert b"inputs" not in b"".join(seen)


def test_evidence_for_another_nonce_is_refused() -> None:
    kept: list[Evidence] = []

    def stale(nonce: bytes, binding: bytes) -> Evidence:
        kept.append(quote(nonce, binding))
        return kept[0]

    with door(answer=stale) as served:
        dial(served).close()
        with pytest.raises(PolicyError, match="answers another nonce"):
            dial(served)


def test_evidence_that_is_bound_to_no_session_is_refused() -> None:
    with (
        door(answer=lambda nonce, _: tpm_evidence(nonce=bound(nonce))) as served,
        pytest.raises(PolicyError, match="another session"),
    ):
        dial(served)


def test_other_code_another_key_and_altered_evidence_are_refused() -> None:
    def altered(nonce: bytes, binding: bytes) -> Evidence:
        evidence = quote(nonce, binding)
        return Evidence(kind="tpm2", body=flipped(evidence.body, 700), collateral=evidence.collateral)

    with door() as served:
        with pytest.raises(PolicyError, match="which the policy does not allow"):
            dial(served, policy=tpm_policy(measurements={"event.code": ("22" * 32,)}))
        with pytest.raises(SignerUntrusted):
            dial(served, policy=tpm_policy(keys=("000b" + "00" * 32,)))
    with door(answer=altered) as served, pytest.raises(SignatureInvalid):
        dial(served)


def test_a_world_that_can_be_debugged_and_one_whose_certificates_expired_are_refused() -> None:
    def machine(debug: bool) -> Quote:
        return lambda nonce, binding: SnpMachine().evidence(nonce=bound(nonce, binding), debug=debug)

    with door(answer=machine(True)) as served, pytest.raises(PolicyError, match="can be debugged"):
        dial(served, policy=snp_policy())
    with door(answer=machine(False)) as served:
        dial(served, policy=snp_policy()).close()
        with pytest.raises(SignerUntrusted):
            dial(served, policy=snp_policy(), at=NOW + timedelta(days=20_000))
        with pytest.raises(InvalidConfig, match="time zone"):
            dial(served, policy=snp_policy(), at=datetime(2026, 6, 1))


def test_a_gateway_without_evidence_is_refused() -> None:
    def mute(channel: Channel) -> None:
        channel.receive()
        channel.send(b"")

    Middle(mute).attacks(UnreadableArtifact, "evidence")
    with door() as served, pytest.raises(Unavailable, match="broke off"):
        dial_gateway(f"127.0.0.1:{served.port}", tpm_policy(), at=NOW, timeout=5.0)  # plain HTTP
    with pytest.raises(Unavailable, match="no gateway listens"):
        dial_gateway("127.0.0.1:1", tpm_policy(), at=NOW)
    with pytest.raises(InvalidConfig, match="neither HOST:PORT nor"):
        dial_gateway("8080", tpm_policy(), at=NOW)


def test_an_attested_gateway_that_answers_nonsense_is_an_error() -> None:
    def genuine_but_mad(channel: Channel) -> None:
        channel.send(quote(channel.receive(), channel.exporter).to_bytes())
        channel.receive()
        channel.send(b"\x00{}")

    middle = Middle(genuine_but_mad)
    with pytest.raises(IntegrityError, match="does not say what its model takes"):
        dial_gateway(middle.address, tpm_policy(), at=NOW, timeout=5.0)


# ----- who may call, and when it is too much


def test_beyond_this_machine_clients_show_a_certificate(tmp_path: Path) -> None:
    pytest.importorskip("grpc", reason="grpcio is not installed: pip install 'holdfast[grpc]'")
    from tests.unit.services.test_remote import Authority

    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    with door(tls=ours.issue("gateway")) as served:
        with dial(served, tls=ours.issue("client")) as caller:
            assert torch.equal(caller(images(1)), MODEL(images(1)))
        for tls in (None, theirs.issue("client")):
            with pytest.raises(Unavailable, match="broke off"):
                dial(served, tls=tls)


@pytest.mark.parametrize(
    ("listen", "message"),
    [
        (Listen(attested="127.0.0.1:0"), "need evidence"),
        (Listen(attested="0.0.0.0:0", quote=quote), "clients must show certificates"),
        (Listen(attested="here", quote=quote), "not HOST:PORT"),
        (Listen(attested="127.0.0.1:0", quote=quote, grpc="127.0.0.1:0"), "takes inputs there alone"),
    ],
)
def test_a_door_that_must_not_be_is_refused(listen: Listen, message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        serve_gateway(gateway(Threaded("a")), listen, sessions=1)


def test_outside_of_a_world_there_is_no_attested_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(MissingDevice, match="runs in no world"):
        quote_of_this_world()
    options = ("gateway", "digits-cnn", "--data", "digits", "--attested", "127.0.0.1:0")
    result = CliRunner().invoke(serve_command.app, options)
    assert isinstance(result.exception, MissingDevice)


def test_a_client_that_is_slow_or_one_too_many_holds_nobody_up() -> None:
    with door(arrival=0.5) as served:
        host, _, port = served.attested.rpartition(":")  # type: ignore[union-attr]
        with socket.create_connection((host, int(port))) as slow:
            slow.settimeout(10)
            start = time.monotonic()
            for byte in b"\x16\x03\x01\x02\x00\x01":  # a handshake, a byte at a time
                slow.sendall(bytes([byte]))
                time.sleep(0.2)
                if time.monotonic() - start > 0.7:
                    break
            assert slow.recv(100)[:1] in (b"", b"\x15")  # the end, or an alert
        with dial(served) as caller:
            assert torch.equal(caller(images(1)), MODEL(images(1)))


def test_the_end_of_a_gateway_ends_its_sessions_after_what_they_were_promised() -> None:
    gate = Gate()
    with door(Threaded("a", gate)) as served:
        caller, found = dial(served), []
        asking = threading.Thread(target=lambda: found.append(caller(images(2))))
        asking.start()
        assert gate.asked.wait(10)
        served.terminate()
        until(lambda: served.gateway.pool.draining)
        gate.open.set()
        asking.join(10)
        assert torch.equal(found[0], MODEL(images(2)))
        served.thread.join(20)
        with pytest.raises(Unavailable):
            caller(images(1))


def test_paths_serve_where_there_is_no_network(tmp_path: Path) -> None:
    path = tmp_path / "door.sock"
    with door(attested=f"unix:{path}") as served:
        assert path.stat().st_mode & 0o777 == 0o600
        with dial(served) as caller:
            assert torch.equal(caller(images(1)), MODEL(images(1)))
    assert not path.exists()
