"""What PostgreSQL says of how it would carry out a query: EXPLAIN (FORMAT JSON)."""

from __future__ import annotations

from typing import Any


def relations(plan: Any) -> set[str]:
    """The tables that a plan reads."""
    if isinstance(plan, list):
        return set().union(*map(relations, plan))
    if not isinstance(plan, dict):
        return set()
    here = {plan["Relation Name"]} if "Relation Name" in plan else set()
    return here.union(*map(relations, plan.values()))
