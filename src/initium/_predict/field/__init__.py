"""The closed-form tier: moments that are exact at infinite width, carried along a lazy draw."""
