"""Rules, recipes and the plan: which spec every parameter and buffer starts from, and why."""

from initium._plan.build import plan_model
from initium._plan.diff import PlanDiff
from initium._plan.explain import explain
from initium._plan.needs import Need
from initium._plan.plan import Entry, Plan
from initium._plan.recipe import Recipe, parse_recipe
from initium._plan.rules import Choice, Rule

__all__ = [
    "Choice",
    "Entry",
    "Need",
    "Plan",
    "PlanDiff",
    "Recipe",
    "Rule",
    "explain",
    "parse_recipe",
    "plan_model",
]
