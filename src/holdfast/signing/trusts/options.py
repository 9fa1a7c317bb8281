"""The kinds of trust that come with options, as ``--trust NAME:option=value`` spells them.

Their implementations are imported when one is asked for, so that trust in a bare key starts quickly.
"""

from __future__ import annotations

from holdfast.signing.trust import Trust


def certificate_trust(
    *,
    roots: str,
    intermediates: str = "",
    identity: str = "",
    domain: str = "",
    identity_regex: str = "",
    subject: str = "",
    issuer: str = "",
    policy: str = "",
    at: str = "",
    tsa_roots: str = "",
    crls: str = "",
    allow_ca_leaf: bool = False,
) -> Trust:
    """Trust whoever holds a codeSigning certificate for a name, issued under ``roots``.

    Args:
        roots: PEM files, joined by ``+``, of the authorities at which a chain may end.
        intermediates: PEM files of further authorities.
        identity: email address, URI or host name of the signer, exactly.
        domain: accept every email address at exactly this domain.
        identity_regex: accept every name that this matches from end to end.
        subject: the certificate's whole subject, as RFC 4514 writes it, in parentheses if it has commas.
        issuer: likewise, the subject of whoever issued it.
        policy: object identifier of a certificate policy.
        at: verify as if at this time, ISO 8601 with a zone; now by default.
        tsa_roots: PEM files of the roots of timestamp authorities.
        crls: files of revocation lists; with any, each certificate of a chain must be covered by one.
        allow_ca_leaf: accept a signer whose certificate is an authority's too.
    """
    from holdfast.signing.trusts.certificate import build_certificate_trust

    options = {"roots": roots, "intermediates": intermediates, "identity": identity, "domain": domain}
    options |= {"pattern": identity_regex, "subject": subject, "issuer": issuer, "policy": policy}
    options |= {"at": at, "tsa_roots": tsa_roots, "crls": crls}
    return build_certificate_trust(options, allow_ca_leaf=allow_ca_leaf)


def timestamped_trust(*, trust: str, tsa_roots: str, at: str = "") -> Trust:
    """Trust another trust, if a timestamp says when it signed.

    Args:
        trust: whom; another specification goes in parentheses.
        tsa_roots: PEM files of the roots of timestamp authorities.
        at: verify as if at this time, ISO 8601 with a zone; now by default.
    """
    from holdfast.signing.trusts import load_trust
    from holdfast.signing.trusts.certificate import parse_time
    from holdfast.signing.trusts.timestamped import TimestampedTrust
    from holdfast.signing.x509 import read_files

    return TimestampedTrust(trust=load_trust(trust), tsa_roots=read_files(tsa_roots), at=parse_time(at))
