"""Recipes: a base model and stages in order; run, planned, checked and prepared."""
