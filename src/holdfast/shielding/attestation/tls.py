"""Attested TLS: a session whose other end has proved, for this very session, what it runs.

TLS 1.3 first, with a key the world made for itself and a certificate that proves nothing. Then the client sends a
nonce, the world answers with evidence over nonce and exporter (RFC 8446, section 7.5), and the client verifies it
against its policy before it sends a byte of its own. Somebody in the middle has one session with each side and so two
different exporters: evidence that he passes on does not verify. Evidence in a certificate, made before the session,
can be passed on in that way.

::

    client -> world   u32 length | nonce, 32 bytes
    world -> client   u32 length | evidence (holdfast.attestation-evidence/v1)        lengths big-endian
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID

from holdfast._extras import extra
from holdfast.errors import IntegrityError, InvalidConfig, Unavailable
from holdfast.shielding.attestation.binding import bound
from holdfast.shielding.attestation.claims import Claims
from holdfast.shielding.attestation.evidence import MAX_FILE, Evidence
from holdfast.shielding.attestation.policy import Policy
from holdfast.shielding.attestation.verify import verify

LABEL = b"EXPORTER-holdfast-attestation-v1"
NONCE = 32  # bytes
MAX_MESSAGE = 64 << 20  # bytes
_PIECE = 1 << 16
_NEVER = float("inf")
_NEEDS = "attested sessions need pyOpenSSL"
T = TypeVar("T")


class Channel:
    """One TLS 1.3 connection that carries messages: byte strings of at most 64 MiB, each sent whole.

    Made by :func:`connect` and :func:`accept`, which leave it attested.

    Args:
        stream: connected socket.
        server: which end this is.
        timeout: seconds for the handshake; then of silence after which the session ends, and may be changed.
        tls: who we are, and whom we let in; the certificates say nothing about what runs at the other end.
    """

    def __init__(self, stream: socket.socket, *, server: bool, timeout: float, tls: Certified | None = None) -> None:
        self._library = _library()
        self._stream, self.timeout, self._until = stream, timeout, _NEVER
        self._tls = self._library.Connection(_context(self._library, tls, server=server), None)
        (self._tls.set_accept_state if server else self._tls.set_connect_state)()
        with self.within(timeout):
            self._driven(self._tls.do_handshake)

    @property
    def exporter(self) -> bytes:
        """32 bytes that only the two ends of this session know."""
        value: bytes = self._tls.export_keying_material(LABEL, 32)
        return value

    def send(self, message: bytes) -> None:
        """Send one message.

        Raises:
            InvalidConfig: longer than 64 MiB.
            Unavailable: the other side is gone, or does not read.
        """
        if len(message) > MAX_MESSAGE:
            raise InvalidConfig(f"a message has at most {MAX_MESSAGE} bytes")
        rest = memoryview(len(message).to_bytes(4, "big") + message)
        while rest:
            piece = rest[:_PIECE]
            rest = rest[self._driven(partial(self._tls.send, piece)) :]

    def receive(self, *, limit: int = MAX_MESSAGE) -> bytes:
        """Return the next message.

        Raises:
            IntegrityError: it is announced as longer than ``limit``.
            Unavailable: the other side is gone, or silent for too long.
        """
        return self.rest(self.announced(limit=limit))

    def announced(self, *, limit: int = MAX_MESSAGE) -> int:
        """Return the length of the next message, which :meth:`rest` or :meth:`skip` must read.

        Raises:
            IntegrityError, Unavailable: as :meth:`receive`.
        """
        length = int.from_bytes(self._exactly(4), "big")
        if length > limit:
            raise IntegrityError(f"the other side announces a message of {length} bytes, more than {limit}")
        return length

    def rest(self, length: int) -> bytes:
        """Return the message of the announced length."""
        return self._exactly(length)

    def skip(self, length: int) -> None:
        """Read the message of the announced length and keep nothing of it."""
        for start in range(0, length, _PIECE):
            self._exactly(min(_PIECE, length - start))

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Allow everything in this block ``seconds`` in all, however often the other side says a little."""
        self._until = time.monotonic() + seconds
        try:
            yield
        finally:
            self._until = _NEVER

    def close(self) -> None:
        """Say goodbye and close the socket."""
        with contextlib.suppress(self._library.Error, Unavailable):
            self._tls.shutdown()
            self._flush()
        self._stream.close()

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            wanted = min(count - len(data), _PIECE)
            data += self._driven(partial(self._tls.recv, wanted))
        return bytes(data)

    def _driven(self, step: Callable[[], T]) -> T:
        """Do one step of the protocol, moving bytes between it and the socket for as long as it wants some."""
        while True:
            try:
                result = step()
                self._flush()
            except self._library.WantReadError:
                self._feed()
            except self._library.Error as error:
                with contextlib.suppress(Unavailable):
                    self._flush()  # the alert that tells the other side
                raise Unavailable(f"the attested session broke off: {_said(error)}") from error
            else:
                return result

    def _flush(self) -> None:
        """Hand on what TLS has written."""
        while True:
            try:
                data = self._tls.bio_read(_PIECE)
            except self._library.WantReadError:
                return
            self._on_socket(partial(self._stream.sendall, data))

    def _feed(self) -> None:
        """Hand on what TLS has written, and wait for something it can read."""
        self._flush()
        data = self._on_socket(partial(self._stream.recv, _PIECE))
        if not data:
            raise Unavailable("the attested session broke off: the other side closed it")
        self._tls.bio_write(data)

    def _on_socket(self, step: Callable[[], T]) -> T:
        try:
            left = min(self.timeout, self._until - time.monotonic())
            if left <= 0:
                raise TimeoutError
            self._stream.settimeout(left)
            return step()
        except OSError as error:
            raise Unavailable(f"the attested session broke off: {_said(error)}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """Who may call, where not everybody may: certificates beside the evidence, never instead of it.

    Attributes:
        authority: PEM; a server lets in only who shows a certificate of this authority.
        certificate: PEM, with what leads to the other side's authority; what a client shows.
        key: PEM, of the certificate.
    """

    authority: bytes
    certificate: bytes
    key: bytes = field(repr=False)


def connect(
    stream: socket.socket, policy: Policy, *, at: datetime, timeout: float = 30.0, tls: Certified | None = None
) -> tuple[Channel, Claims]:
    """Open a session with a world and return it once the world has proved that it meets ``policy``.

    Args:
        stream: connected socket.
        policy: what the world must be.
        at: the time to verify its evidence for.
        timeout: seconds of silence after which the session ends.
        tls: who we are, for worlds that ask.

    Raises:
        PolicyError, SignatureInvalid, SignerUntrusted, UnreadableArtifact: as :func:`verify` does; in particular
            evidence of another session, which somebody in the middle passes on, is a :class:`PolicyError`.
        Unavailable: no TLS session comes about.
    """
    channel = Channel(stream, server=False, timeout=timeout, tls=tls)
    try:
        nonce = secrets.token_bytes(NONCE)
        channel.send(nonce)
        evidence = Evidence.from_bytes(channel.receive(limit=2 * MAX_FILE))
        claims = verify(evidence, policy, nonce=bound(nonce, channel.exporter), at=at)
    except BaseException:
        channel.close()
        raise
    return channel, claims


def accept(
    stream: socket.socket,
    quote: Callable[[bytes, bytes], Evidence],
    *,
    timeout: float = 30.0,
    tls: Certified | None = None,
) -> Channel:
    """Answer a client from within a world, prove it to him, and return the session.

    Args:
        stream: accepted socket.
        quote: of the world, such as ``World.quote``: takes nonce and binding.
        timeout: seconds for the client's part of opening the session; then of silence after which it ends.
        tls: whom to let in; None lets everybody in.

    Raises:
        IntegrityError: what the client sends is no challenge.
        Unavailable: no TLS session comes about.
    """
    channel = Channel(stream, server=True, timeout=timeout, tls=tls)
    try:
        with channel.within(timeout):
            nonce = channel.receive(limit=NONCE)
        if len(nonce) != NONCE:
            raise IntegrityError(f"the client's challenge has {len(nonce)} bytes, not {NONCE}")
        channel.send(quote(nonce, channel.exporter).to_bytes())
    except BaseException:
        channel.close()
        raise
    return channel


def _library() -> Any:
    return extra("OpenSSL.SSL", name="tee", needs=_NEEDS)


def _context(library: Any, tls: Certified | None, *, server: bool) -> Any:
    context = library.Context(library.TLS_SERVER_METHOD if server else library.TLS_CLIENT_METHOD)
    context.set_min_proto_version(library.TLS1_3_VERSION)
    context.set_session_cache_mode(library.SESS_CACHE_OFF)
    context.set_options(library.OP_NO_TICKET)
    # not the certificate says who is there, but the evidence, which is bound to the session's keys
    context.set_verify(library.VERIFY_NONE)
    if server:
        key, certificate = _identity()
        context.use_privatekey(key)
        context.use_certificate(certificate)
    if tls is not None:
        try:
            _certify(library, context, tls, server=server)
        except (ValueError, TypeError, library.Error) as error:
            hint = "PEM, the key without a pass phrase"
            raise InvalidConfig("certificate and key do not fit together, or are none", hint=hint) from error
    return context


def _certify(library: Any, context: Any, tls: Certified, *, server: bool) -> None:
    """Have a server ask for a certificate, and a client show one."""
    if server:
        store = context.get_cert_store()
        for trusted in x509.load_pem_x509_certificates(tls.authority):
            store.add_cert(extra("OpenSSL.crypto", name="tee", needs=_NEEDS).X509.from_cryptography(trusted))
        context.set_verify(library.VERIFY_PEER | library.VERIFY_FAIL_IF_NO_PEER_CERT)
        return
    own, *above = x509.load_pem_x509_certificates(tls.certificate)
    context.use_certificate(own)
    context.use_privatekey(load_pem_private_key(tls.key, None))
    for certificate in above:
        context.add_extra_chain_cert(certificate)


def _identity() -> tuple[Any, Any]:
    """Return a key that lives as long as one session, and the certificate that TLS wants for it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "attested world")])
    start = datetime(2000, 1, 1)  # its validity says nothing: nobody looks at it
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(start).not_valid_after(start + timedelta(days=36_500))
    return key, builder.sign(key, hashes.SHA256())


def _said(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "the other side was silent for too long"
    reasons = error.args[0] if error.args else ""
    if isinstance(reasons, list) and reasons:
        return str(reasons[0][-1])
    return str(error) or "the other side closed it"
