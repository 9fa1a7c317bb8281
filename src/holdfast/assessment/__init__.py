"""The main job: everything Holdfast can say about one model, measured, signed and shown."""

from holdfast.assessment.assess import Assessment, assess
from holdfast.assessment.demo import assess_demo
from holdfast.assessment.effort import EFFORTS, Effort

__all__ = ["EFFORTS", "Assessment", "Effort", "assess", "assess_demo"]
