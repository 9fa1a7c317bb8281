"""A worker on another machine: mutual TLS or nothing."""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

grpc = pytest.importorskip("grpc", reason="grpcio is not installed: pip install 'holdfast[grpc]'")
from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402

from holdfast.errors import (  # noqa: E402
    IntegrityError,
    InvalidConfig,
    MissingDevice,
    UnreadableArtifact,
    WorkerUnreachable,
)
from holdfast.numerics.bits import bit_equal  # noqa: E402
from holdfast.services.remote import Switchboard, serve_remote  # noqa: E402
from holdfast.services.worker import Service, Worker  # noqa: E402
from holdfast.shielding import MutualTls, shield  # noqa: E402
from holdfast.shielding.transport import Frame, Kind  # noqa: E402
from holdfast.shielding.transport.remote import METHOD, PIECE  # noqa: E402
from holdfast.shielding.transport.wire import encode, parsed  # noqa: E402
from holdfast.shielding.ways import Layer  # noqa: E402
from tests.unit.shielding.nets import images, integer_net  # noqa: E402


class Authority:
    """A certificate authority of its own, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._certificate("authority", self.key, None)
        (folder / "ca.pem").write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, host: str = "worker.test") -> MutualTls:
        key = ec.generate_private_key(ec.SECP256R1())
        paths = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        paths[0].write_bytes(self._certificate(name, key, host).public_bytes(serialization.Encoding.PEM))
        secret = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, *secret))
        paths[1].chmod(0o600)
        return MutualTls(authority=self.folder / "ca.pem", certificate=paths[0], key=paths[1], name="worker.test")

    def _certificate(self, name: str, key: ec.EllipticCurvePrivateKey, host: str | None) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = x509.CertificateBuilder(
            subject_name=subject,
            issuer_name=subject if host is None else self.certificate.subject,
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - datetime.timedelta(hours=1),
            not_valid_after=now + datetime.timedelta(hours=1),
        ).add_extension(x509.BasicConstraints(ca=host is None, path_length=None), critical=True)
        if host is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        return builder.sign(self.key, hashes.SHA256())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ca")


def started(authority: Authority, service: Service | None = None) -> int:
    ports: list[int] = []
    ready = threading.Event()

    def up(port: int) -> None:
        ports.append(port)
        ready.set()

    tls = authority.issue("worker")
    threading.Thread(target=serve_remote, args=("localhost:0", tls, service), kwargs={"ready": up}, daemon=True).start()
    assert ready.wait(30)
    return ports[0]


@pytest.fixture(scope="module")
def port(authority: Authority) -> int:
    return started(authority)


def test_bit_equal_over_mutual_tls_and_two_sessions_at_once(authority: Authority, port: int) -> None:
    model, tls = integer_net(), authority.issue("session")
    with (
        shield(model, f"grpc:localhost:{port}", tls=tls) as one,
        shield(model, f"grpc:localhost:{port}", tls=tls) as two,
    ):
        for seed in range(2):
            for session in (one, two):
                assert bit_equal(session(images(2, seed)), model(images(2, seed)))


def test_a_lie_from_afar_is_caught(authority: Authority) -> None:
    port = started(authority, Service(fault="bit-flip", seed=3))
    with shield(integer_net(), f"grpc:localhost:{port}", tls=authority.issue("session")) as session:
        with pytest.raises(IntegrityError, match="'stem'"):
            session(images(1))
        assert session.closed


def test_a_device_that_fails_stops_the_server_after_the_session_heard_why(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[BaseException] = []
    ports: list[int] = []

    def run() -> None:
        try:
            serve_remote("localhost:0", authority.issue("worker"), ready=ports.append)
        except MissingDevice as error:
            ended.append(error)

    def broken(layer: Layer, planes: object, ring: int = 4) -> object:
        raise RuntimeError("CUDA error: unspecified launch failure")

    thread = threading.Thread(target=run)
    thread.start()
    while not ports:
        assert thread.is_alive()
    with shield(integer_net(), f"grpc:localhost:{ports[0]}", tls=authority.issue("session")) as session:
        monkeypatch.setattr(Layer, "__call__", broken)
        with pytest.raises(WorkerUnreachable, match="cpu failed while it multiplied: CUDA error: unspecified"):
            session(images(1))
    thread.join(20)
    assert [str(error) for error in ended] == ["cpu failed while it multiplied: CUDA error: unspecified launch failure"]


def test_strangers_and_impostors_are_turned_away(authority: Authority, port: int, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "other")
    mine = stranger.issue("session")
    as_client = MutualTls(
        authority=authority.folder / "ca.pem", certificate=mine.certificate, key=mine.key, name="worker.test"
    )
    for tls in (as_client, mine):  # a client nobody vouched for; a client that trusts another authority
        with pytest.raises(WorkerUnreachable, match="do not trust each other"):
            shield(integer_net(), f"grpc:localhost:{port}", tls=tls, timeout=10)
    good = authority.issue("session")
    wrong_host = MutualTls(authority=good.authority, certificate=good.certificate, key=good.key, name="elsewhere.test")
    with pytest.raises(WorkerUnreachable):
        shield(integer_net(), f"grpc:localhost:{port}", tls=wrong_host, timeout=10)


def test_there_is_no_unprotected_way(port: int) -> None:
    with pytest.raises(InvalidConfig, match="mutual TLS"):
        shield(integer_net(), f"grpc:localhost:{port}")
    with grpc.insecure_channel(f"localhost:{port}") as channel, pytest.raises(grpc.RpcError):
        list(channel.unary_stream(METHOD)(b"".join(encode(Frame(Kind.HELLO, {"nonce": "a"}))), timeout=5))
    import holdfast.services.remote
    import holdfast.shielding.transport.remote

    for module in (holdfast.services.remote, holdfast.shielding.transport.remote):
        assert "insecure" not in Path(str(module.__file__)).read_text()


def test_loose_or_missing_keys_are_refused(authority: Authority, port: int) -> None:
    tls = authority.issue("careless")
    tls.key.chmod(0o644)
    with pytest.raises(InvalidConfig, match="others than its owner may read"):
        shield(integer_net(), f"grpc:localhost:{port}", tls=tls)
    tls.certificate.unlink()
    with pytest.raises(UnreadableArtifact, match="cannot read"):
        shield(integer_net(), f"grpc:localhost:{port}", tls=tls)
    with pytest.raises(InvalidConfig, match="tls is for grpc"):
        shield(integer_net(), "unix:/nowhere", tls=authority.issue("session"))


def test_nobody_there(authority: Authority) -> None:
    with pytest.raises(WorkerUnreachable, match="is gone"):
        shield(integer_net(), "grpc:localhost:9", tls=authority.issue("session"), timeout=5)


def test_a_question_with_another_sessions_nonce_is_refused() -> None:
    board = Switchboard(Worker)
    board.answer(b"".join(encode(Frame(Kind.HELLO, {"nonce": "one"}))))
    answer = parsed(board.answer(b"".join(encode(Frame(Kind.RUN, {"layer": "a", "nonce": "two"})))), "the worker")
    assert answer.kind is Kind.ERROR
    assert "nonce of another session" in answer.header["message"]
    assert parsed(board.answer(b"rubbish"), "the worker").kind is Kind.ERROR


@pytest.mark.parametrize("kind", [Kind.HELLO, Kind.LOAD, Kind.RUN, Kind.BYE])
@pytest.mark.parametrize("nonce", [["a"], {}, 1, True, None])
def test_a_nonce_that_is_no_text_is_an_error_frame(kind: Kind, nonce: object) -> None:
    board = Switchboard(Worker)
    answer = parsed(board.answer(b"".join(encode(Frame(kind, {"nonce": nonce})))), "the worker")
    assert (answer.kind, answer.header["message"]) == (Kind.ERROR, "the session names itself by no nonce")
    assert not board._sessions


def say(board: Switchboard, kind: Kind, nonce: str) -> Frame:
    return parsed(board.answer(b"".join(encode(Frame(kind, {"nonce": nonce})))), "the worker")


def test_a_full_worker_takes_no_session_and_forgets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions in use must not lose their weights because somebody opens more of them."""
    board = Switchboard(Worker)
    for number in range(64):
        assert say(board, Kind.HELLO, str(number)).kind is Kind.HELLO
    refused = say(board, Kind.HELLO, "one more")
    assert refused.kind is Kind.ERROR
    assert "64 sessions already" in refused.header["message"]
    assert "neither weights nor work" in say(board, Kind.RUN, "0").header["message"]  # known still
    assert say(board, Kind.BYE, "7").kind is Kind.BYE
    assert say(board, Kind.HELLO, "one more").kind is Kind.HELLO  # in the place of the one that left
    later = time.monotonic() + 601
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert say(board, Kind.HELLO, "later").kind is Kind.HELLO  # all others are idle, and the first must go
    assert "another session" in say(board, Kind.RUN, "1").header["message"]
    assert "neither weights nor work" in say(board, Kind.RUN, "2").header["message"]  # the rest stay


