"""AMD SEV-SNP: a report signed by the chip's key, whose certificate AMD's intermediate and root issued.

Collateral: ``vcek`` (DER; the certificate of the chip's key at one patch level, or of the cloud's, a VLEK) and
``chain`` (PEM; intermediate, then root, as AMD publishes it for Milan, Genoa and Turin). Optionally ``crl`` (DER), the
list of revoked intermediates that the root signs.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from holdfast.errors import SignatureInvalid, SignerUntrusted
from holdfast.shielding.attestation import chains, der
from holdfast.shielding.attestation.claims import Claims
from holdfast.shielding.attestation.crl import require_listed_nowhere
from holdfast.shielding.attestation.evidence import Evidence
from holdfast.shielding.attestation.policy import Policy
from holdfast.shielding.attestation.roots import AMD
from holdfast.shielding.attestation.snp_report import (
    MIGRATION_AGENT,
    SMT,
    VCEK,
    VLEK,
    Report,
    read_report,
    tcb_versions,
)
from holdfast.shielding.attestation.verify import verifiers

_ARC = "1.3.6.1.4.1.3704.1"  # AMD's extensions
_TCB = {"bootloader": ".3.1", "tee": ".3.2", "snp": ".3.3", "microcode": ".3.8", "fmc": ".3.9"}
_PRODUCT, _HARDWARE = f"{_ARC}.2", f"{_ARC}.4"
_WHAT = "certificate of the chip's key"


@verifiers.register("sev-snp")
@dataclass(frozen=True, slots=True)
class SevSnp:
    """Verifies SEV-SNP reports."""

    def authenticate(self, evidence: Evidence, policy: Policy, at: datetime) -> Claims:
        """Return what the report says, once it, its key and the key's chain are found authentic at ``at``."""
        report = read_report(evidence.body)
        leaf = der.read_certificate(evidence.part("vcek"), _WHAT)
        chain = chains.from_pem(evidence.part("chain"), "chain of AMD certificates")
        root = chains.require_chain(chain, chains.trusted(policy, AMD), at)
        _require_issued(leaf, chain[0], at)
        listed = require_listed_nowhere(chain, evidence, policy, at)
        chains.require_signed(leaf.key, report.signature, report.signed, "SEV-SNP report")
        product = _product(leaf)
        if AMD.get(root, product) != product:
            raise SignerUntrusted(f"the root of {AMD[root]} processors vouches for one of {product}")
        _require_same_platform(report, leaf, product)
        return _claims(report, product, root, unrevoked=listed)


def _require_issued(leaf: der.BareCertificate, issuer: x509.Certificate, at: datetime) -> None:
    if not leaf.start <= at <= leaf.end:
        raise SignerUntrusted(
            f"the {_WHAT} is valid from {leaf.start:%F %T} to {leaf.end:%F %T} UTC, not at {at:%F %T}"
        )
    key = issuer.public_key()
    if leaf.issuer != issuer.subject.public_bytes() or not isinstance(key, rsa.RSAPublicKey):
        raise SignatureInvalid(f"the {_WHAT} was not issued by {issuer.subject.rfc4514_string()!r}")
    scheme = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)
    try:
        key.verify(leaf.signature, leaf.signed, scheme, hashes.SHA384())
    except InvalidSignature as error:
        raise SignatureInvalid(f"the {_WHAT} was not issued by {issuer.subject.rfc4514_string()!r}") from error


def _product(leaf: der.BareCertificate) -> str:
    """Return the processor line, ``Milan`` of ``Milan-B0``."""
    if _PRODUCT not in leaf.extensions:
        raise SignerUntrusted(f"the {_WHAT} does not name the processor")
    return der.text(leaf.extensions[_PRODUCT], _WHAT).partition("-")[0]


def _require_same_platform(report: Report, leaf: der.BareCertificate, product: str) -> None:
    """Refuse a report and a certificate of different patch levels: the key is derived from the level."""
    for name, reported in tcb_versions(report.reported_tcb, product).items():
        stated = leaf.extensions.get(_ARC + _TCB[name])
        if stated is None or der.integer(stated, _WHAT) != reported:
            raise SignerUntrusted(f"the {_WHAT} is for another patch level ({name}) than the report's {reported}")
    hardware = leaf.extensions.get(_HARDWARE)
    if report.signing_key not in (VCEK, VLEK) or (hardware is not None) != (report.signing_key == VCEK):
        raise SignerUntrusted("the report names another kind of key than the one it comes with")
    named = any(report.chip_id)  # a host may have the chip's name left out; the key is still that chip's own
    if hardware is not None and named and report.chip_id != hardware.ljust(64, b"\0"):
        raise SignerUntrusted(f"the {_WHAT} is that of another chip")


def _claims(report: Report, product: str, root: str, *, unrevoked: bool) -> Claims:
    tcb = {f"tcb.{name}": value for name, value in tcb_versions(report.reported_tcb, product).items()}
    committed = {f"committed.{name}": value for name, value in tcb_versions(report.committed_tcb, product).items()}
    named = {
        "measurement": report.measurement,
        "host_data": report.host_data,
        "id_key_digest": report.id_key_digest,
        "author_key_digest": report.author_key_digest,
        "family_id": report.family_id,
        "image_id": report.image_id,
        "vmpl": bytes((min(report.vmpl, 255),)),
        "guest_policy": report.policy.to_bytes(8, "big"),
        "platform_info": report.platform_info.to_bytes(8, "big"),
    }
    return Claims(
        kind="sev-snp",
        root=root,
        identity=report.chip_id.hex(),
        measurements={name: value.hex() for name, value in named.items()},
        versions=tcb | committed | {"guest_svn": report.guest_svn, "report": report.version},
        report_data=report.report_data,
        filled=True,
        debug=report.debug,
        unrevoked=unrevoked,
        details={
            "processor": product,
            "smt": str(bool(report.policy & SMT)).lower(),
            "migration_agent": str(bool(report.policy & MIGRATION_AGENT)).lower(),
            "firmware": ".".join(map(str, report.current_build)),
            "key": "vlek" if report.signing_key == VLEK else "vcek",
        },
    )
