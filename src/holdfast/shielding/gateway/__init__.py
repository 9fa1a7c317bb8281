"""What an application calls: requests in, answers out, and a pool of shielded sessions that outlives its workers."""

from holdfast.shielding.gateway.attested import AttestedGateway, dial_gateway
from holdfast.shielding.gateway.audit import Audit
from holdfast.shielding.gateway.gateway import Gateway
from holdfast.shielding.gateway.jobs import Job
from holdfast.shielding.gateway.metrics import Metrics
from holdfast.shielding.gateway.pool import Pool
from holdfast.shielding.gateway.refusal import Outcome, Refused
from holdfast.shielding.gateway.settings import Settings
from holdfast.shielding.gateway.signature import Signature
from holdfast.shielding.gateway.sources import Opened, Source, sources

__all__ = [
    "AttestedGateway",
    "Audit",
    "Gateway",
    "Job",
    "Metrics",
    "Opened",
    "Outcome",
    "Pool",
    "Refused",
    "Settings",
    "Signature",
    "Source",
    "dial_gateway",
    "sources",
]