def test_idle_sessions_stay_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    board = Switchboard(Worker)
    say(board, Kind.HELLO, "idle")
    later = time.monotonic() + 10_000
    monkeypatch.setattr(time, "monotonic", lambda: later)
    say(board, Kind.HELLO, "new")
    assert "neither weights nor work" in say(board, Kind.RUN, "idle").header["message"]


def test_a_closed_session_leaves_nothing_at_the_worker(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    boards: list[Switchboard] = []
    monkeypatch.setattr(Switchboard, "__init__", kept(boards, Switchboard.__init__))
    port = started(authority)
    model = integer_net()
    with shield(model, f"grpc:localhost:{port}", tls=authority.issue("session"), timeout=20) as session:
        session(images(1))
        assert len(boards[0]._sessions) == 1
    assert not boards[0]._sessions


def kept(boards: list[Switchboard], make: Callable[..., None]) -> Callable[..., None]:
    def init(board: Switchboard, *arguments: object) -> None:
        boards.append(board)
        make(board, *arguments)

    return init


@contextmanager
def flooding(authority: Authority, pieces: Iterator[bytes], compression: object = None) -> Iterator[int]:
    """A worker with a certificate of the authority that answers whatever it likes."""
    _, service, method = METHOD.split("/")
    handler = grpc.unary_stream_rpc_method_handler(lambda _, __: pieces)
    server = grpc.server(ThreadPoolExecutor(1), compression=compression)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    root, certificate, key = authority.issue("flood").read()
    credentials = grpc.ssl_server_credentials([(key, certificate)], root, require_client_auth=True)
    port = server.add_secure_port("localhost:0", credentials)
    server.start()
    try:
        yield port
    finally:
        server.stop(0).wait()


def test_reading_stops_at_the_first_byte_too_many(authority: Authority) -> None:
    """A worker that sends without end must not fill the trusted side's memory."""
    sent: list[int] = []

    def endless() -> Iterator[bytes]:
        while len(sent) < 1000:
            sent.append(1)
            yield bytes(PIECE)

    with flooding(authority, endless()) as port, pytest.raises(IntegrityError, match="sends more than"):
        shield(integer_net(), f"grpc:localhost:{port}", tls=authority.issue("session"), timeout=20)
    assert len(sent) < 500  # what was on its way already, not the thousand


@pytest.mark.parametrize(
    ("piece", "compression"), [(3 * PIECE, None), (PIECE, grpc.Compression.Gzip)], ids=["long", "compressed"]
)
def test_long_and_compressed_pieces_are_refused(authority: Authority, piece: int, compression: object) -> None:
    with (
        flooding(authority, iter([bytes(piece)]), compression) as port,
        pytest.raises(IntegrityError, match="other than short plain pieces"),
    ):
        shield(integer_net(), f"grpc:localhost:{port}", tls=authority.issue("session"), timeout=20)
