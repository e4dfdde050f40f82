"""The signal of a model, forward and backward, from its plan alone: no weights, no training."""

from initium._predict.api import predict
from initium._predict.records import LayerPrediction, Prediction

__all__ = ["LayerPrediction", "Prediction", "predict"]
