"""Which node computes where: measured costs, exact solutions, and the published rules on the same graph."""

from holdfast.shielding.planner.adapters import PrivateAdapters, public_nodes
from holdfast.shielding.planner.costs import SIGHTS, Cost, Placement, Sight, cost
from holdfast.shielding.planner.deadline import Deadline, protect
from holdfast.shielding.planner.inference import inferable, spread
from holdfast.shielding.planner.machine import Law, Laws, Machine, measure
from holdfast.shielding.planner.optimal import Optimal
from holdfast.shielding.planner.plan import Plan, Row, plan
from holdfast.shielding.planner.published import Slalom
from holdfast.shielding.planner.rule import Rule, rules
from holdfast.shielding.planner.workload import Node, Workload, workload

__all__ = [
    "SIGHTS",
    "Cost",
    "Deadline",
    "Law",
    "Laws",
    "Machine",
    "Node",
    "Optimal",
    "Placement",
    "Plan",
    "PrivateAdapters",
    "Row",
    "Rule",
    "Sight",
    "Slalom",
    "Workload",
    "cost",
    "inferable",
    "measure",
    "plan",
    "protect",
    "public_nodes",
    "rules",
    "spread",
    "workload",
]
