"""Recipes: a model to start from and stages one after the other; run, planned, checked and prepared."""
