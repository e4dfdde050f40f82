"""The signal of a model, forward and backward, from its plan alone: no weights, no training."""

from initium._predict.api import predict
from initium._predict.edge import model_edges
from initium._predict.grid import Grid, predict_grid
from initium._predict.records import LayerPrediction, Prediction

__all__ = ["Grid", "LayerPrediction", "Prediction", "model_edges", "predict", "predict_grid"]
