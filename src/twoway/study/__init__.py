"""Studies: a grid of recipes and seeds, run once, and what it says about the papers' claims."""
