"""Attested TLS between threads: the session that was proved is the one that is used, and a relay is refused."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from holdfast.errors import (
    HoldfastError,
    IntegrityError,
    InvalidConfig,
    PolicyError,
    SignatureInvalid,
    Unavailable,
    UnreadableArtifact,
)
from holdfast.shielding.attestation import Evidence, bound
from holdfast.shielding.attestation.tls import accept, connect
from holdfast.shielding.attestation.tls_channel import Channel
from holdfast.shielding.attestation.tls_context import Certified
from tests.attesting import NOW, SnpMachine, flipped, snp_policy, tpm_evidence, tpm_policy
from tests.authority import Holder, authority, issue

TIMEOUT = 5.0


def quote(nonce: bytes, binding: bytes) -> Evidence:
    return tpm_evidence(nonce=bound(nonce, binding))


class Served:
    """Runs the other end of a socket in a thread and keeps what it raised or returned."""

    def __init__(self, serve: Callable[[socket.socket], Any]) -> None:
        self.near, self._far = socket.socketpair()
        self.result: Any = None
        self._thread = threading.Thread(target=self._run, args=(serve,))
        self._thread.start()

    def _run(self, serve: Callable[[socket.socket], Any]) -> None:
        try:
            self.result = serve(self._far)
        except HoldfastError as error:
            self.result = error
        finally:
            self._far.close()

    def join(self) -> Any:
        self.near.close()
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive()
        return self.result


def world(stream: socket.socket, answer: Callable[[bytes, bytes], Evidence] = quote) -> bytes:
    channel = accept(stream, answer, timeout=TIMEOUT)
    message = channel.receive()
    channel.send(message[::-1])
    channel.close()
    return message


def test_a_session_with_a_world_that_proved_itself_carries_messages():
    served = Served(world)
    channel, claims = connect(served.near, tpm_policy(), at=NOW, timeout=TIMEOUT)
    assert claims.measurements["event.code"] == "21" * 32
    message = bytes(range(256)) * 1000  # several TLS records
    channel.send(message)
    assert channel.receive() == message[::-1]
    channel.close()
    assert served.join() == message


def test_both_ends_export_the_same_and_each_session_something_else():
    def tell(stream: socket.socket) -> None:
        channel = Channel(stream, server=True, timeout=TIMEOUT)
        channel.send(channel.exporter)

    exported = []
    for _ in range(2):
        served = Served(tell)
        channel = Channel(served.near, server=False, timeout=TIMEOUT)
        exported.append(channel.receive())
        assert exported[-1] == channel.exporter
        assert served.join() is None
    assert len(set(exported)) == 2
    assert len(exported[0]) == 32


def test_a_relay_that_passes_genuine_evidence_on_is_refused():
    """The attack on evidence in certificates: one session with each side, nonce and answer carried across."""
    genuine = Served(world)

    def relay(stream: socket.socket) -> None:
        towards_client = Channel(stream, server=True, timeout=TIMEOUT)
        towards_world = Channel(genuine.near, server=False, timeout=TIMEOUT)
        towards_world.send(towards_client.receive())
        towards_client.send(towards_world.receive())
        towards_client.receive()

    middle = Served(relay)
    with pytest.raises(PolicyError, match="of another session"):
        connect(middle.near, tpm_policy(), at=NOW, timeout=TIMEOUT)
    assert isinstance(middle.join(), Unavailable)  # it never got a byte of the client's
    assert isinstance(genuine.join(), Unavailable)


def test_evidence_of_one_session_does_not_serve_in_another():
    kept: list[Evidence] = []

    def remember(nonce: bytes, binding: bytes) -> Evidence:
        kept.append(quote(nonce, binding))
        return kept[0]

    first = Served(lambda stream: world(stream, remember))
    channel, _ = connect(first.near, tpm_policy(), at=NOW, timeout=TIMEOUT)
    channel.close()
    first.join()
    second = Served(lambda stream: world(stream, remember))
    with pytest.raises(PolicyError, match="another nonce"):
        connect(second.near, tpm_policy(), at=NOW, timeout=TIMEOUT)
    second.join()


def test_a_nonce_without_the_session_is_not_enough():
    served = Served(lambda stream: world(stream, lambda nonce, _: tpm_evidence(nonce=bound(nonce))))
    with pytest.raises(PolicyError, match="another nonce"):
        connect(served.near, tpm_policy(), at=NOW, timeout=TIMEOUT)
    served.join()


def test_a_world_of_another_kind_or_with_other_code_is_refused():
    served = Served(
        lambda stream: world(stream, lambda nonce, binding: SnpMachine().evidence(nonce=bound(nonce, binding)))
    )
    with pytest.raises(PolicyError, match="kind 'sev-snp'"):
        connect(served.near, tpm_policy(), at=NOW, timeout=TIMEOUT)
    served.join()
    served = Served(
        lambda stream: world(stream, lambda nonce, binding: SnpMachine().evidence(nonce=bound(nonce, binding)))
    )
    channel, claims = connect(served.near, snp_policy(), at=NOW, timeout=TIMEOUT)
    assert claims.kind == "sev-snp"
    channel.close()
    served.join()


@pytest.mark.parametrize(
    ("answer", "error"),
    [(b"{}", UnreadableArtifact), (b"", UnreadableArtifact), (b"\xff" * 100, UnreadableArtifact)],
)
def test_an_answer_that_is_no_evidence_is_refused(answer: bytes, error: type[Exception]):
    def serve(stream: socket.socket) -> None:
        channel = Channel(stream, server=True, timeout=TIMEOUT)
        channel.receive()
        channel.send(answer)

    served = Served(serve)
    with pytest.raises(error):
        connect(served.near, tpm_policy(), at=NOW, timeout=TIMEOUT)
    served.join()


def test_altered_evidence_is_refused():
    def altered(nonce: bytes, binding: bytes) -> Evidence:
        evidence = quote(nonce, binding)
        return Evidence(kind="tpm2", body=flipped(evidence.body, 700), collateral=evidence.collateral)

    served = Served(lambda stream: world(stream, altered))
    with pytest.raises(SignatureInvalid):
        connect(served.near, tpm_policy(), at=NOW, timeout=TIMEOUT)
    served.join()


def test_a_message_too_long_is_refused_before_it_is_read():
    def serve(stream: socket.socket) -> None:
        channel = Channel(stream, server=True, timeout=TIMEOUT)
        channel.receive()
        channel._driven(lambda: channel._tls.send(b"\xff\xff\xff\xff"))
        channel.receive()

    served = Served(serve)
    with pytest.raises(IntegrityError, match="announces a message of 4294967295 bytes"):
        connect(served.near, tpm_policy(), at=NOW, timeout=TIMEOUT)
    served.join()


@pytest.mark.parametrize("challenge", [b"", b"short", bytes(33)])
def test_a_world_answers_challenges_only(challenge: bytes):
    served = Served(world)
    channel = Channel(served.near, server=False, timeout=TIMEOUT)
    channel.send(challenge)
    with pytest.raises(Unavailable):
        channel.receive()
    assert isinstance(served.join(), IntegrityError)


def test_what_speaks_no_tls_or_nothing_at_all_is_unavailable():
    near, far = socket.socketpair()
    far.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(Unavailable, match="broke off"):
        connect(near, tpm_policy(), at=NOW, timeout=TIMEOUT)
    near, far = socket.socketpair()
    with pytest.raises(Unavailable, match="silent for too long"):
        connect(near, tpm_policy(), at=NOW, timeout=0.1)
    near, far = socket.socketpair()
    far.close()
    with pytest.raises(Unavailable, match="broke off"):
        connect(near, tpm_policy(), at=NOW, timeout=TIMEOUT)


def test_a_client_of_an_older_protocol_is_refused():
    import ssl

    def serve(stream: socket.socket) -> None:
        accept(stream, quote, timeout=TIMEOUT)

    served = Served(serve)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    served.near.settimeout(TIMEOUT)
    with pytest.raises(ssl.SSLError):
        context.wrap_socket(served.near)
    assert isinstance(served.join(), Unavailable)


def test_who_says_a_little_all_the_time_is_not_waited_for():
    def drip(stream: socket.socket) -> None:
        channel = Channel(stream, server=True, timeout=TIMEOUT)
        channel._driven(lambda: channel._tls.send((100).to_bytes(4, "big")))
        for _ in range(100):
            channel._driven(lambda: channel._tls.send(b"x"))
            time.sleep(0.05)

    served = Served(drip)
    channel = Channel(served.near, server=False, timeout=TIMEOUT)
    start = time.monotonic()
    with pytest.raises(Unavailable, match="silent for too long"), channel.within(0.5):
        channel.receive()
    assert time.monotonic() - start < 3
    channel.close()
    served.join()


def test_a_message_can_be_passed_over_and_the_next_one_read():
    def tell(stream: socket.socket) -> None:
        channel = Channel(stream, server=True, timeout=TIMEOUT)
        for message in (bytes(200_000), b"second"):
            channel.send(message)

    served = Served(tell)
    channel = Channel(served.near, server=False, timeout=TIMEOUT)
    channel.skip(channel.announced())
    assert channel.receive() == b"second"
    assert served.join() is None


def test_a_world_that_asks_for_certificates_lets_in_only_its_own_authoritys():
    live = {"start": datetime(2000, 1, 1, tzinfo=UTC), "end": datetime(2090, 1, 1, tzinfo=UTC)}
    ours, theirs = authority("ours", **live), authority("theirs", **live)
    secret = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()

    def shown(holder: Holder) -> Certified:
        return Certified(authority=b"", certificate=holder.pem, key=holder.key.private_bytes(*secret))

    def guarded(stream: socket.socket) -> Any:
        asks = Certified(authority=ours.pem, certificate=b"", key=b"")
        return accept(stream, quote, timeout=TIMEOUT, tls=asks)._tls.get_peer_certificate(as_cryptography=True)

    served, client = Served(guarded), issue("client", ours, **live)
    connect(served.near, tpm_policy(), at=NOW, timeout=TIMEOUT, tls=shown(client))
    assert served.join() == client.certificate
    expired = issue("client", ours, start=live["start"], end=datetime(2001, 1, 1, tzinfo=UTC))
    for tls in (None, shown(issue("client", theirs, **live)), shown(expired)):
        served = Served(guarded)
        with pytest.raises(Unavailable, match="broke off"):
            connect(served.near, tpm_policy(), at=NOW, timeout=TIMEOUT, tls=tls)
        assert isinstance(served.join(), Unavailable)


@pytest.mark.parametrize("broken", ["certificate", "key"])
def test_files_that_hold_no_certificate_or_key_are_one_sentence(broken: str):
    client = issue("client")
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key = client.key.private_bytes(pem, form, serialization.NoEncryption())
    files = {"authority": b"", "certificate": client.pem, "key": key} | {broken: b"nonsense"}
    served = Served(world)
    with pytest.raises(InvalidConfig, match="certificate and key do not fit together"):
        connect(served.near, tpm_policy(), at=NOW, timeout=TIMEOUT, tls=Certified(**files))
    served.join()
