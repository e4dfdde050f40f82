"""``python -m initium`` is the command line."""

from __future__ import annotations

from initium._cli import main

main()
