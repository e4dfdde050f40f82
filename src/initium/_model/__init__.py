"""Between torch modules and the rest: canonical names, batches, calls, leaving things as found."""
