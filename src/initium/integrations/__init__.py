"""Callbacks for trainers: a check at step zero, and an eye on the first steps. On any init.

``trainer_callback`` is for the Trainer of Transformers, ``lightning_callback`` for that of
Lightning; both packages are imported when their callback is made.

Not covered: models whose parameters are sharded; the watch sees what each process holds.
"""

from __future__ import annotations

from initium.integrations._lightning import lightning_callback
from initium.integrations._trainer import trainer_callback
from initium.integrations._watch import StartWarning, UnhealthyStart, Watch, WatchedStep

__all__ = [
    "StartWarning",
    "UnhealthyStart",
    "Watch",
    "WatchedStep",
    "lightning_callback",
    "trainer_callback",
]
