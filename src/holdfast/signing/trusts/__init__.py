"""Whom to believe, as data: a PEM file, or the scheme of a URI that names a kind of trust."""

from __future__ import annotations

import re
from pathlib import Path

from holdfast._registry import Registry, unknown
from holdfast.errors import InvalidConfig
from holdfast.signing.keys import PublicKey, load_public
from holdfast.signing.trust import Trust
from holdfast.signing.trusts.key import KeyTrust
from holdfast.signing.trusts.options import certificate_trust, timestamped_trust
from holdfast.signing.trusts.threshold import Threshold

TrustSource = Trust | PublicKey | bytes | Path | str
TrustSources = TrustSource | list[TrustSource] | tuple[TrustSource, ...]

trusts: Registry[Trust] = Registry("trust", "holdfast.trusts")
trusts.register("certificate")(certificate_trust)
trusts.register("timestamped")(timestamped_trust)


@trusts.register("key")
def key_trust(path: str) -> KeyTrust:
    """Trust the public key in the PEM file at ``path``."""
    return KeyTrust(load_public(path))


@trusts.register("keyset")
def keyset_trust(path: str, root: str, at: str = "", threshold: int = 0, tsa_roots: str = "") -> Trust:
    """Trust the signed key set at ``path``; see :func:`holdfast.signing.trusts.keyset.keyset_trust`."""
    from holdfast.signing.trusts import keyset  # it reads signed statements, which need trusts

    return keyset.keyset_trust(path, root, at, threshold, tsa_roots)


@trusts.register("sigstore")
def sigstore_trust(
    issuer: str, root: str, *, identity: str = "", domain: str = "", identity_regex: str = "", at: str = ""
) -> Trust:
    """Trust what an identity signed keylessly; see :func:`holdfast.signing.trusts.sigstore.sigstore_trust`."""
    from holdfast.signing.trusts import sigstore  # certificates cost a start-up that keys do without

    return sigstore.sigstore_trust(issuer, root, identity=identity, domain=domain, identity_regex=identity_regex, at=at)


def load_trust(source: TrustSource) -> Trust:
    """Return a trust from itself, a public key, PEM bytes, a PEM file, or the specification of a kind of trust.

    A specification reads ``key:PATH`` or ``NAME:option=value,option=value``.

    Raises:
        UnreadableArtifact: no PEM public key of a supported kind; a private key is refused by name.
        UnknownName: no such kind of trust, and no such file.
    """
    if isinstance(source, PublicKey | bytes | Path):
        return KeyTrust(load_public(source))
    if not isinstance(source, str):
        return source
    scheme, colon, rest = source.partition(":")
    if colon and scheme in trusts.names() and not Path(source).exists():
        return trusts.build(source) if "=" in rest else trusts.get(scheme)(rest)
    if colon and re.fullmatch(r"[a-z0-9-]+", scheme) and not Path(source).exists():
        raise unknown("trust", scheme, trusts.names())
    return KeyTrust(load_public(source))


def require_threshold(
    sources: TrustSource | list[TrustSource] | tuple[TrustSource, ...], needed: int | None = None
) -> Threshold:
    """Return the trust that asks for ``needed`` of ``sources`` to have signed; all of them by default.

    Raises:
        InvalidConfig: nobody is named, somebody twice, or more are needed than there are.
    """
    several = sources if isinstance(sources, list | tuple) else [sources]
    members = tuple(load_trust(item) for item in several)
    if not members:
        raise InvalidConfig("verification needs somebody to trust", hint="--trust KEY.pub")
    return Threshold(members, len(members) if needed is None else needed)


__all__ = ["KeyTrust", "Threshold", "TrustSource", "TrustSources", "load_trust", "require_threshold", "trusts"]
