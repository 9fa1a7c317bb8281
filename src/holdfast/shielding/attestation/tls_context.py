"""Who may take part in an attested session, and the TLS 1.3 that it runs on."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID

from holdfast._extras import extra
from holdfast.errors import InvalidConfig

_NEEDS = "attested sessions need pyOpenSSL"


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


def library() -> Any:
    """Return OpenSSL's bindings, which export keying material."""
    return extra("OpenSSL.SSL", name="tee", needs=_NEEDS)


def context(tls: Certified | None, *, server: bool) -> Any:
    """Return the settings of one end: TLS 1.3 alone, no tickets, certificates only where ``tls`` says so.

    Raises:
        InvalidConfig: certificate and key do not fit together.
    """
    ssl = library()
    made = ssl.Context(ssl.TLS_SERVER_METHOD if server else ssl.TLS_CLIENT_METHOD)
    made.set_min_proto_version(ssl.TLS1_3_VERSION)
    made.set_session_cache_mode(ssl.SESS_CACHE_OFF)
    made.set_options(ssl.OP_NO_TICKET)
    # not the certificate says who is there, but the evidence, which is bound to the session's keys
    made.set_verify(ssl.VERIFY_NONE)
    if server:
        key, certificate = _identity()
        made.use_privatekey(key)
        made.use_certificate(certificate)
    if tls is not None:
        try:
            _certify(ssl, made, tls, server=server)
        except (ValueError, TypeError, ssl.Error) as error:
            hint = "PEM, the key without a pass phrase"
            raise InvalidConfig("certificate and key do not fit together, or are none", hint=hint) from error
    return made


def _certify(ssl: Any, made: Any, tls: Certified, *, server: bool) -> None:
    """Have a server ask for a certificate, and a client show one."""
    if server:
        store = made.get_cert_store()
        for trusted in x509.load_pem_x509_certificates(tls.authority):
            store.add_cert(extra("OpenSSL.crypto", name="tee", needs=_NEEDS).X509.from_cryptography(trusted))
        made.set_verify(ssl.VERIFY_PEER | ssl.VERIFY_FAIL_IF_NO_PEER_CERT)
        return
    own, *above = x509.load_pem_x509_certificates(tls.certificate)
    made.use_certificate(own)
    made.use_privatekey(load_pem_private_key(tls.key, None))
    for certificate in above:
        made.add_extra_chain_cert(certificate)


def _identity() -> tuple[Any, Any]:
    """Return a key that lives as long as one session, and the certificate that TLS wants for it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "attested world")])
    start = datetime(2000, 1, 1)  # its validity says nothing: nobody looks at it
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(start).not_valid_after(start + timedelta(days=36_500))
    return key, builder.sign(key, hashes.SHA256())
