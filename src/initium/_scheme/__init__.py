"""What is known about initialisation: activations, their gains, and the cited schemes."""
