"""Intel SGX and TDX: quotes signed by a quoting enclave, held against Intel's collateral of the evaluated time.

Collateral: ``collateral``, the JSON object of Intel's service (TCB information, quoting enclave's identity, both with
their signatures and chains, and the revocation lists). The arithmetic of signatures, TCB levels and lists is that of
``dcap-qvl``. What it reads over is required here: every chain ends in the pinned root, nothing follows the quote,
and a revoked platform or one that can be debugged is refused whatever a policy says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from holdfast._extras import extra
from holdfast.errors import PolicyError, SignatureInvalid, SignerUntrusted, UnreadableArtifact
from holdfast.evidence import canonical
from holdfast.shielding.attestation import chains
from holdfast.shielding.attestation.claims import Claims
from holdfast.shielding.attestation.dcap_quote import Quote, read_quote
from holdfast.shielding.attestation.evidence import Evidence
from holdfast.shielding.attestation.policy import Policy
from holdfast.shielding.attestation.roots import INTEL_SGX
from holdfast.shielding.attestation.verify import verifiers

MAX_COLLATERAL = 1 << 18  # bytes
_CHAINS = ("pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain")
_SGX = ("mrenclave", "mrsigner", "config_id", "isv_prod_id", "isv_ext_prod_id", "isv_family_id", "attributes")
_TDX = (
    "mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrseam", "mrsignerseam", "mrconfigid", "mrowner", "mrownerconfig",
    "mrservicetd", "td_attributes", "xfam",
)  # fmt: skip


class _Dcap:
    """What both kinds share."""

    tee: str

    def authenticate(self, evidence: Evidence, policy: Policy, at: datetime) -> Claims:
        """Return what the quote says, once it and its collateral are found authentic and current at ``at``."""
        quote = read_quote(evidence.body)
        if quote.tee != self.tee:
            raise UnreadableArtifact(f"this is a quote of {quote.tee}, not of {self.tee}")
        if quote.debug:  # said here because the library, which refuses it too, has no words for why
            raise PolicyError("the world can be debugged: its operator reads and changes its memory")
        collateral = _collateral(evidence.part("collateral"))
        roots = chains.trusted(policy, (INTEL_SGX,))
        chain = chains.from_pem(quote.chain, "chain of the quote")
        _require_plain(quote.chain, chain)
        root = chains.require_chain(chain, roots, at)
        for name in _CHAINS:
            chains.require_chain(chains.from_pem(collateral[name].encode(), name), roots, at)
        found = _verified(evidence.body, collateral, chain[-1].public_bytes(Encoding.DER), at)
        _require_same(quote, found)
        return _claims(quote, found, root)


@verifiers.register("sgx")
@dataclass(frozen=True)
class Sgx(_Dcap):
    """Verifies quotes of SGX enclaves."""

    tee = "sgx"


@verifiers.register("tdx")
@dataclass(frozen=True)
class Tdx(_Dcap):
    """Verifies quotes of TDX trust domains."""

    tee = "tdx"


def _require_plain(text: bytes, chain: tuple[x509.Certificate, ...]) -> None:
    """Refuse certificates written in any other way than the usual one: no signature covers line breaks and padding."""
    usual = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)
    if text.replace(b"\r\n", b"\n").strip(b"\n") != usual.strip(b"\n"):
        raise UnreadableArtifact("the chain of the quote holds something besides its certificates")


def _collateral(data: bytes) -> dict[str, str]:
    value = canonical.loads(data, what="the collateral", max_bytes=MAX_COLLATERAL)
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise UnreadableArtifact("the collateral is no JSON object of texts")
    if missing := [name for name in _CHAINS if name not in value]:
        raise UnreadableArtifact(f"the collateral has no {missing[0]}")
    return value


def _verified(body: bytes, collateral: Mapping[str, str], root: bytes, at: datetime) -> dict[str, Any]:
    """Return the detailed claims of ``dcap-qvl``, which judges nothing but authenticity and time.

    Raises:
        UnreadableArtifact: it cannot read the collateral.
        SignatureInvalid: it finds anything forged, expired or of another platform; the message is its own.
    """
    dcap_qvl = extra("dcap_qvl", name="tee", needs="SGX and TDX quotes need dcap-qvl")
    try:
        parts = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(dict(collateral)))
    except ValueError as error:
        raise UnreadableArtifact(f"the collateral is unreadable: {_first_line(error)}") from error
    seconds = int(at.timestamp())
    try:
        verifier = dcap_qvl.QuoteVerifier(root)
        found = verifier.verify_with_policy(body, parts, seconds, dcap_qvl.QuotePolicy.claims_only(seconds))
    except (ValueError, OverflowError) as error:
        why = _explained(dcap_qvl, (body, parts, root, seconds), error)
        hint = "the collateral must be current at the time to evaluate for" if "xpired" in why else ""
        raise SignatureInvalid(f"the quote does not verify: {why}", hint=hint) from error
    value: dict[str, Any] = json.loads(found.to_json())
    return value


def _explained(library: Any, call: tuple[Any, ...], error: Exception) -> str:
    """Return why a quote was refused; the library's older entry names the cause as well, the newer only the step."""
    try:
        library.verify_with_root_ca(*call)
    except (ValueError, OverflowError) as fuller:
        return _first_line(fuller)
    return _first_line(error)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).removeprefix("Verification failed: ").split())[:300]


def _require_same(quote: Quote, found: Mapping[str, Any]) -> None:
    """Refuse when the two readers of one quote disagree about what was signed."""
    report = next(iter(found["report"].values()))
    report = report.get("base", report)
    name, ours = ("mr_enclave", "mrenclave") if quote.tee == "sgx" else ("mr_td", "mrtd")
    same = report.get(name) == quote.fields[ours].hex()
    if not same or report.get("report_data") != quote.fields["report_data"].hex():
        raise SignatureInvalid("the quote can be read in two ways")


def _claims(quote: Quote, found: Mapping[str, Any], root: str) -> Claims:
    tcb, pck = found["tcb"], found["platform"]["pck"]
    if tcb["status"] == "Revoked":
        raise SignerUntrusted("the platform's patch level is revoked")
    fields = quote.fields
    names = [name for name in (_SGX if quote.tee == "sgx" else _TDX) if name in fields]
    return Claims(
        kind=quote.tee,
        root=root,
        identity=bytes(pck["ppid"]).hex(),
        measurements={name: fields[name].hex() for name in names},
        versions=_versions(quote) | {"tcb_evaluation": tcb["eval_data_number"], "pce_svn": pck["pce_svn"]},
        report_data=fields["report_data"],
        filled=True,
        debug=False,
        tcb=tcb["status"],
        advisories=tuple(tcb["advisory_ids"]),
        unrevoked=True,  # the library has no way without lists
        details={
            "fmspc": bytes(pck["fmspc"]).hex(),
            "quote_version": str(quote.version),
            "smt": str(pck["smt_enabled"]).lower(),
        },
    )


def _versions(quote: Quote) -> dict[str, int]:
    if quote.tee == "sgx":
        return {name: int.from_bytes(quote.fields[name], "little") for name in ("isv_svn", "config_svn")}
    return {"tdx_module_svn": quote.fields["tee_tcb_svn"][0]}
