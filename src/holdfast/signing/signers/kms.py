"""A private key that a key management service keeps, through the signer schemes of ``securesystemslib``.

Schemes are that library's: ``awskms:``, ``gcpkms:``, ``azurekms:``, ``hv:`` (Vault), ``file2:``, and whatever is added
to its table. The public key must be given: a service that answered with another key, or with nothing like a signature,
is found out before the bundle is written.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from holdfast._registry import parse_spec, unknown
from holdfast.errors import InvalidConfig, MissingExtra, Unavailable
from holdfast.signing.envelope import Material, pae
from holdfast.signing.keys import PublicKey, key_material, load_public

REFUSED = {
    "gnupg": "it does not sign the bytes alone",
    "tkey": "it signs with ML-DSA alone",
    "hsm": "it loads the library that an environment variable names; use pkcs11: instead",
}


@dataclass(frozen=True)
class ServiceSigner:
    """Signs through a service; every answer is verified with the public key that was given."""

    service: Any  # a securesystemslib.signer.Signer
    public: PublicKey

    def __repr__(self) -> str:
        return f"ServiceSigner({self.public.fingerprint[:16]})"

    def seal(self, payload_type: str, payload: bytes) -> tuple[bytes, Material]:
        """Return the service's signature over the payload's encoding, and the key's fingerprint as what verifies it.

        Raises:
            SignatureInvalid: the service answered with something else than this key's signature.
            Unavailable: it did not answer.
        """
        message = pae(payload_type, payload)
        value = self._sign(message)
        self.public.verify(value, message)
        return value, key_material(self.public)

    def _sign(self, message: bytes) -> bytes:
        from securesystemslib.exceptions import Error

        try:
            return bytes.fromhex(self.service.sign(message).signature)
        except (Error, OSError, ValueError, RuntimeError) as error:
            raise Unavailable(f"the key service does not sign: {type(error).__name__} {error}") from error


def kms_signer(rest: str, *, password: bytes | None = None) -> ServiceSigner:
    """Return the signer of ``uri=(SCHEME:KEY),public=K.pub``; ``password`` answers if the scheme asks for a secret.

    Raises:
        InvalidConfig: an option is missing or unknown, or the key does not suit.
        UnknownName: a scheme that securesystemslib does not have.
        Unavailable: the service's own package is missing, or it does not answer.
        MissingExtra: the extra ``kms`` is not installed.
    """
    _, options = parse_spec(f"kms:{rest}")
    if set(options) != {"uri", "public"}:
        raise InvalidConfig("the signer 'kms' needs uri and public", hint="kms:uri=(awskms:KEY),public=K.pub")
    public = load_public(options["public"])
    return ServiceSigner(_service(options["uri"], public, password), public)


def _service(uri: str, public: PublicKey, password: bytes | None) -> Any:
    try:
        from securesystemslib.exceptions import Error

        services: Any = importlib.import_module("securesystemslib.signer")  # it exports by assignment
    except ImportError as error:
        raise MissingExtra("key services need securesystemslib", hint="pip install 'holdfast[kms]'") from error
    scheme = uri.partition(":")[0]
    if scheme in REFUSED:
        raise InvalidConfig(f"{scheme}: cannot sign models: {REFUSED[scheme]}")
    if scheme not in services.SIGNER_FOR_URI_SCHEME:
        raise unknown("key service", scheme, set(services.SIGNER_FOR_URI_SCHEME) - set(REFUSED))

    def secret(name: str) -> str:
        if password is None:
            raise InvalidConfig(f"the key service asks for its {name}", hint="--password-file (- asks)")
        return password.decode()

    try:
        return services.Signer.from_priv_key_uri(uri, services.SSlibKey.from_crypto(public.key), secret)
    except InvalidConfig:
        raise
    except ImportError as error:
        raise Unavailable(f"the key service {scheme} needs another package: {error}") from error
    except (Error, OSError, ValueError, RuntimeError) as error:
        raise Unavailable(f"the key service does not answer: {type(error).__name__} {error}") from error
