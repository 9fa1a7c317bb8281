"""Lineage: who signed how a model came to be, joined by digest, back to data and models that are trusted."""

from holdfast.signing.lineage.graph import Edge, Graph, Node, build_graph
from holdfast.signing.lineage.origins import origin
from holdfast.signing.lineage.run import TrainingRun
from holdfast.signing.lineage.statements import ORIGIN_TYPE, Evidence
from holdfast.signing.lineage.steps import Circumstances, write_step, write_steps
from holdfast.signing.lineage.stored import identify, stored_manifest, stored_steps
from holdfast.signing.lineage.verify import Gap, VerifiedLineage, survey, verify_lineage

__all__ = [
    "ORIGIN_TYPE",
    "Circumstances",
    "Edge",
    "Evidence",
    "Gap",
    "Graph",
    "Node",
    "TrainingRun",
    "VerifiedLineage",
    "build_graph",
    "identify",
    "origin",
    "stored_manifest",
    "stored_steps",
    "survey",
    "verify_lineage",
    "write_step",
    "write_steps",
]
