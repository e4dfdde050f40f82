"""What takes more than one pass: steps, ranks, Jacobians, pairs, samples, seeds, widths."""
