"""Studies: a grid of arms and seeds, and verdicts on the papers' claims."""
