"""What init code does to a model: every write, what was never written, and what it amounts to."""

from initium._audit.api import audit
from initium._audit.records import Audit

__all__ = ["Audit", "audit"]
