"""Keyless signing through Sigstore: an identity in place of a key (extra ``sigstore``; needs the network).

A key is made for one signature, the certificate authority certifies it for the identity in an OpenID token, the
signature goes into the public log, and the key is thrown away. The ``sigstore`` package does all this; what it returns
is taken apart again into a signature and the material that verifies it. **The identity and the hash of what is signed
become public and stay so**, in the logs of the instance that is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast._files import read_bytes
from holdfast.errors import HoldfastError, InvalidConfig, MissingExtra, SignatureInvalid, Unavailable, UsageError
from holdfast.evidence.statement import PAYLOAD_TYPE
from holdfast.signing.envelope import Envelope, Material, read_envelope

if TYPE_CHECKING:
    from sigstore.models import ClientTrustConfig
    from sigstore.oidc import IdentityToken

_HINT = "write sigstore:token-file=PATH, sigstore:ambient or sigstore:interactive"
_FLAGS, _VALUES = ("ambient", "interactive", "staging"), ("token-file", "trust-config")
_LIMIT = 1 << 16  # bytes of a token
_CONFIG_LIMIT = 4 << 20  # bytes of a trust configuration


@dataclass(frozen=True, kw_only=True)
class KeylessSigner:
    """Signs as whom an OpenID token names; the token is fetched when something is signed, and never kept.

    Attributes:
        token_file: a file with an OpenID token for the audience ``sigstore``.
        ambient: take the token of the machine that this runs on, such as a GitHub Actions job.
        interactive: log in with a browser.
        staging: use the staging instance, whose logs promise nothing.
        trust_config: a ``ClientTrustConfig`` file, which names the services of another instance.

    Raises:
        InvalidConfig: not exactly one source of the identity, or two instances.
    """

    token_file: str = ""
    ambient: bool = False
    interactive: bool = False
    staging: bool = False
    trust_config: str = ""

    def __post_init__(self) -> None:
        if sum(map(bool, (self.token_file, self.ambient, self.interactive))) != 1:
            raise InvalidConfig("a keyless signer needs exactly one source of its identity", hint=_HINT)
        if self.staging and self.trust_config:
            raise InvalidConfig("staging and trust-config name two different instances")

    def seal(self, payload_type: str, payload: bytes) -> tuple[bytes, Material]:
        """Return a keyless signature over ``payload``, with its certificate, log entry and timestamps.

        Raises:
            InvalidConfig: a payload that is no in-toto statement.
            UsageError: the identity token is refused.
            MissingExtra: the package ``sigstore`` is not installed.
            Unavailable: a service of the instance refuses or does not answer.
            SignatureInvalid: what came back does not verify, or is over something else.
        """
        if payload_type != PAYLOAD_TYPE:
            raise InvalidConfig(f"keyless signatures are over in-toto statements, not over {payload_type!r}")
        _require_package()
        with _translated():
            config = self._config()
            bundle = _sign(config, self._token(config), payload)
        return _unpack(read_envelope(bundle), payload)

    def _config(self) -> ClientTrustConfig:
        from sigstore.models import ClientTrustConfig

        if self.trust_config:
            text = read_bytes(self.trust_config, "trust configuration", limit=_CONFIG_LIMIT)
            return ClientTrustConfig.from_json(text.decode("utf-8", "replace"))
        return ClientTrustConfig.staging() if self.staging else ClientTrustConfig.production()

    def _token(self, config: ClientTrustConfig) -> IdentityToken:
        from sigstore.oidc import IdentityToken, Issuer, detect_credential

        if self.interactive:
            return Issuer(config.signing_config.get_oidc_url()).identity_token()
        if self.token_file:
            raw = (
                read_bytes(self.token_file, "identity token", limit=_LIMIT, stream=True)
                .decode("ascii", "replace")
                .strip()
            )
        else:
            raw = detect_credential() or ""
        if not raw:
            raise UsageError("there is no identity token", hint=_HINT)
        return IdentityToken(raw)


def _require_package() -> None:
    try:
        import sigstore.sign  # noqa: F401  # imported where it is used; here only to say early what is missing
    except ImportError as error:
        hint = "pip install 'holdfast[sigstore]'"
        raise MissingExtra("keyless signing needs the package sigstore", hint=hint) from error


def _sign(config: ClientTrustConfig, token: IdentityToken, payload: bytes) -> bytes:
    """Sign, and verify what came back under the instance's trusted root: services are not taken at their word."""
    from sigstore.dsse import Statement
    from sigstore.sign import SigningContext
    from sigstore.verify import Verifier, policy

    with SigningContext.from_trust_config(config).signer(token) as signer:
        bundle = signer.sign_dsse(Statement(payload))
    # any name will do here: it is the token's, and whoever verifies demands the one he expects
    Verifier(trusted_root=config.trusted_root).verify_dsse(bundle, policy.UnsafeNoOp())
    text: str = bundle.to_json()
    return text.encode()


def _unpack(envelope: Envelope, payload: bytes) -> tuple[bytes, Material]:
    if envelope.payload != payload or envelope.payload_type != PAYLOAD_TYPE or len(envelope.signatures) != 1:
        raise SignatureInvalid("the signing service returned a signature over something else")
    return envelope.signatures[0].value, envelope.material


@contextmanager
def _translated() -> Iterator[None]:
    """Turn the errors of the sigstore package, some of them private to it, into ours; no token is in any of them."""
    from sigstore._internal.fulcio import ExpiredCertificate
    from sigstore._internal.fulcio.client import FulcioClientError
    from sigstore._internal.rekor import RekorClientError
    from sigstore.errors import Error, VerificationError
    from sigstore.oidc import ExpiredIdentity, IdentityError, IssuerError

    try:
        yield
    except (IdentityError, ExpiredIdentity) as error:
        raise UsageError(f"the identity token is refused: {error}", hint=_HINT) from error
    except VerificationError as error:
        raise SignatureInvalid(f"what the signing service returned does not verify: {error}") from error
    except (Error, FulcioClientError, RekorClientError, IssuerError, ExpiredCertificate, OSError) as error:
        raise Unavailable(f"the signing service refuses or does not answer: {error!r}") from error
    except HoldfastError:
        raise
    except (ValueError, KeyError) as error:
        raise Unavailable(f"the instance's configuration or answer is malformed: {type(error).__name__}") from error


def sigstore_signer(options: str, *, password: bytes | None = None) -> KeylessSigner:
    """Build the signer of ``sigstore:OPTION,OPTION``; raises :class:`InvalidConfig` for an unknown option."""
    if password is not None:
        raise InvalidConfig("a keyless signer has no password")
    given: dict[str, str | bool] = {}
    for item in filter(None, options.split(",")):
        key, equals, value = item.partition("=")
        if key not in (_VALUES if equals else _FLAGS) or (equals and not value) or key in given:
            raise InvalidConfig(f"a keyless signer does not take {item!r}", hint=_HINT)
        given[key] = value if equals else True
    return KeylessSigner(
        token_file=_text(given.get("token-file")),
        ambient="ambient" in given,
        interactive="interactive" in given,
        staging="staging" in given,
        trust_config=_text(given.get("trust-config")),
    )


def _text(value: str | bool | None) -> str:
    return value if isinstance(value, str) else ""
