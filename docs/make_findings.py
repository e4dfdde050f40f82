"""Writes findings.md: every finding's code with symptom, cause, example, fix and sources.

Run `python docs/make_findings.py` after `_report/codes.toml` has changed; a test holds the page to
it.
"""

from __future__ import annotations

from pathlib import Path

from initium._report.codes import page

PAGE = Path(__file__).parent / "findings.md"

if __name__ == "__main__":
    PAGE.write_text(page())
