"""Re-checking weights in memory: what was signed, loaded and verified can still change while it serves."""

from holdfast.signing.resident.audit import Audit, Sweep
from holdfast.signing.resident.drill import Drill, drill
from holdfast.signing.resident.incident import Incident
from holdfast.signing.resident.roots import Root, Source, roots_of
from holdfast.signing.resident.watch import watch

__all__ = ["Audit", "Drill", "Incident", "Root", "Source", "Sweep", "drill", "roots_of", "watch"]
