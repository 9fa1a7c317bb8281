"""Where a private key is, as data: signers found by the scheme of a URI."""

from __future__ import annotations

from holdfast._registry import Registry
from holdfast.errors import InvalidConfig
from holdfast.signing.signers import schemes
from holdfast.signing.signers.file import file_signer
from holdfast.signing.signers.protocol import KeyHolder, Signer

signers: Registry[Signer] = Registry("signer", "holdfast.signers")
signers.register("file")(file_signer)
signers.register("certificate")(schemes.certificate)
signers.register("pkcs11")(schemes.pkcs11)
signers.register("kms")(schemes.kms)


@signers.register("sigstore")
def sigstore_signer(options: str, *, password: bytes | None = None) -> Signer:
    """Sign keylessly; see :func:`holdfast.signing.signers.sigstore.sigstore_signer`."""
    from holdfast.signing.signers import sigstore  # only who signs keylessly pays for it

    return sigstore.sigstore_signer(options, password=password)


def load_signer(uri: str | Signer, *, password: bytes | None = None) -> Signer:
    """Return the signer of ``file:PATH`` (or of a plugin's scheme); a signer passes through.

    Raises:
        UnknownName: an unknown scheme.
        InvalidConfig: no scheme at all.
    """
    if not isinstance(uri, str):
        return uri
    scheme, colon, rest = uri.partition(":")
    if not colon:
        raise InvalidConfig(f"{uri!r} does not say where the key is", hint=f"write file:{uri}")
    return signers.get(scheme)(rest, password=password)


def require_key(signer: Signer) -> KeyHolder:
    """Return ``signer`` if it has a lasting key; raise :class:`InvalidConfig` otherwise."""
    if not isinstance(signer, KeyHolder):
        raise InvalidConfig("this signer has no lasting key", hint="use a key: here, as in file:KEY.pem")
    return signer


__all__ = ["KeyHolder", "Signer", "load_signer", "require_key", "signers"]
