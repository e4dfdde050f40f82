"""Several reports side by side on one page, each with a paragraph that says what to see in it.

Panels of one group are drawn on the same scales, so that their curves can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from initium._report.html import Page, backward_scale, forward_scale, page, render_template
from initium._report.records import Report

__all__ = ["Panel", "render_story"]

_TITLE = "What the first weights decide"
_LEAD = (
    "The weights that a network starts from decide whether anything can be learnt at all. Below, "
    "the same networks start from different weights; nothing else differs."
)


@dataclass(frozen=True, slots=True)
class Panel:
    """One start of one model.

    Attributes:
        title: the name of the start ("Xavier").
        explanation: one paragraph in plain words: what happens, and why.
        report: what the check found.
        group: heading of the panels to compare it with; by default the name of the model.
    """

    title: str
    explanation: str
    report: Report
    group: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """The panels under one heading, each with its prepared page."""

    title: str
    panels: tuple[tuple[Panel, Page], ...]


def render_story(panels: Sequence[Panel], *, title: str = _TITLE, lead: str = _LEAD) -> str:
    """The panels as one self-contained HTML page.

    Args:
        panels: in the order to show them; those with the same group stand together.
        title: heading of the page.
        lead: one paragraph under it.
    """
    return render_template(
        "story.html.j2",
        title=title,
        lead=lead,
        groups=_groups(panels),
        versions=panels[0].report.versions if panels else {},
    )


def _groups(panels: Sequence[Panel]) -> tuple[Group, ...]:
    members: dict[str, list[tuple[int, Panel]]] = {}
    for index, panel in enumerate(panels):
        members.setdefault(panel.group or panel.report.model, []).append((index, panel))
    groups = []
    for title, group in members.items():
        reports = [panel.report for _, panel in group]
        forward, backward = forward_scale(reports), backward_scale(reports)
        pages = tuple(
            (panel, page(panel.report, f"p{index}-", forward, backward)) for index, panel in group
        )
        groups.append(Group(title, pages))
    return tuple(groups)
