"""Each stage as a recipe that is read top to bottom; the only place where the parts meet."""
