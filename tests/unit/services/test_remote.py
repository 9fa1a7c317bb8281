"""A worker on another machine: mutual TLS or nothing."""

from __future__ import annotations

import datetime
import threading
from pathlib import Path

import pytest

grpc = pytest.importorskip("grpc", reason="grpcio is not installed: pip install 'holdfast[grpc]'")
from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402

from holdfast.errors import IntegrityError, InvalidConfig, UnreadableArtifact, WorkerUnreachable  # noqa: E402
from holdfast.numerics.bits import bit_equal  # noqa: E402
from holdfast.services.remote import Switchboard, serve_remote  # noqa: E402
from holdfast.services.worker import Service, Worker  # noqa: E402
from holdfast.shielding import MutualTls, shield  # noqa: E402
from holdfast.shielding.transport import Frame, Kind  # noqa: E402
from holdfast.shielding.transport.remote import METHOD  # noqa: E402
from holdfast.shielding.transport.wire import encode, parsed  # noqa: E402
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
        channel.unary_unary(METHOD)(b"".join(encode(Frame(Kind.HELLO, {"nonce": "a"}))), timeout=5)
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
    for number in range(40):
        board.answer(b"".join(encode(Frame(Kind.HELLO, {"nonce": str(number)}))))
    assert len(board._sessions) == 16
