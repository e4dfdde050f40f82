"""Weights that are never made: each product is drawn, from its exact law, when it is asked for."""
