"""A private key that stays in a hardware token, through PKCS#11 (OASIS Cryptoki 2.40, mechanism CKM_ECDSA).

The library of the token signs the digest of the DSSE encoding and returns r and s side by side; bundles hold them in
DER. Whatever a token returns is verified with its own public key before anybody sees it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from holdfast.errors import HoldfastError, InvalidConfig, MissingExtra, Unavailable, UsageError
from holdfast.signing.envelope import Material, pae
from holdfast.signing.keys import PublicKey, key_material, load_public
from holdfast.signing.signers.pkcs11_uri import TokenUri, parse_uri

if TYPE_CHECKING:
    import pkcs11

_HASHES: dict[str, Callable[[bytes], Any]] = {
    "secp256r1": hashlib.sha256,
    "secp384r1": hashlib.sha384,
    "secp521r1": hashlib.sha512,
}


@dataclass(frozen=True)
class TokenSigner:
    """An ECDSA key on P-256, P-384 or P-521 in a token; the PIN is in no ``repr``."""

    uri: TokenUri
    public: PublicKey
    pin: str = field(repr=False)

    def seal(self, payload_type: str, payload: bytes) -> tuple[bytes, Material]:
        """Return the token's signature over the payload's encoding, and the key's fingerprint as what verifies it.

        Raises:
            SignatureInvalid: the token returned something else than this key's signature.
            Unavailable: the token is gone, or refuses.
        """
        message = pae(payload_type, payload)
        signature = self._sign(message)
        self.public.verify(signature, message)
        return signature, key_material(self.public)

    def _sign(self, message: bytes) -> bytes:
        import pkcs11

        digest = _HASHES[_curve(self.public).name](message).digest()
        with opened(self.uri, self.pin) as session:
            key = _find(session, self.uri, pkcs11.ObjectClass.PRIVATE_KEY)
            raw: bytes = key.sign(digest, mechanism=pkcs11.Mechanism.ECDSA)
        half = len(raw) // 2
        return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))


def token_signer(rest: str, *, password: bytes | None = None) -> TokenSigner:
    """Return the signer of a PKCS#11 URI (without its scheme); ``password`` is the PIN unless a file has it.

    Raises:
        InvalidConfig: a URI that is malformed, or names no key or several, or one of another kind.
        UsageError: the wrong PIN.
        Unavailable: no such token, or it refuses.
        MissingExtra: the extra ``hsm`` is not installed.
    """
    uri = parse_uri(rest)
    pin = uri.pin(password)
    with opened(uri, pin) as session:
        public = _public(session, uri)
    return TokenSigner(uri, public, pin)


@contextmanager
def opened(uri: TokenUri, pin: str) -> Iterator[pkcs11.Session]:
    """Yield a session on the token with its user logged in; its errors come out as ours."""
    try:
        import pkcs11
    except ImportError as error:
        raise MissingExtra("tokens need python-pkcs11", hint="pip install 'holdfast[hsm]'") from error
    try:
        with _token(uri).open(user_pin=pin) as session:
            yield session
    except (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange) as error:
        raise UsageError("the token refuses this PIN", hint="tokens lock after a few wrong ones") from error
    except pkcs11.PKCS11Error as error:
        raise Unavailable(f"the token refuses: {type(error).__name__} {error}".rstrip()) from error


def _token(uri: TokenUri) -> pkcs11.Token:
    import pkcs11

    try:
        library = pkcs11.lib(str(uri.module))
    except (RuntimeError, pkcs11.PKCS11Error) as error:
        raise Unavailable(f"{uri.module} is no PKCS#11 library: {error}") from error
    found = list(library.get_tokens(token_label=uri.token or None, token_serial=uri.serial.encode() or None))
    if len(found) != 1:
        name = uri.token or uri.serial
        hint = "serial=... tells them apart" if found else "is the token plugged in, and its label spelt so?"
        raise Unavailable(f"{len(found) or 'no'} tokens are called {name!r}", hint=hint)
    return found[0]


def _find(session: pkcs11.Session, uri: TokenUri, kind: pkcs11.ObjectClass) -> Any:
    import pkcs11

    wanted = {pkcs11.Attribute.LABEL: uri.label, pkcs11.Attribute.ID: uri.id}
    wanted = {key: value for key, value in wanted.items() if value}
    found = list(session.get_objects({pkcs11.Attribute.CLASS: kind, **wanted}))
    if len(found) != 1:
        hint = "id=%.. tells them apart" if found else "the URI's object and id must both fit"
        raise InvalidConfig(f"the token has {len(found)} objects {kind.name} of that name, not one", hint=hint)
    return found[0]


def _public(session: pkcs11.Session, uri: TokenUri) -> PublicKey:
    """Return the public key beside the private one."""
    import pkcs11
    from pkcs11.util.ec import encode_ec_public_key

    found = _find(session, uri, pkcs11.ObjectClass.PUBLIC_KEY)
    if found.key_type != pkcs11.KeyType.EC:
        raise InvalidConfig("the token's key is not for ECDSA", hint="use P-256, P-384 or P-521")
    try:
        key = load_der_public_key(encode_ec_public_key(found))
        public = load_public(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    except (ValueError, HoldfastError) as error:
        raise InvalidConfig(f"the token's key cannot sign models: {error}") from error
    _curve(public)
    return public


def _curve(public: PublicKey) -> ec.EllipticCurve:
    if not isinstance(public.key, ec.EllipticCurvePublicKey):
        raise InvalidConfig("the token's key is not for ECDSA", hint="use P-256, P-384 or P-521")
    return public.key.curve
