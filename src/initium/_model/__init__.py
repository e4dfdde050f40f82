"""Plumbing between torch modules and the rest: canonical names, calls, and leaving things as found."""
