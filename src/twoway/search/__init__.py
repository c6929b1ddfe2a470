"""Vectors put to work: a database of what was embedded, and answers from it."""
