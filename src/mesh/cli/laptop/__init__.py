"""Laptop mode: a whole mesh on one machine, ended by one Ctrl-C."""

from mesh.cli.laptop.laptop import Laptop
from mesh.cli.laptop.plan import Options, Plan, PlanError, make_plan

__all__ = ["Laptop", "Options", "Plan", "PlanError", "make_plan"]
