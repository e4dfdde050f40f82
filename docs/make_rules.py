"""Writes rules.md: what a rule may say, from the code that reads rules.

Run `python docs/make_rules.py` after a rule, formula or recipe file can say something new; a test
holds the page to the code. `initium explain rules` prints the same.
"""

from __future__ import annotations

from pathlib import Path

from initium._plan.reference import reference

PAGE = Path(__file__).parent / "rules.md"

if __name__ == "__main__":
    PAGE.write_text(reference())
