"""From a plan to weights: into a model, into one tensor, or into plain torch code."""
