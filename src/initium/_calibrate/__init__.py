"""Rescaling real weights to data: what LSUV does, in execution order, for any kind of layer."""

from initium._calibrate.api import calibrate
from initium._calibrate.records import Calibration, LeftAlone, Scaled

__all__ = ["Calibration", "LeftAlone", "Scaled", "calibrate"]
