"""Which node computes where: measured costs, exact solutions, and the published rules on the same graph."""

from holdfast.shielding.planner.costs import SIGHTS, Cost, Placement, Sight, cost
from holdfast.shielding.planner.inference import inferable, spread
from holdfast.shielding.planner.machine import Law, Laws, Machine, measure
from holdfast.shielding.planner.plan import Plan, Row, plan
from holdfast.shielding.planner.rules import PrivateAdapters, Rule, protect, public_nodes, rules
from holdfast.shielding.planner.workload import Node, Workload, workload

__all__ = [
    "SIGHTS",
    "Cost",
    "Law",
    "Laws",
    "Machine",
    "Node",
    "Placement",
    "Plan",
    "PrivateAdapters",
    "Row",
    "Rule",
    "Sight",
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
